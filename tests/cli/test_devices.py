"""`edgebuild device …`, and a build on a board behind a real sshd, through the CLI process."""

from __future__ import annotations

import getpass
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.example import run
from tests.devices.sshd import Board, board, needs_sshd
from tests.devices.wheels import make_wheel

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_sshd
__all__ = ["board"]  # the fixture


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "devices.toml"
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return path


def add(board: Board, tmp_path: Path, *more: str, target: str = "this-machine") -> tuple[str, ...]:
    from edgebuild.devices.ssh.connection import fingerprint

    return (
        "device",
        "add",
        "bench",
        "--target",
        target,
        "--ssh",
        f"{getpass.getuser()}@127.0.0.1:{board.port}",
        "--key",
        str(board.folder / "user_key"),
        "--root",
        str(tmp_path / "board"),
        "--python",
        sys.executable,
        *(more or ("--host-key", fingerprint(board.host_key))),
    )


def test_a_board_is_enrolled_looked_at_and_removed(board: Board, inventory: Path, tmp_path: Path) -> None:
    added = run(*add(board, tmp_path), cwd=tmp_path)
    assert added.code == 0, added
    text = inventory.read_text()
    assert board.host_key in text
    assert "PRIVATE" not in text
    assert "bench" in run("device", "list", cwd=tmp_path).out
    checked = run("device", "check", "bench", cwd=tmp_path)
    assert checked.code == 0, checked
    assert "host key as pinned" in checked.out
    assert run(*add(board, tmp_path), cwd=tmp_path).code == 2
    removed = run("device", "remove", "bench", "--files", cwd=tmp_path)
    assert removed.code == 0, removed
    assert not (tmp_path / "board").exists()
    assert "No devices" in run("device", "list", cwd=tmp_path).out


def test_a_folder_that_holds_anything_else_is_neither_taken_nor_removed(
    board: Board, inventory: Path, tmp_path: Path
) -> None:
    """Whether it is named when the board is added, or stands in the inventory already."""
    from edgebuild.devices.ssh.connection import fingerprint

    kept = tmp_path / "board" / "work" / "thesis"
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    given = ("--host-key", fingerprint(board.host_key))
    for root in (tmp_path / "board", "~/"):
        added = run(*add(board, tmp_path, *given, "--root", str(root)), cwd=tmp_path)
        assert added.code == 2, (root, added)
        assert "on the board" in added.err
    assert not inventory.exists()
    assert run(*add(board, tmp_path, *given, "--root", str(tmp_path / "new")), cwd=tmp_path).code == 0
    inventory.write_text(inventory.read_text().replace(str(tmp_path / "new"), str(tmp_path / "board")))
    removed = run("device", "remove", "bench", "--files", cwd=tmp_path)
    assert removed.code == 2, removed
    assert "isn't empty, and isn't a folder of edgebuild's" in removed.err
    assert kept.read_text() == "precious"
    assert run("device", "remove", "bench", cwd=tmp_path).code == 0


def test_files_of_the_user_s_in_the_folder_stay(board: Board, inventory: Path, tmp_path: Path) -> None:
    assert run(*add(board, tmp_path), cwd=tmp_path).code == 0
    (tmp_path / "board" / "thesis").write_text("precious")
    removed = run("device", "remove", "bench", "--files", cwd=tmp_path)
    assert removed.out.splitlines()[-1] == "What isn't edgebuild's stayed in its folder: thesis."
    assert [path.name for path in (tmp_path / "board").iterdir()] == ["thesis"]


def test_a_host_key_is_never_trusted_at_first_sight(board: Board, inventory: Path, tmp_path: Path) -> None:
    nobody = run(*add(board, tmp_path, "--project", "."), cwd=tmp_path)
    assert nobody.code == 2, nobody
    assert "--host-key" in nobody.err
    wrong = run(*add(board, tmp_path, "--host-key", "SHA256:AAAA"), cwd=tmp_path)
    assert wrong.code == 5, wrong
    assert "SHA256:AAAA" in wrong.err
    assert not inventory.exists()


@pytest.mark.proof
def test_a_board_behind_another_host_is_enrolled_through_it(board: Board, inventory: Path, tmp_path: Path) -> None:
    from edgebuild.devices.ssh.connection import fingerprint

    key, through = fingerprint(board.host_key), f"{getpass.getuser()}@127.0.0.1:{board.port}"
    asked = run(*add(board, tmp_path, "--host-key", key, "--jump", through), cwd=tmp_path)
    assert asked.code == 2, asked
    assert "--jump-host-key" in asked.err
    added = run(*add(board, tmp_path, "--host-key", key, "--jump", through, "--jump-host-key", key), cwd=tmp_path)
    assert added.code == 0, added
    assert f'jump = "{through}"' in inventory.read_text()
    assert run("device", "check", "bench", cwd=tmp_path).code == 0


def test_a_board_that_is_not_its_target_is_refused(board: Board, inventory: Path, tmp_path: Path) -> None:
    ended = run(*add(board, tmp_path, target="raspberry-pi-5"), cwd=tmp_path)
    assert ended.code == 2, ended
    assert "[facts].arch" in ended.err
    assert not inventory.exists()


