"""Boards for tests: network namespaces with an address, a real sshd and a small disk of their own each.

They share this machine's kernel, cores and file system, but not its network: a link can be cut, slowed or delayed. What
a killed run left behind is removed by the next one: every name holds the number of the process that made it. One
process may have two rigs at a time, each with a letter and a network of its own.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.devices.ssh.address import SshAddress
from tests import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.devices.ssh.device import SshDevice
    from edgebuild.fleet.inventory import DeviceEntry

PREFIX = "ebt"
SSHD = needs.where("sshd") or "sshd"
DISK_BYTES = 96 << 20
#: The rigs that a process may have at a time: a letter in every name, and where its networks begin.
NETWORKS = {"r": 128, "s": 28}
_in_use: set[str] = set()
#: SHLVL: bash reads no ~/.bashrc of whoever runs the tests, whose programs a killed session would leave half done.
CONFIG = """
Port 22
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile {folder}/pid
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
SetEnv SHLVL=5
"""


def command(*words: str) -> str:
    """Run a command and return what it prints; a failure shows its error output."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def missing() -> str:
    """Return why boards can't exist on this machine, or nothing."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "boards are network namespaces, which need Linux and root"
    packages = {
        "sshd": "openssh-server",
        "ssh-keygen": "openssh-client",
        "ip": "iproute2",
        "tc": "iproute2",
        "mount": "mount",
    }
    programs = [needs.program(name, package) for name, package in packages.items()]
    if lacking := needs.reason(*programs, needs.module("asyncssh", "asyncssh")):
        return lacking
    name = f"{PREFIX}-{os.getpid()}-try"
    try:
        command("ip", "netns", "add", name)
        command("ip", "netns", "del", name)
        command("ip", "link", "add", "name", f"{PREFIX}{os.getpid()}", "type", "bridge")
        command("ip", "link", "del", f"{PREFIX}{os.getpid()}")
    except RuntimeError as error:
        return f"boards need CAP_NET_ADMIN, namespaces and bridges ({error})"
    return ""


def make_key(path: Path) -> None:
    path.unlink(missing_ok=True)
    command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))


def public_key(path: Path) -> str:
    """Return the public half as it is pinned."""
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])


@dataclass(kw_only=True)
class Board:
    """One board. ``python`` is its interpreter, ``root`` a small disk of its own."""

    rig: str
    number: int
    address: str
    folder: Path
    python: str = sys.executable
    sshd: subprocess.Popen[bytes] | None = None
    keys: int = 0
    devices: list[SshDevice] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return f"{PREFIX}-{self.rig}-{self.number}"

    @property
    def link(self) -> str:
        """The host's end of its cable."""
        return f"{PREFIX}{self.rig}h{self.number}"

    @property
    def root(self) -> Path:
        return self.folder / "disk"

    @property
    def host_key(self) -> str:
        return public_key(self.folder / "host_key")

    @property
    def ssh(self) -> SshAddress:
        return SshAddress(user=getpass.getuser(), host=self.address)

    def device(self, *, python: str = "", host_key: str = "", address: SshAddress | None = None) -> SshDevice:
        """A new connection to the board, or to the ``address`` of a link to it; closed when the test ends."""
        from edgebuild.devices.ssh.device import SshDevice

        made = SshDevice(
            f"board-{self.number}",
            address=address or self.ssh,
            host_keys=(host_key or self.host_key,),
            key_file=self.folder / "user_key",
            root=str(self.root / "edgebuild"),
            python=python or self.python,
        )
        self.devices.append(made)
        return made

    def entry(self, target: str, **more: Any) -> DeviceEntry:
        """The board as the inventory has it."""
        from edgebuild.fleet.inventory import DeviceEntry

        fields = {
            "name": f"board-{self.number}",
            "target": target,
            "address": str(self.ssh),
            "host_keys": (self.host_key,),
            "key_file": str(self.folder / "user_key"),
            "python": self.python,
            "root": str(self.root / "edgebuild"),
        }
        return DeviceEntry.model_validate({**fields, **more})

    def processes(self) -> list[str]:
        """The command lines that run on the board, sshd's own apart."""
        found = []
        for pid in command("ip", "netns", "pids", self.namespace).split():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if words and not words.startswith(("sshd", SSHD)):
                    found.append(words)
        return found

    def wait_until_idle(self, limit_s: float) -> float:
        """Return after how many seconds nothing ran any more; fails with what still does."""
        start = time.monotonic()
        while running := self.processes():
            assert time.monotonic() - start < limit_s, f"still running on the board after {limit_s:g} s: {running}"
            time.sleep(0.05)
        return time.monotonic() - start

    def cut(self) -> None:
        """Pull the cable: no packet arrives and none says so."""
        command("ip", "link", "set", self.link, "down")

    def join(self) -> None:
        command("ip", "link", "set", self.link, "up")

    def slow(self, kilobits_per_s: int) -> None:
        """Limit what reaches the board."""
        rate = f"{kilobits_per_s}kbit"
        command(
            "tc", "qdisc", "add", "dev", self.link, "root", "tbf", "rate", rate, "burst", "16kb", "latency", "500ms"
        )

    def unlimited(self) -> None:
        with contextlib.suppress(RuntimeError):
            command("tc", "qdisc", "del", "dev", self.link, "root")

    def sent_bytes(self) -> int:
        """What went to the board over its cable since it was made."""
        return int(Path(f"/sys/class/net/{self.link}/statistics/tx_bytes").read_text())

    def fill_disk(self, *, leave_bytes: int = 0) -> None:
        free = shutil.disk_usage(self.root).free
        with (self.root / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - leave_bytes)

    def program(self, name: str, text: str) -> str:
        """Put an executable on the board and return its path."""
        path = self.root / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def start(self) -> None:
        """Start sshd and wait until it listens."""
        config = self.folder / "config"
        config.write_text(CONFIG.format(address=self.address, folder=self.folder))
        (self.folder / "pid").unlink(missing_ok=True)
        words = ["ip", "netns", "exec", self.namespace, SSHD, "-D", "-E", str(self.folder / "log"), "-f", str(config)]
        self.sshd = subprocess.Popen(words)
        deadline = time.monotonic() + 10
        while not (self.folder / "pid").exists():
            assert self.sshd.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "sshd doesn't start"
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop sshd and whatever runs on the board."""
        for pid in command("ip", "netns", "pids", self.namespace).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if self.sshd is not None:
            self.sshd.wait()

    def set_up_anew(self) -> None:
        """Another installation of the system: another host key."""
        self.stop()
        make_key(self.folder / "host_key")
        self.start()

    def tidy(self) -> None:
        """As it was, whatever a test did to it."""
        self.unlimited()
        self.join()
        for device in self.devices:
            device.close()
        self.devices.clear()
        if self.sshd is None or self.sshd.poll() is not None:
            self.start()
        (self.root / "filler").unlink(missing_ok=True)
        shutil.rmtree(self.root / "edgebuild", ignore_errors=True)


@contextlib.contextmanager
def rig(folder: Path, count: int = 3) -> Iterator[list[Board]]:
    """Yield boards on one switch; the last has Python 3.8. Nothing is left at the end."""
    remove_stale()
    letter = next(each for each in NETWORKS if each not in _in_use)
    _in_use.add(letter)
    pid = os.getpid()
    me, net = f"{pid}{letter}", f"10.{NETWORKS[letter] + (pid >> 8) % 100}.{pid % 256}"
    made: list[Board] = []
    bridge = f"{PREFIX}{me}"
    try:
        command("ip", "link", "add", "name", bridge, "type", "bridge", "forward_delay", "0")
        command("ip", "addr", "add", f"{net}.1/24", "dev", bridge)
        command("ip", "link", "set", bridge, "up")
        Path("/run/sshd").mkdir(exist_ok=True)
        make_key(folder / "user_key")
        for number in range(count):
            place = folder / f"board-{number}"
            place.mkdir()
            board = Board(rig=me, number=number, address=f"{net}.{number + 10}", folder=place)
            made.append(board)
            _wire(board, bridge, folder)
            board.start()
        # The oldest that a board may have, else this one.
        made[-1].python = needs.python("3.8") or sys.executable
        yield made
    finally:
        for board in made:
            for device in board.devices:
                device.close()
        _remove(me)
        _in_use.discard(letter)
        for board in made:
            if board.sshd is not None:
                board.sshd.wait()


def _wire(board: Board, bridge: str, folder: Path) -> None:
    """Cable, address, keys and disk."""
    inner = f"{PREFIX}{board.rig}b{board.number}"
    command("ip", "netns", "add", board.namespace)
    command("ip", "link", "add", board.link, "type", "veth", "peer", "name", inner, "netns", board.namespace)
    command("ip", "link", "set", board.link, "master", bridge, "up")
    inside = ("ip", "-n", board.namespace)
    command(*inside, "addr", "add", f"{board.address}/24", "dev", inner)
    command(*inside, "link", "set", inner, "up")
    command(*inside, "link", "set", "lo", "up")
    make_key(board.folder / "host_key")
    for name in ("user_key", "user_key.pub"):
        shutil.copy(folder / name, board.folder / name)
    board.root.mkdir()
    options = f"size={DISK_BYTES},mode=755"
    command("mount", "-t", "tmpfs", "-o", options, f"{PREFIX}-{board.rig}", str(board.root))


def remove_stale() -> None:
    """Remove what rigs left whose process is gone."""
    names = command("ip", "netns", "list") + command("ip", "-o", "link", "show", "type", "bridge")
    for pid, letter in set(re.findall(rf"\b{PREFIX}-?(\d+)([{''.join(NETWORKS)}])\b", names)):
        if not Path(f"/proc/{pid}").exists():
            _remove(f"{pid}{letter}")


def _remove(owner: str) -> None:
    """Remove every namespace, cable, switch and disk of one rig."""
    for name in re.findall(rf"^{PREFIX}-{owner}-\S+", command("ip", "netns", "list"), re.MULTILINE):
        for pid in command("ip", "netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        command("ip", "netns", "del", name)
    for line in command("ip", "-o", "link").splitlines():
        found = re.match(rf"\d+: ({PREFIX}{owner}(?:h\d+)?)[@:]", line)
        if found:
            with contextlib.suppress(RuntimeError):
                command("ip", "link", "del", found[1])
    for line in Path("/proc/mounts").read_text().splitlines():
        source, target = line.split()[:2]
        if source == f"{PREFIX}-{owner}":
            with contextlib.suppress(RuntimeError):
                command("umount", "-l", target)
