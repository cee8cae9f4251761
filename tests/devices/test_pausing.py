"""A process that waits for its turn stands still, its spinning threads included, and none is left behind stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.devices import client
from edgebuild.devices.bundle import RUNNER
from edgebuild.devices.client import PROTOCOL, LiveRun
from edgebuild.devices.local import LocalDevice, ProcessChannel
from edgebuild.errors import DeviceError, RunnerFailed
from tests import needs
from tests.devices.sshd import Board, board, needs_sshd
from tests.devices.test_client import gone
from tests.measuring.test_session import Ground, ground

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.devices.emulator.device import EmulatedDevice
    from edgebuild.devices.transport import Device

__all__ = ["board", "ground"]

WAIT_S = 20.0
#: What the CPU time of a process is looked at for: its threads would spin all of it.
STILL_S = 0.3
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: A runner without a runtime: a thread spins, and turns come and go.
SPINNER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from runner.protocol import Wire

def spin():
    while True:
        pass

wire = Wire()
wire.request()
wire.pause_between_turns()
wire.listen()
threading.Thread(target=spin, daemon=True).start()
wire.end_turn(event="ready")
while wire.command() == "burst":
    wire.end_turn(event="burst")
wire.finish({})
"""
#: A host that is killed: it starts a spinner as ``LocalDevice`` does, and tells its number.
HOST = """
import sys, time
from pathlib import Path
from edgebuild.devices.local import LocalDevice, ProcessChannel
channel = LocalDevice(Path(sys.argv[1])).open([sys.executable, "-c", sys.argv[2], sys.argv[3]], {})
channel.send(sys.argv[4])
channel.receive(20.0)
print(channel.pid, flush=True)
time.sleep(600)
"""


def request(limit_s: float = 600.0, **more: object) -> str:
    return json.dumps({"protocol": PROTOCOL, "op": "bursts", "time_limit_s": limit_s, **more})


def fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """The CPU time of all threads of a process."""
    return sum(map(int, fields(pid)[11:13])) / TICKS_PER_S


def is_still(pid: int) -> bool:
    """Whether a process uses no CPU time while it waits."""
    before = cpu_s(pid)
    time.sleep(STILL_S)
    return cpu_s(pid) == before


def stopped(pid: int) -> bool:
    return fields(pid)[0] == "T"


def keeper_of(pid: int) -> int:
    """The one child of a process."""
    found = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) == pid]
    (keeper,) = found
    return keeper


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def pid_of(run: LiveRun) -> int:
    channel: Any = run._channel
    pid: int = channel.pid if isinstance(channel, ProcessChannel) else channel._group
    return pid


@pytest.fixture
def spinner(tmp_path: Path) -> Iterator[ProcessChannel]:
    yield from started(LocalDevice(tmp_path / "device"))


def started(device: LocalDevice | EmulatedDevice, line: str = "") -> Iterator[ProcessChannel]:
    """Yield a spinner that waits for its first turn."""
    channel = device.open([device.python, "-c", SPINNER, str(RUNNER.parent)], {})
    try:
        channel.send(line or request())
        assert channel.receive(WAIT_S) == '{"event": "ready"}'
        yield channel
    finally:
        channel.kill()
        assert gone(channel.pid)


def live(device: Device, ground: Ground) -> LiveRun:
    """Start the real runner with a session of ONNX Runtime whose threads spin."""
    there, arm = ground.client.on(device), ground.arm("a", heavy=True)
    bursts = {
        "backend": "onnxruntime",
        "artifact": there.put_folder(arm.folder),
        "settings": {"threads": 2, "spinning": True},
        "inputs": there.put_folder(arm.inputs),
        "out": f"{device.root}/work/out",
        "warmup_min_s": 0.05,
        "warmup_cap_s": 0.05,
        "burst_s": 0.01,
        "burst_inferences": 3,
        "bursts": 2,
    }
    return there.live(bursts, time_limit_s=60.0, silence_s=30.0)


