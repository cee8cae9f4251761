"""Installing, switching and rolling back: whatever goes wrong, what was installed before still answers."""

from __future__ import annotations

import fcntl
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.releasing.board.slots import version_key

from .bundles import Key, Maker, make_key, npy, release
from .installs import assert_answers, bundle_of, installed, status, version_of, versions
from .script import command, verify

if TYPE_CHECKING:
    from collections.abc import Mapping


def wrong_answers(real: Mapping[str, bytes]) -> dict[str, bytes]:
    return {**real, "golden/outputs/logits.npy": npy(np.zeros((4, 4), dtype=np.float32))}


def test_a_first_release_is_installed_in_a_new_folder(tmp_path: Path, bundle: Path) -> None:
    ended = installed(tmp_path, bundle)
    root = tmp_path / "root"
    assert_answers(root)
    slot = Path(ended.report["slot"])
    assert (root / "current").resolve() == slot.resolve()
    assert (root / "current").readlink() == Path("releases", slot.name)
    blobs = {path.stat().st_ino for path in (root / "blobs" / "sha256").iterdir()}
    assert {path.stat().st_ino for path in slot.rglob("*") if path.is_file()} < blobs
    sources = {path.stat().st_ino for path in bundle.rglob("*") if path.is_file()}
    assert not sources & blobs, "a link to the bundle could be changed from outside"
    found = status(tmp_path)
    assert (found.code, found.report["damaged"], found.report["previous"]) == (0, [], None)
    assert not list((root / "tmp").iterdir())


def test_a_newer_release_takes_over_and_a_roll_back_gives_back(
    tmp_path: Path, real: Mapping[str, bytes], other: Mapping[str, bytes]
) -> None:
    installed(tmp_path, bundle_of(tmp_path, real, "1.4.0"))
    installed(tmp_path, bundle_of(tmp_path, other, "1.10.0"))
    assert_answers(tmp_path / "root")
    assert (version_of(tmp_path), version_of(tmp_path, "previous")) == ("1.10.0", "1.4.0")
    ended = verify(tmp_path, "roll-back", "--root", tmp_path / "root")
    assert (ended.code, ended.report["version"]) == (0, "1.4.0")
    assert_answers(tmp_path / "root")
    assert (version_of(tmp_path), version_of(tmp_path, "previous")) == ("1.4.0", "1.10.0")


def test_an_older_version_is_refused_unless_it_is_allowed(tmp_path: Path, real: Mapping[str, bytes]) -> None:
    root = ("--root", tmp_path / "root")
    installed(tmp_path, bundle_of(tmp_path, real, "1.10.0"))
    old = bundle_of(tmp_path, real, "1.9.0")
    ended = verify(tmp_path, "install", old, *root)
    assert (ended.code, ended.message) == (7, "Version 1.9.0 is older than 1.10.0, which is installed.")
    before_release = bundle_of(tmp_path, real, "1.10.0-rc1")
    assert verify(tmp_path, "install", before_release, *root).code == 7
    assert version_of(tmp_path) == "1.10.0"
    installed(tmp_path, old, "--allow-downgrade")
    assert (version_of(tmp_path), version_of(tmp_path, "previous")) == ("1.9.0", "1.10.0")


def test_an_old_release_with_a_good_signature_is_refused_all_the_same(
    tmp_path: Path, real: Mapping[str, bytes]
) -> None:
    key: Key = make_key(tmp_path, "team")
    for version, code in (("2.0", 0), ("1.0", 7)):
        maker = Maker({"pi": (real, release(version=version))}, by=(key,))
        words = ("--root", tmp_path / "root", "--key", key.public)
        assert verify(tmp_path, "install", maker.make(tmp_path / version), *words).code == code


def test_what_is_not_signed_or_does_not_fit_makes_no_folder(tmp_path: Path, bundle: Path, real: Any) -> None:
    key = make_key(tmp_path, "team")
    root = ("--root", tmp_path / "root")
    assert verify(tmp_path, "install", bundle, *root, "--key", key.public).code == 7
    far = bundle_of(tmp_path, real, requires={**release()["requires"], "isa": ["avx9"]})
    assert verify(tmp_path, "install", far, *root).code == 7
    assert not (tmp_path / "root").exists()


