"""This machine as a device keeps a transport's promises, and moves no byte twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebuild.devices.local import LocalDevice
from edgebuild.errors import DeviceError, StoreError
from edgebuild.testing.devices import check_device


def test_keeps_the_contract(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    check_device(LocalDevice(tmp_path / "device"), tmp_path / "scratch")


@pytest.mark.parametrize("mode", [0o444, 0o644])
def test_a_file_is_copied_so_that_changing_it_changes_nothing(tmp_path: Path, mode: int) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"before")
    source.chmod(mode)
    remote = LocalDevice(tmp_path / "device").put(source, "blobs/abc")
    assert Path(remote).read_bytes() == b"before"
    source.chmod(0o644)
    source.write_bytes(b"after!")
    assert Path(remote).read_bytes() == b"before"


def test_putting_again_moves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"w" * 1000)
    device = LocalDevice(tmp_path / "device")
    first = Path(device.put(source, "blobs/abc")).stat()
    second = Path(device.put(source, "blobs/abc")).stat()
    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"Can't write .*file/device: Not a directory\."):
        LocalDevice(tmp_path / "file" / "device")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
def test_a_full_disk_here_is_no_fault_of_the_device(tmp_path: Path) -> None:
    device = LocalDevice(tmp_path / "device")
    source = tmp_path / "weights"
    source.write_bytes(b"w" * 100)
    remote = device.put(source, "blobs/abc")
    (tmp_path / "fetched.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"Can't write .*fetched: No space left on device\."):
        device.get(remote, tmp_path / "fetched")


def test_a_device_without_python_is_named(tmp_path: Path) -> None:
    device = LocalDevice(tmp_path / "device", "/nowhere/python3", name="board-7")
    with pytest.raises(DeviceError, match=r"board-7 can't start /nowhere/python3: No such file or directory\."):
        device.open([device.python], {})
