"""A board without a runtime gets it from here, whole and once; it needs neither internet nor pip."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from edgebuild.backends import table
from edgebuild.errors import DeviceError, EnvironmentGap, Interrupted
from edgebuild.fleet.enrol import look_again
from edgebuild.fleet.inventory import save_entry
from edgebuild.fleet.provision import provision
from tests.cli.example import run, write_project
from tests.devices.wheels import DEVICE, make_wheel

if TYPE_CHECKING:
    from .rig import Board

PROFILE = """
title = "Toy"
backend = "toy"
requires_arch = ["x86_64", "aarch64"]
precisions = ["fp32"]

[[settings]]
threads = 1
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose target runs on a runtime of our own, and an index on disk that has it."""
    project = tmp_path / "project"
    for kind, text in (("targets", 'title = "Toy"\nprofiles = ["toy"]\n'), ("profiles", PROFILE)):
        (project / kind).mkdir(parents=True)
        (project / kind / "toy.toml").write_text(text)
    device_file = tmp_path / "device.py"
    device_file.write_text(DEVICE)
    backend = SimpleNamespace(
        name="toy", device_file=device_file, distributions=("toyrt",), install_hint="carry it there in a bucket"
    )
    monkeypatch.setattr(table, "TABLE", (backend,))
    index = tmp_path / "index"
    make_wheel(index, files={"toyrt/weights": os.urandom(300_000)}, requires=["toyold; python_version < '3.9'"])
    make_wheel(index, "toyold", files={"toyold/weights": os.urandom(300_000)})
    for name, value in (
        ("EDGEBUILD_DEVICES", tmp_path / "devices.toml"),
        ("XDG_CACHE_HOME", tmp_path / "cache"),
        ("PIP_CONFIG_FILE", os.devnull),
        ("PIP_NO_INDEX", "1"),
        ("PIP_FIND_LINKS", index),
    ):
        monkeypatch.setenv(name, str(value))
    return project


def sites(board: Board) -> list[str]:
    folder = board.root / "edgebuild" / "site"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("number", [0, 2])
def test_a_runtime_is_put_on_a_board_once(boards: list[Board], toy: Path, number: int) -> None:
    board = boards[number]
    done = provision(board.entry("toy"), toy)
    old = number == 2 and board.python != sys.executable
    assert done.runtimes == {"toy": "1.0"}
    # pip reads markers on this machine; the board's own Python counts.
    assert done.wheels == (("toyold 1.0", "toyrt 1.0") if old else ("toyrt 1.0",))
    assert done.sent_bytes > 300_000
    assert sites(board) == [Path(done.entry.site).name]
    saved = tomllib.loads(Path(os.environ["EDGEBUILD_DEVICES"]).read_text())["devices"][done.entry.name]
    assert saved["site"] == done.entry.site
    assert saved["facts"]["runtime.toy"] == "1.0"
    checked = {finding.what: finding.found for finding in look_again(done.entry, toy)}
    assert checked["runtime.toy"] == "1.0"
    before = {path: path.stat().st_mtime_ns for path in (board.root / "edgebuild" / "site").rglob("*")}
    cable = board.sent_bytes()
    again = provision(done.entry, toy)
    assert (again.sent_bytes, again.runtimes, again.entry.site) == (0, {"toy": "1.0"}, done.entry.site)
    assert board.sent_bytes() - cable < 150_000, "what connecting and asking takes"
    assert before == {path: path.stat().st_mtime_ns for path in (board.root / "edgebuild" / "site").rglob("*")}
    board.wait_until_idle(5.0)


def test_an_interrupted_sending_goes_on_and_nothing_is_there_before_all_is(boards: list[Board], toy: Path) -> None:
    board = boards[2]
    blobs = board.root / "edgebuild" / "blobs"

    def stop_amidst() -> None:
        if blobs.exists() and list(blobs.iterdir()):
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        provision(board.entry("toy"), toy, check=stop_amidst)
    assert sites(board) == []
    assert not Path(os.environ["EDGEBUILD_DEVICES"]).exists()
    whole = sum(path.stat().st_size for path in Path(os.environ["XDG_CACHE_HOME"]).rglob("*.whl"))
    done = provision(board.entry("toy"), toy)
    assert 0 <= done.sent_bytes <= whole - 300_000
    assert done.runtimes == {"toy": "1.0"}


@pytest.mark.proof
def test_a_board_without_the_room_is_told_before_anything_is_sent(board: Board, toy: Path) -> None:
    board.fill_disk(leave_bytes=400_000)
    with pytest.raises(DeviceError, match=r"needs 1 MB, and 0 MB are free on the disk of .*edgebuild"):
        provision(board.entry("toy"), toy)
    assert not (board.root / "edgebuild" / "blobs").exists()
    (board.root / "filler").unlink()
    with pytest.raises(DeviceError, match="don't fit into the quota of 500000 bytes"):
        provision(board.entry("toy", quota_gb=0.0005), toy)
    assert not (board.root / "edgebuild" / "blobs").exists()
    assert provision(board.entry("toy"), toy).runtimes == {"toy": "1.0"}


@pytest.mark.proof
def test_the_quota_takes_packages_that_are_not_in_use(board: Board, toy: Path, tmp_path: Path) -> None:
    used = provision(board.entry("toy"), toy).entry
    other = board.root / "edgebuild" / "site" / ("0" * 64)
    shutil.copytree(used.site, other)
    source = tmp_path / "blob"
    source.write_bytes(bytes(500_000))
    from edgebuild.fleet.connect import connect

    device = connect(used.model_copy(update={"quota_gb": 0.001}))
    try:
        device.put(source, "blobs/blob")
    finally:
        device.close()
    assert sites(board) == [Path(used.site).name]
    assert (board.root / "edgebuild" / "blobs" / "blob").exists()


def test_a_runtime_that_comes_no_such_way_says_which(board: Board, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (backend,) = table.TABLE
    other = SimpleNamespace(**{**vars(backend), "distributions": ()})
    monkeypatch.setattr(table, "TABLE", (other,))
    done = provision(board.entry("toy"), toy)
    assert done.lacking == (("toy", "carry it there in a bucket"),)
    assert (done.wheels, done.sent_bytes, done.entry.site) == ((), 0, "")
    assert sites(board) == []


def test_a_runtime_that_no_index_has_is_one_sentence(board: Board, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(toy))
    with pytest.raises(
        EnvironmentGap, match=r"pip finds no wheels of toyrt for Python 3\.\d+ on \w+ with glibc 2\.\d+"
    ):
        provision(board.entry("toy"), toy)
    assert sites(board) == []


@pytest.mark.proof
def test_a_newer_runtime_takes_the_place_of_the_older_once_it_loads(board: Board, toy: Path, tmp_path: Path) -> None:
    first = provision(board.entry("toy"), toy).entry
    shutil.rmtree(tmp_path / "cache")
    make_wheel(tmp_path / "index", version="2.0", files={"toyrt/__init__.py": b"import not_there\n"})
    with pytest.raises(EnvironmentGap, match="toy doesn't load on this device: No module named 'not_there'"):
        provision(first, toy)
    assert sites(board) == [Path(first.site).name]
    assert {f.what: f.found for f in look_again(first, toy)}["runtime.toy"] == "1.0"
    shutil.rmtree(tmp_path / "cache")
    make_wheel(tmp_path / "index", version="2.0")
    done = provision(first, toy)
    assert done.runtimes == {"toy": "2.0"}
    assert done.entry.site != first.site
    assert len(sites(board)) == 2


@pytest.mark.proof
@pytest.mark.parametrize("number", [0, 2])
def test_a_model_is_built_on_a_board_that_had_no_runtime(
    boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The real thing, from the package index: onnxruntime on a bare Python, the oldest and this one's, then a build."""
    board = boards[number]
    bare = board.python if number == 2 else getattr(sys, "_base_executable", sys.executable)
    project = write_project(tmp_path / "project")
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # The board's own disk is too small for numpy.
    entry = board.entry("quick", python=bare, root=str(board.folder / "large"))
    save_entry(entry)
    for words, said in (
        (("device", "provision", entry.name), "MB were sent"),
        (("device", "provision", entry.name), "nothing was sent"),
        (("device", "check", entry.name), "runtime.onnxruntime: 1."),
    ):
        ended = run(*words, "--project", str(project), cwd=tmp_path)
        assert ended.code == 0, ended
        assert said in ended.out
    built = run("build", "--device", entry.name, cwd=project)
    assert built.code in {0, 4}, built.err  # on a noisy machine the speed may stay open; the accuracy doesn't
    assert f"ssh-{entry.name}" in next((project / ".edgebuild" / "builds").glob("*/build.json")).read_text()
