"""An sshd of our own on this machine, with throw-away keys: a board for tests."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgebuild.devices.runner.turns import OVERRIDE
from edgebuild.devices.ssh.address import SshAddress
from tests import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.devices.ssh.device import SshDevice

SSHD = needs.where("sshd") or "sshd"
#: For ``pytestmark`` of the tests that need it.
needs_sshd = needs.marked(
    needs.program("sshd", "openssh-server"),
    needs.program("ssh-keygen", "openssh-client"),
    needs.program("pgrep", "procps"),
    needs.module("asyncssh", "asyncssh"),
)
#: SHLVL: bash reads no ~/.bashrc of whoever runs the tests, whose programs a killed session would leave half done.
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile {folder}/pid
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
SetEnv {override}={lock} SHLVL=5
"""


@dataclass(frozen=True, kw_only=True)
class Board:
    """An sshd of our own with throw-away keys."""

    folder: Path
    port: int

    @property
    def host_key(self) -> str:
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def device(self, *, host_key: str = "", quota_bytes: int = 10**9) -> SshDevice:
        from edgebuild.devices.ssh.device import SshDevice

        return SshDevice(
            "test",
            address=SshAddress(user=getpass.getuser(), host="127.0.0.1", port=self.port),
            host_keys=(host_key or self.host_key,),
            key_file=self.folder / "user_key",
            root=str(self.folder / "root"),
            python=sys.executable,
            quota_bytes=quota_bytes,
        )

    def sessions(self) -> list[int]:
        """The processes of sshd that serve connections here, and of no other sshd: what descends from the listener."""
        parents = [(self.folder / "pid").read_text().strip()]
        found: list[int] = []
        while parents:
            children = subprocess.run(["pgrep", "-P", parents.pop(), "sshd"], capture_output=True, text=True)
            found += [int(pid) for pid in children.stdout.split()]
            parents += children.stdout.split()
        return found


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    folder = tmp_path_factory.mktemp("sshd")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host_key", "user_key", "other_key"):
        make_key(folder / name)
    (folder / "config").write_text(
        CONFIG.format(port=port, folder=folder, override=OVERRIDE, lock=os.environ.get(OVERRIDE, ""))
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    sshd = subprocess.Popen([SSHD, "-D", "-E", str(folder / "log"), "-f", str(folder / "config")])
    try:
        deadline = time.monotonic() + 10
        while not (folder / "pid").exists():
            assert sshd.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Board(folder=folder, port=port)
    finally:
        sshd.terminate()
        sshd.wait()