def test_wrong_answers_in_the_slot_change_nothing(tmp_path: Path, real: Mapping[str, bytes]) -> None:
    installed(tmp_path, bundle_of(tmp_path, real, "1.0"))
    before = sorted((tmp_path / "root").rglob("*"))
    ended = verify(tmp_path, "install", bundle_of(tmp_path, wrong_answers(real), "2.0"), "--root", tmp_path / "root")
    assert (ended.code, "answers wrong on this device" in ended.message) == (7, True)
    assert (version_of(tmp_path), version_of(tmp_path, "previous")) == ("1.0", None)
    assert_answers(tmp_path / "root")
    after = sorted((tmp_path / "root").rglob("*"))
    assert {path for path in after if "blobs" not in path.parts} == {
        path for path in before if "blobs" not in path.parts
    }
    installed(tmp_path, bundle_of(tmp_path, real, "3.0"))
    kept = {path.name for path in (tmp_path / "root" / "blobs" / "sha256").iterdir()}
    assert not kept & {path.name for path in after if path.parent.name == "sha256"} - {path.name for path in before}


def test_wrong_answers_after_the_switch_are_rolled_back(
    tmp_path: Path, real: Mapping[str, bytes], parrot: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNED", str(tmp_path / "turned"))
    root = tmp_path / "root"
    ended = verify(tmp_path, "install", bundle_of(tmp_path, parrot, "2.0"), "--root", root)
    assert (ended.code, "answers wrong" in ended.message) == (7, True), ended
    assert not (root / "current").exists()
    assert not list((root / "releases").iterdir())
    (tmp_path / "turned").unlink()
    installed(tmp_path, bundle_of(tmp_path, real, "1.0"))
    ended = verify(tmp_path, "install", tmp_path / "bundle-2.0", "--root", root)
    assert (ended.code, "answers wrong" in ended.message) == (7, True), ended
    assert (version_of(tmp_path), version_of(tmp_path, "previous")) == ("1.0", None)
    assert_answers(root)


def test_the_newest_are_kept_and_never_the_two_in_use_removed(tmp_path: Path, real: Mapping[str, bytes]) -> None:
    for version in ("1.0", "2.0", "3.0"):
        installed(tmp_path, bundle_of(tmp_path, real, version))
    assert versions(tmp_path) == ["1.0", "2.0", "3.0"]
    ended = installed(tmp_path, bundle_of(tmp_path, real, "4.0"), "--keep", "2")
    assert len(ended.report["removed"]) == 2
    assert versions(tmp_path) == ["3.0", "4.0"]
    installed(tmp_path, tmp_path / "bundle-1.0", "--allow-downgrade", "--keep", "1")
    assert versions(tmp_path) == ["1.0", "4.0"]
    assert (version_of(tmp_path), version_of(tmp_path, "previous")) == ("1.0", "4.0")
    links = {path: path.stat().st_nlink for path in (tmp_path / "root" / "blobs" / "sha256").iterdir()}
    assert min(links.values()) > 1
    assert_answers(tmp_path / "root")


@pytest.mark.parametrize("path", ["artifact/model.onnx", "release.json", "runner.pyz"])
def test_damage_is_found_told_and_repaired(tmp_path: Path, bundle: Path, path: str) -> None:
    ended = installed(tmp_path, bundle)
    place = Path(ended.report["slot"]) / path
    place.chmod(0o644)
    data = place.read_bytes()
    place.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = status(tmp_path)
    assert (found.code, path in found.message) == (7, True)
    installed(tmp_path, bundle)
    assert status(tmp_path).code == 0
    assert_answers(tmp_path / "root")


def test_what_was_added_to_a_slot_or_removed_from_it_is_damage(tmp_path: Path, bundle: Path) -> None:
    slot = Path(installed(tmp_path, bundle).report["slot"])
    (slot / "artifact" / "more").symlink_to("/etc/passwd")
    (slot / "golden" / "inputs" / "image.npy").unlink()
    assert status(tmp_path).report["damaged"] == ["artifact/more", "golden/inputs/image.npy"]
    installed(tmp_path, bundle)
    assert status(tmp_path).code == 0


def test_links_folders_and_files_in_each_others_places_are_repaired(tmp_path: Path, bundle: Path) -> None:
    slot = Path(installed(tmp_path, bundle).report["slot"])
    elsewhere = tmp_path / "elsewhere"
    (slot / "artifact").rename(elsewhere)
    (slot / "artifact").symlink_to(elsewhere)
    (slot / "release.json").rename(tmp_path / "release.json")
    (slot / "release.json").symlink_to(tmp_path / "release.json")
    shutil.rmtree(slot / "golden")
    (slot / "golden").write_bytes(b"a file")
    (slot / "verify.py").unlink()
    (slot / "verify.py" / "deep").mkdir(parents=True)
    (slot / "runner.pyz").unlink()
    (slot / "runner.pyz").symlink_to(elsewhere)
    assert status(tmp_path).code == 7
    installed(tmp_path, bundle)
    assert status(tmp_path).code == 0
    assert (elsewhere / "model.onnx").exists()
    assert_answers(tmp_path / "root")


def test_no_roll_back_to_what_is_damaged_or_not_there(tmp_path: Path, real: Mapping[str, bytes]) -> None:
    root = ("--root", tmp_path / "root")
    slot = Path(installed(tmp_path, bundle_of(tmp_path, real, "1.0")).report["slot"])
    ended = verify(tmp_path, "roll-back", *root)
    assert (ended.code, "no previous release" in ended.message) == (7, True)
    installed(tmp_path, bundle_of(tmp_path, real, "2.0"))
    (slot / "artifact" / "model.onnx").chmod(0o644)
    (slot / "artifact" / "model.onnx").write_bytes(b"")
    assert verify(tmp_path, "roll-back", *root).code == 7
    assert version_of(tmp_path) == "2.0"


def test_folders_of_others_are_refused(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "photo").write_bytes(b"x")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    python = command(tmp_path, "install")[0]  # found before HOME was another one
    for root in (theirs, home, Path("/")):
        for words in (("install", bundle), ("status",), ("roll-back",)):
            assert verify(tmp_path, *words, "--root", root, python=python).code == 2
    assert [path.name for path in theirs.iterdir()] == ["photo"]
    assert not list(home.iterdir())


def test_releases_of_another_project_need_a_folder_of_their_own(tmp_path: Path, bundle: Path, real: Any) -> None:
    installed(tmp_path, bundle)
    windows = bundle_of(tmp_path, real, "9.0", project="windows")
    ended = verify(tmp_path, "install", windows, "--root", tmp_path / "root")
    assert (ended.code, "holds releases of doors, this is one of windows" in ended.message) == (7, True)


def test_only_one_command_works_at_a_time(tmp_path: Path, bundle: Path) -> None:
    installed(tmp_path, bundle)
    with (tmp_path / "root" / ".edgebuild-releases").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ended = verify(tmp_path, "install", bundle, "--root", tmp_path / "root")
        assert (ended.code, "Another command works in" in ended.message) == (6, True)
        assert status(tmp_path).code == 0


def test_links_and_litter_of_others_in_the_folder_are_no_way_out(tmp_path: Path, bundle: Path) -> None:
    installed(tmp_path, bundle)
    root, victim = tmp_path / "root", tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"x")
    (root / "tmp" / "slot").symlink_to(victim)
    (root / "tmp" / "blob").symlink_to(victim / "file")
    (root / "releases" / ("0" * 16)).symlink_to(victim)
    installed(tmp_path, bundle)
    assert (victim / "file").read_bytes() == b"x"
    current = root / "current"
    current.unlink()
    current.symlink_to(victim)
    assert verify(tmp_path, "status", "--root", root).code == 7
    assert verify(tmp_path, "install", bundle, "--root", root).code == 7