@pytest.mark.proof
def test_a_bench_on_a_board_needs_no_project(
    board: Board, inventory: Path, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run(*add(board, tmp_path), cwd=tmp_path).code == 0
    measured = run("bench", "model.onnx", "--device", "bench", "--quick", "--threads", "1", cwd=project)
    assert measured.code == 0, measured
    assert "Device ssh-bench" in measured.out
    assert run("bench", "model.onnx", "--device", "other", cwd=project).code == 2


@pytest.mark.proof
def test_several_targets_are_each_built_where_they_are(
    board: Board, inventory: Path, tmp_path: Path, project: Path
) -> None:
    """One is this machine, the other a board: a build there is as one here, and its files are sent once."""
    from edgebuild.devices.ssh.connection import fingerprint

    known = ("--host-key", fingerprint(board.host_key), "--project", str(project))
    (project / "targets" / "second.toml").write_text((project / "targets" / "quick.toml").read_text())
    assert run(*add(board, tmp_path, *known, target="second"), cwd=tmp_path).code == 0
    built = run("build", "--target", "quick", "--target", "second", cwd=project)
    assert built.code == 0, built
    records = [json.loads(path.read_text()) for path in (project / ".edgebuild" / "builds").glob("*/build.json")]
    devices = {record["target"]: record["device"] for record in records}
    assert devices["second"] == "ssh-bench"
    assert devices["quick"].startswith("local-")
    # What depends on no target ran once for both.
    kinds = [step["kind"] for record in records for step in record["steps"] if not step["reused"]]
    shared = [[s["key"] for s in record["steps"] if s["kind"] == "freeze-model"] for record in records]
    assert kinds
    assert shared[0] == shared[1]

    blobs, work = tmp_path / "board" / "blobs", tmp_path / "board" / "work"
    before = {path: path.stat().st_mtime_ns for path in blobs.iterdir()}
    assert before
    assert not list(work.glob("*"))
    again = run("build", "--target", "second", "--device", "bench", "--remeasure", cwd=project)
    assert again.code == 0, again
    assert before == {path: path.stat().st_mtime_ns for path in blobs.iterdir()}
    assert not list(work.glob("*"))


def test_an_unknown_device_and_one_of_another_target_are_said(inventory: Path, project: Path) -> None:
    ended = run("build", "--device", "bench", cwd=project)
    assert ended.code == 2
    assert 'unknown device "bench"' in ended.err


def test_a_target_without_a_device_says_what_to_do(inventory: Path, project: Path) -> None:
    ended = run("build", "--target", "raspberry-pi-5", cwd=project)
    assert ended.code == 6, ended
    assert "edgebuild device add" in ended.err
    compiled = run("build", "--target", "raspberry-pi-5", "--no-measure", cwd=project)
    assert compiled.code == 4, compiled
    assert "Nothing is proven" in compiled.out.replace("\n", " ")
    assert list((project / ".edgebuild" / "builds").glob("*/artifact/model.onnx"))
    both = run("build", "--device", "x", "--no-measure", cwd=project)
    assert both.code == 2


def offline(index: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    for name, value in (
        ("PIP_CONFIG_FILE", os.devnull),
        ("PIP_NO_INDEX", "1"),
        ("PIP_FIND_LINKS", str(index)),
        ("XDG_CACHE_HOME", str(cache)),
    ):
        monkeypatch.setenv(name, value)


@pytest.mark.proof
def test_a_runtime_is_put_on_a_board_and_the_second_time_nothing_is_sent(
    board: Board, inventory: Path, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for onnxruntime, in a version that only it has, from an index on this disk."""
    from edgebuild.devices.ssh.connection import fingerprint

    known = ("--host-key", fingerprint(board.host_key), "--project", str(project))
    assert run(*add(board, tmp_path, *known, target="quick"), cwd=tmp_path).code == 0
    index = tmp_path / "index"
    offline(index, monkeypatch, tmp_path / "cache")
    index.mkdir()
    none = run("device", "provision", "bench", "--project", str(project), cwd=tmp_path)
    assert none.code == 6, none
    assert "pip finds no wheels of onnxruntime for Python" in none.err
    make_wheel(index, "onnxruntime", "9.9")
    first = run("device", "provision", "bench", "--project", str(project), cwd=tmp_path)
    assert first.code == 0, first
    assert "onnxruntime 9.9" in first.out
    assert "MB were sent" in first.out
    second = run("device", "provision", "bench", "--project", str(project), cwd=tmp_path)
    assert second.code == 0, second
    assert "nothing was sent" in second.out
    checked = run("device", "check", "bench", "--project", str(project), cwd=tmp_path)
    assert "runtime.onnxruntime: 9.9" in checked.out
    assert "onnxruntime 9.9" in run("device", "list", cwd=tmp_path).out.replace("\n", " ")


def test_tensorrt_is_not_put_on_a_board_and_says_where_it_comes_from(
    board: Board, inventory: Path, tmp_path: Path, project: Path
) -> None:
    from edgebuild.devices.ssh.connection import fingerprint

    profile = project / "profiles" / "quick.toml"
    profile.write_text(profile.read_text().replace('"onnxruntime"', '"tensorrt"'))
    known = ("--host-key", fingerprint(board.host_key), "--project", str(project))
    added = run(*add(board, tmp_path, *known, target="quick"), cwd=tmp_path)
    assert added.code == 0, added
    assert "lacks tensorrt" in added.out
    ended = run("device", "provision", "bench", "--project", str(project), cwd=tmp_path)
    assert ended.code == 6, ended
    assert "bench lacks tensorrt" in ended.err
    assert "JetPack" in ended.err
    assert run("device", "provision", "other", cwd=project).code == 2
