"""The folder that stands for a device's disk: nothing else is ever filled, emptied or removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgebuild.devices.local import LocalDevice
from edgebuild.devices.local_folder import bytes_of, clear, tidy
from edgebuild.devices.runner.room import MARKER
from edgebuild.devices.ssh import folder as ssh_folder
from edgebuild.errors import DeviceError, UsageError

PRECIOUS = b"not edgebuild's"


def precious(folder: Path) -> Path:
    """A file of the user's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "thesis").write_bytes(PRECIOUS)
    return folder / "thesis"


@pytest.mark.parametrize("root", ["/", "home", ".", "home/..", "full", "link", "link-to-home", "full/work/.."])
def test_a_folder_that_could_hold_anything_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    kept = precious(tmp_path / "full")
    (tmp_path / "full" / "work").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "full")
    (tmp_path / "link-to-home").symlink_to(tmp_path / "home")
    folder = Path(root) if root in ("/", ".") else tmp_path / root
    with pytest.raises(UsageError):
        LocalDevice(folder)
    with pytest.raises(UsageError):
        clear(folder)
    assert tidy(folder, 0) is False
    assert kept.read_bytes() == PRECIOUS
    assert list((tmp_path / "home").iterdir()) == []


def test_a_folder_of_an_older_edgebuild_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner" / f"{'0' * 64}.pyz").touch()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "attempt").write_text("3")
    LocalDevice(tmp_path)
    assert (tmp_path / MARKER).is_file()


@pytest.mark.parametrize("names", [["work"], ["runner", "blobs"], ["attempt", "notes"]])
def test_folders_that_only_look_like_one_are_not(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="isn't empty"):
        LocalDevice(tmp_path)


def filled(root: Path) -> LocalDevice:
    """A device with things in all its parts, the oldest first."""
    device = LocalDevice(root)
    for age, name in enumerate(("blobs/a", "cas/b/file", "site/c/file", "runner/r.pyz", "work/w/file")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
        for each in (path, path.parent):
            os.utime(each, (1000 + age, 1000 + age))
    return device


def test_what_a_user_put_there_stays(tmp_path: Path) -> None:
    filled(tmp_path / "device").close()
    kept = precious(tmp_path / "device" / "mine")
    assert clear(tmp_path / "device") == ("mine",)
    assert kept.read_bytes() == PRECIOUS
    assert [path.name for path in (tmp_path / "device").iterdir()] == ["mine"]


def test_a_folder_with_nothing_else_goes_whole(tmp_path: Path) -> None:
    filled(tmp_path / "device").close()
    assert clear(tmp_path / "device") == ()
    assert not (tmp_path / "device").exists()
    assert clear(tmp_path / "device") == ()


def test_it_is_tidied_only_while_nobody_uses_it(tmp_path: Path) -> None:
    device = filled(tmp_path / "device")
    assert tidy(tmp_path / "device", 0) is False
    assert bytes_of(tmp_path / "device") > 5000
    device.close()
    assert tidy(tmp_path / "device", None) is True
    assert list((tmp_path / "device" / "work").iterdir()) == []
    assert (tmp_path / "device" / "blobs" / "a").is_file()


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    filled(tmp_path / "device").close()
    assert tidy(tmp_path / "device", 2000) is True
    left = {
        path.relative_to(tmp_path / "device").parts[0] for path in (tmp_path / "device").rglob("*") if path.is_file()
    }
    assert left == {"site", "runner", MARKER}


@pytest.mark.parametrize("part", ["blobs", "cas", "work", "site", "runner"])
def test_no_link_is_followed_when_room_is_made_or_all_is_removed(tmp_path: Path, part: str) -> None:
    kept = precious(tmp_path / "outside")
    for name in ("one", "two"):
        root = tmp_path / name
        filled(root).close()
        if name == "one":
            (root / part).rename(root / "gone")
            (root / part).symlink_to(kept.parent)
        else:
            (root / part / "link").symlink_to(kept.parent)
            (root / part / "file").symlink_to(kept)
        assert tidy(root, 0) is True
        assert kept.read_bytes() == PRECIOUS
        clear(root)
        assert kept.read_bytes() == PRECIOUS
        assert not (root / part).is_symlink()


@pytest.mark.parametrize("part", ["work", "blobs"])
def test_a_device_writes_reads_and_removes_nothing_behind_a_link(tmp_path: Path, part: str) -> None:
    kept = precious(tmp_path / "outside")
    device = LocalDevice(tmp_path / "device")
    (tmp_path / "device" / part).symlink_to(kept.parent)
    for call in (
        lambda: device.put(kept, f"{part}/new"),
        lambda: device.remove(f"{part}/thesis"),
        lambda: device.get(f"{part}/thesis", tmp_path / "got"),
    ):
        with pytest.raises(DeviceError, match="is a link, and is not followed"):
            call()
    (tmp_path / "device" / "thesis").symlink_to(kept)
    with pytest.raises(DeviceError, match="symbolic links"):
        device.get("thesis", tmp_path / "got")
    device.remove("thesis")
    assert [path.name for path in kept.parent.iterdir()] == ["thesis"]
    assert kept.read_bytes() == PRECIOUS


@pytest.mark.parametrize(("script", "arguments"), [(ssh_folder.ROOM, ("0", "")), (ssh_folder.CLEAR, ())])
def test_a_board_s_scripts_need_the_marker(tmp_path: Path, script: str, arguments: tuple[str, ...]) -> None:
    kept = precious(tmp_path / "work")
    (tmp_path / "blobs").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nothing was removed" in done.stderr
    (tmp_path / MARKER).symlink_to(kept)
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    assert kept.read_bytes() == PRECIOUS