def test_a_bundle_that_changes_while_it_is_installed_is_refused(tmp_path: Path, bundle: Path) -> None:
    """What was checked is not what is copied: every byte is hashed again on its way into the slot."""
    from edgebuild.releasing.board.documents import Problem
    from edgebuild.releasing.board.reading import Bundle
    from edgebuild.releasing.board.slots import opened_slots

    folder = shutil.copytree(bundle, tmp_path / "bundle")
    found = Bundle(folder)
    (target,) = found.targets.values()
    model = found.path(target.files["artifact/model.onnx"])
    model.write_bytes(b"x" * model.stat().st_size)
    with (
        opened_slots(str(tmp_path / "root"), new=True) as slots,
        pytest.raises(Problem, match="changed while it was installed"),
    ):
        slots.add(found, target)


@pytest.mark.parametrize(
    "ordered",
    [
        ["1.0-alpha", "1.0-alpha.1", "1.0-alpha.beta", "1.0-beta.2", "1.0-beta.11", "1.0-rc.1", "1.0", "1.0.1", "1.1"],
        ["nightly", "0.9", "0.10", "1", "1.9.9", "1.10", "10.0"],
    ],
)
def test_versions_are_compared_as_people_mean_them(ordered: list[str]) -> None:
    shuffled = random.Random(1).sample(ordered, len(ordered))
    assert sorted(shuffled, key=version_key) == ordered
    assert version_key("1.4") == version_key("1.4.0") == version_key("v1.4.0+build7")


@given(st.lists(st.text("0123456789.-abrc+v", max_size=12), max_size=6))
def test_any_two_versions_can_be_compared(versions: list[str]) -> None:
    assert len(sorted(versions, key=version_key)) == len(versions)
