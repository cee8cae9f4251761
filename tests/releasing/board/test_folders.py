"""Folders that hold what isn't ours, disks that are full and slots that are damaged: nothing of others is touched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgebuild.releasing.board.slots import MARKER_TEXT

from .installs import bundle_of, installed, status, version_of, versions
from .script import command, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

MARKER = ".edgebuild-releases"


def everything(folder: Path) -> dict[str, str]:
    """What lies in a folder: each path, with where it leads or what kind it is."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in folders + names):
            kind = str(path.readlink()) if path.is_symlink() else "folder" if path.is_dir() else "file"
            found[path.relative_to(folder).as_posix()] = kind
    return found


@pytest.mark.parametrize("name", ["tmp", "blobs", "blobs/sha256", "releases"])
def test_a_link_in_place_of_one_of_its_folders_is_refused(
    tmp_path: Path, parrot: Mapping[str, bytes], name: str
) -> None:
    bundle = bundle_of(tmp_path, parrot)
    installed(tmp_path, bundle)
    root, theirs = tmp_path / "root", tmp_path / "theirs"
    (root / name).rename(tmp_path / "kept")
    theirs.mkdir()
    (theirs / "photo").write_bytes(b"x")
    for to in (theirs, None):
        (root / name).symlink_to(to) if to else (root / name).write_bytes(b"x")
        for words in (("roll-back",), ("status",), ("install", bundle)):
            ended = verify(tmp_path, *words, "--root", root)
            assert (ended.code, f"{root / name} is no folder of ours" in ended.message) == (7, True), ended
        (root / name).unlink()
    assert everything(theirs) == {"photo": "file"}


@pytest.mark.parametrize("content", [b"", b"somebody's own", MARKER_TEXT + b"more"])
def test_a_marker_of_somebody_else_makes_no_folder_ours(
    tmp_path: Path, parrot: Mapping[str, bytes], content: bytes
) -> None:
    theirs = tmp_path / "root"
    (theirs / "tmp" / "mine").mkdir(parents=True)
    (theirs / MARKER).write_bytes(content)
    before = everything(theirs)
    for words in (("roll-back",), ("status",), ("install", bundle_of(tmp_path, parrot))):
        ended = verify(tmp_path, *words, "--root", theirs)
        assert (ended.code, "says something else" in ended.message) == (2, True), ended
    assert everything(theirs) == before
    (tmp_path / "marker").write_bytes(MARKER_TEXT)
    (theirs / MARKER).unlink()
    (theirs / MARKER).symlink_to(tmp_path / "marker")
    assert verify(tmp_path, "roll-back", "--root", theirs).code == 2
    assert (theirs / "tmp" / "mine").is_dir()


def test_a_marker_that_a_power_cut_shortened_is_written_again(tmp_path: Path, parrot: Mapping[str, bytes]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / MARKER).write_bytes(MARKER_TEXT[:9])
    installed(tmp_path, bundle_of(tmp_path, parrot))
    assert (root / MARKER).read_bytes() == MARKER_TEXT


def test_a_link_in_place_of_the_current_slot_is_replaced_and_nothing_behind_it_is(
    tmp_path: Path, parrot: Mapping[str, bytes]
) -> None:
    bundle = bundle_of(tmp_path, parrot)
    slot, theirs = Path(installed(tmp_path, bundle).report["slot"]), tmp_path / "theirs"
    slot.rename(theirs)
    slot.symlink_to(theirs)
    (theirs / "photo").write_bytes(b"x")
    before = everything(theirs)
    assert status(tmp_path).code == 7
    installed(tmp_path, bundle)
    assert (status(tmp_path).code, slot.is_symlink(), everything(theirs)) == (0, False, before)


@pytest.mark.parametrize("root", ["", " "])
def test_an_empty_root_is_a_sentence(tmp_path: Path, parrot: Mapping[str, bytes], root: str) -> None:
    for words in (("roll-back",), ("status",), ("install", bundle_of(tmp_path / root.strip(), parrot))):
        ended = verify(tmp_path, *words, "--root", root)
        assert (ended.code, ended.message) == (2, "--root is empty: it names no folder.")


def test_an_install_that_a_full_disk_ends_leaves_the_disk_as_it_was(
    tmp_path: Path, parrot: Mapping[str, bytes]
) -> None:
    installed(tmp_path, bundle_of(tmp_path, parrot, "1.0"))
    root = tmp_path / "root"
    before = everything(root)
    large = bundle_of(tmp_path, {**parrot, "artifact/a": b"small", "artifact/more": bytes(4 << 20)}, "2.0")
    words = command(tmp_path, "install", large, "--root", root)
    limited = ["bash", "-c", 'ulimit -f 1024; exec "$@"', "bash", *words]
    ended = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert (ended.returncode, "This machine stops it" in ended.stderr) == (6, True), ended
    assert everything(root) == before
    assert status(tmp_path).code == 0


def damage(slot: str) -> None:
    path = Path(slot, "artifact", "model.onnx")
    path.chmod(0o644)
    path.write_bytes(b"")


def test_what_is_damaged_is_never_what_one_rolls_back_to(tmp_path: Path, parrot: Mapping[str, bytes]) -> None:
    models = {version: {**parrot, "artifact/model.onnx": version.encode()} for version in ("1.0", "2.0", "3.0")}
    installed(tmp_path, bundle_of(tmp_path, models["1.0"], "1.0"))
    damage(installed(tmp_path, bundle_of(tmp_path, models["2.0"], "2.0")).report["slot"])
    installed(tmp_path, bundle_of(tmp_path, models["3.0"], "3.0"))
    assert (version_of(tmp_path), version_of(tmp_path, "previous")) == ("3.0", "1.0")
    damage(status_slot(tmp_path))
    assert verify(tmp_path, "roll-back", "--root", tmp_path / "root").code == 0
    assert (version_of(tmp_path), version_of(tmp_path, "previous")) == ("1.0", None)
    installed(tmp_path, tmp_path / "bundle-2.0")
    assert (version_of(tmp_path), version_of(tmp_path, "previous")) == ("2.0", "1.0")
    damage(status_slot(tmp_path))
    installed(tmp_path, tmp_path / "bundle-1.0", "--allow-downgrade")
    assert (version_of(tmp_path), version_of(tmp_path, "previous")) == ("1.0", None)
    assert versions(tmp_path) == ["1.0", "2.0", "3.0"]


def status_slot(tmp_path: Path) -> str:
    return str((tmp_path / "root" / "current").resolve())
