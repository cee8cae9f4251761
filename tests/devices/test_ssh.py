"""A board behind a real sshd keeps every promise of a device; faults of the link end in one clear sentence."""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgebuild.devices.ssh.address import SshAddress
from edgebuild.errors import DeviceError, UsageError
from edgebuild.testing.devices import check_device
from tests.devices.sshd import Board, board, needs_sshd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.devices.ssh.device import SshDevice

__all__ = ["board"]  # the fixture
pytestmark = needs_sshd


@pytest.fixture
def device(board: Board) -> Iterator[SshDevice]:
    made = board.device()
    yield made
    made.close()


def test_a_board_behind_ssh_keeps_the_promises_of_a_device(device: SshDevice, tmp_path: Path) -> None:
    check_device(device, tmp_path)
    assert device.capabilities.times


def test_a_changed_host_key_is_refused_with_both_fingerprints(board: Board) -> None:
    from edgebuild.devices.ssh.connection import fingerprint

    other = " ".join((board.folder / "other_key.pub").read_text().split()[:2])
    device = board.device(host_key=other)
    with pytest.raises(DeviceError, match="host key") as caught:
        device.open(["true"], {})
    assert fingerprint(other) in caught.value.message
    assert fingerprint(board.host_key) in caught.value.message
    device.close()


def test_fingerprints_are_those_of_ssh_keygen(board: Board) -> None:
    from edgebuild.devices.ssh.connection import fingerprint, read_host_keys

    shown = subprocess.run(["ssh-keygen", "-lf", board.folder / "host_key.pub"], capture_output=True, text=True).stdout
    assert fingerprint(board.host_key) == shown.split()[1]
    assert read_host_keys(SshAddress(user="x", host="127.0.0.1", port=board.port)) == (board.host_key,)


def test_nobody_at_the_address_is_one_sentence(board: Board) -> None:
    from edgebuild.devices.ssh.connection import read_host_keys
    from edgebuild.devices.ssh.device import SshDevice

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = SshAddress(user="pi", host="127.0.0.1", port=free.getsockname()[1])
        with pytest.raises(DeviceError, match="doesn't answer"):
            SshDevice("nobody", address=nobody, host_keys=(board.host_key,)).open(["true"], {})
        with pytest.raises(DeviceError, match="shows no host key"):
            read_host_keys(nobody)


def test_a_key_that_the_board_does_not_know_is_said(board: Board) -> None:
    from edgebuild.devices.ssh.device import SshDevice

    address = SshAddress(user=getpass.getuser(), host="127.0.0.1", port=board.port)
    device = SshDevice("test", address=address, host_keys=(board.host_key,), key_file=board.folder / "other_key")
    with pytest.raises(DeviceError, match="lets none of your keys in"):
        device.open(["true"], {})


def test_a_cut_link_ends_the_call_and_the_program_notices(board: Board, device: SshDevice, tmp_path: Path) -> None:
    mark = tmp_path / "ended"
    program = f"import sys; print('up', flush=True); sys.stdin.read(); open({str(mark)!r}, 'w').close()"
    channel = device.open([device.python, "-c", program], {})
    assert channel.receive(20) == "up"
    for pid in board.sessions():
        os.kill(pid, signal.SIGKILL)
    assert channel.receive(20) is None
    with pytest.raises(DeviceError, match="was lost"):
        channel.wait(20)
    channel.kill()
    deadline = time.monotonic() + 10
    while not mark.exists():
        assert time.monotonic() < deadline, "the program still runs"
        time.sleep(0.05)


def test_what_was_sent_is_not_sent_again_and_a_torn_one_goes_on(device: SshDevice, tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_bytes(os.urandom(3_000_000))
    target = Path(device.root) / "blobs" / "torn"
    target.parent.mkdir(parents=True, exist_ok=True)
    # A wrong first byte in what came over before shows that it is resumed: the digest is checked when staging.
    (target.parent / "torn.part").write_bytes(b"!" + source.read_bytes()[1:1_000_000])
    assert device.put(source, "blobs/torn") == str(target)
    assert target.read_bytes() == b"!" + source.read_bytes()[1:]
    before = target.stat().st_mtime_ns
    device.put(source, "blobs/torn")
    assert target.stat().st_mtime_ns == before


def test_the_quota_makes_room_by_removing_what_was_used_longest_ago(board: Board, tmp_path: Path) -> None:
    device = board.device(quota_bytes=2_500_000)
    device.remove(f"{device.root}/blobs")
    source = tmp_path / "blob"
    source.write_bytes(bytes(1_000_000))
    for name in ("blobs/one", "blobs/two", "blobs/three"):
        device.put(source, name)
        os.utime(Path(device.root) / name, (time.time() - 100, time.time() - 100))
    left = sorted(path.name for path in (Path(device.root) / "blobs").iterdir())
    assert len(left) == 2
    assert "three" in left
    source.write_bytes(bytes(3_000_000))
    with pytest.raises(DeviceError, match="quota"):
        device.put(source, "blobs/large")
    device.close()
    device.close()


def test_a_board_is_reached_through_another(board: Board) -> None:
    from edgebuild.devices.ssh.device import SshDevice

    address = SshAddress(user=getpass.getuser(), host="127.0.0.1", port=board.port)

    def far(jump_host_key: str) -> SshDevice:
        return SshDevice(
            "far",
            address=address,
            host_keys=(board.host_key,),
            jump=address,
            jump_host_keys=(jump_host_key,),
            key_file=board.folder / "user_key",
            root=str(board.folder / "root"),
        )

    device = far(board.host_key)
    assert device.run_script("print('far')") == "far"
    device.close()
    device = far(" ".join((board.folder / "other_key.pub").read_text().split()[:2]))
    with pytest.raises(DeviceError, match="host key"):
        device.run_script("print('far')")
    device.close()


@pytest.mark.parametrize("root", ["~/", "~", ".", "", "/", "~/..", "full", "link", "home"])
def test_a_folder_that_could_hold_anything_else_is_refused(board: Board, tmp_path: Path, root: str) -> None:
    """A board's root is taken only where nothing is, or where edgebuild's marker is; links are resolved first."""
    from edgebuild.devices.ssh.device import SshDevice

    (tmp_path / "full" / "work").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "full")
    (tmp_path / "home").symlink_to(Path.home())
    device = SshDevice(
        "test",
        address=SshAddress(user=getpass.getuser(), host="127.0.0.1", port=board.port),
        host_keys=(board.host_key,),
        key_file=board.folder / "user_key",
        root=str(tmp_path / root) if root.isalpha() else root,
    )
    with pytest.raises(UsageError, match=r"on the board (is a home|is the whole disk|isn't empty)"):
        device.put(Path(__file__), "blobs/file")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["work"]


def test_a_link_that_a_board_gives_for_a_file_is_refused(device: SshDevice, tmp_path: Path) -> None:
    """Its target would be read on this machine."""
    (Path(device.root) / "other").write_text("content")
    (Path(device.root) / "file").symlink_to("other")
    with pytest.raises(DeviceError, match="it is no plain file"):
        device.get("file", tmp_path / "got")
    assert list(tmp_path.iterdir()) == []
    device.remove("file")