def test_onnxruntimes_spinning_threads_stand_still_between_bursts(ground: Ground, tmp_path: Path) -> None:
    run = live(LocalDevice(tmp_path / "device"), ground)
    pid = pid_of(run)
    try:
        assert (run.ready() or 0) > 0
        assert is_still(pid)
        for _ in range(2):
            run.burst()
            assert is_still(pid)
        answer = run.end()
        assert len(answer["bursts"]) == 2
        assert sum(answer["bursts"]) == answer["count"]
    finally:
        run.close()
    assert gone(pid)


def test_a_turn_ends_before_the_host_hears_of_it(spinner: ProcessChannel) -> None:
    for _ in range(20):
        assert stopped(spinner.pid)
        spinner.send("burst")
        assert spinner.receive(WAIT_S) == '{"event": "burst"}'
    assert is_still(spinner.pid)


def test_a_knock_continues_nothing(spinner: ProcessChannel) -> None:
    for _ in range(5):
        spinner.send("")
    assert is_still(spinner.pid)
    spinner.send("end")
    assert spinner.receive(WAIT_S) == '{"result": {}}'
    assert spinner.wait(WAIT_S) == 0


def test_it_works_on_python_38(tmp_path: Path) -> None:
    needs.skip_without(needs.python_need("3.8"))
    for channel in started(LocalDevice(tmp_path / "device", str(needs.python("3.8")))):
        assert is_still(channel.pid)
        channel.send("end")
        assert channel.receive(WAIT_S) == '{"result": {}}'


def test_a_killed_host_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOST, str(tmp_path / "device"), SPINNER, str(RUNNER.parent), request()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        assert stopped(pid)
        host.kill()
    assert gone(pid)


def test_a_killed_keeper_leaves_nothing_behind(spinner: ProcessChannel) -> None:
    """Also where nobody would notice: the host is silent meanwhile."""
    os.kill(keeper_of(spinner.pid), signal.SIGKILL)
    assert gone(spinner.pid)
    with pytest.raises(DeviceError):
        spinner.send("burst")


def test_a_killed_runner_leaves_nothing_behind(ground: Ground, tmp_path: Path) -> None:
    run = live(LocalDevice(tmp_path / "device"), ground)
    try:
        run.ready()
        os.kill(pid_of(run), signal.SIGKILL)
        assert gone(pid_of(run))
        with pytest.raises((RunnerFailed, DeviceError)):
            run.burst()
    finally:
        run.close()


def test_its_time_limit_ends_a_stopped_runner(tmp_path: Path) -> None:
    for channel in started(LocalDevice(tmp_path / "device"), request(limit_s=2.0)):
        assert gone(channel.pid)
        assert channel.wait(WAIT_S) == -signal.SIGALRM


def test_a_silent_host_ends_a_stopped_runner(tmp_path: Path) -> None:
    for channel in started(LocalDevice(tmp_path / "device"), request(silence_s=0.5)):
        assert gone(channel.pid)
        assert channel.wait(WAIT_S) == 3


@needs_sshd
class TestOverSsh:
    """The same on a board behind SSH."""

    @pytest.fixture
    def run(self, board: Board, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveRun]:
        monkeypatch.setattr(client, "SILENCE_S", 2.0)
        device = board.device()
        run = live(device, ground)
        assert (run.ready() or 0) > 0
        yield run
        run.close()
        device.close()

    def test_spinning_threads_stand_still_between_bursts(self, run: LiveRun) -> None:
        for _ in range(2):
            assert is_still(pid_of(run))
            run.burst()
        assert len(run.end()["bursts"]) == 2
        run.close()
        assert gone(pid_of(run))

    def test_a_host_that_kills_it_leaves_nothing_behind(self, run: LiveRun) -> None:
        run.close()
        assert gone(pid_of(run))

    def test_a_link_without_a_word_leaves_nothing_behind(self, run: LiveRun) -> None:
        assert gone(pid_of(run))

    def test_a_cut_connection_leaves_nothing_behind(self, board: Board, run: LiveRun) -> None:
        for session in board.sessions():
            os.kill(session, signal.SIGKILL)
        assert gone(pid_of(run))

    def test_a_killed_keeper_leaves_nothing_behind(self, run: LiveRun) -> None:
        os.kill(keeper_of(pid_of(run)), signal.SIGKILL)
        assert gone(pid_of(run))
