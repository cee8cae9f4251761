"""A package as a host's owner may install one: a kind of device that only pretends to be a board, and kinds of jobs.

It is found by its entry points where its folder is on PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.benching import bench
from edgebuild.core.capabilities import Capabilities
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.hold import hold_device
from edgebuild.devices.local import LocalDevice
from edgebuild.errors import DeviceError
from edgebuild.farm.host import health
from edgebuild.farm.host.orders import Outcome
from edgebuild.fleet import connect as connecting
from edgebuild.measuring import session, side

if TYPE_CHECKING:
    from edgebuild.farm.host.orders import Assignment
    from edgebuild.fleet.inventory import DeviceEntry

#: Runs on the board: notes in the board's own log when a turn begins and ends, and whether another one goes on.
NOTER = """
import fcntl, os, sys
log = open(os.path.join(sys.argv[1], "turns.log"), "a")
lock = open(os.path.join(sys.argv[1], "turns.lock"), "w")
def note(*words):
    log.write(" ".join(words) + "\\n"); log.flush(); os.fsync(log.fileno())
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    note("CLASH", *sys.argv[2:])
note("begin", *sys.argv[2:])
print("begun", flush=True)
line = sys.stdin.readline()
note("end" if line else "cut", *sys.argv[2:])
print("over", flush=True)
"""


if os.environ.get("PRETEND_FARM_QUICK"):
    brief = {"sample_s": 0.05, "warmup_min_s": 0.02, "warmup_cap_s": 0.05, "waiting_ratio": 1e9, "steal_ratio": 1.0}
    session.ANCHOR_SAMPLE_S = side.MEMORY_S = 0.05
    bench.SCREEN = bench.SCREEN.model_copy(update={**brief, "bursts": 3, "burst_s": 0.01})  # type: ignore[attr-defined]
    health.ANCHOR = health.ANCHOR.model_copy(update=brief)


class PretendDevice(LocalDevice):
    """A folder of this machine, which nothing is timed on. One with a file NAME.broken beside it doesn't answer."""

    capabilities = Capabilities(times=False, why="the device only pretends to be a board")

    def open(self, *words: Any) -> Any:
        """See ``Device``."""
        if Path(f"{self.root}.broken").exists():
            raise DeviceError(f"{self.id} is broken.")
        return super().open(*words)


def connect(entry: DeviceEntry) -> PretendDevice:
    """Return the device whose disk is the entry's address."""
    return PretendDevice(Path(entry.address), python=sys.executable, name=entry.name)


def turn(assignment: Assignment) -> Outcome:
    """Hold the device for ``seconds``, with a line in its own log at both ends."""
    order = assignment.order
    token, seconds = order.job.attempts[-1].token, float(order.job.spec.arguments.get("seconds", 0.1))
    with contextlib.closing(connecting.connect(order.entry)) as device:
        client = RunnerClient(device, {})
        with hold_device(client, "a turn", check=assignment.check):
            channel = device.open(
                [device.python, "-c", NOTER, device.root, order.job.id, str(token)], {"PYTHONUNBUFFERED": "1"}
            )
            try:
                _hear(channel, "begun", assignment)
                assignment.say(f"begun on {order.entry.name}")
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    assignment.check()
                    time.sleep(0.02)
                channel.send("end")
                _hear(channel, "over", assignment)
            finally:
                channel.kill()
    return Outcome(result={"token": token, "device": order.entry.name})


def _hear(channel: Any, word: str, assignment: Assignment) -> None:
    """Wait for a word of the board's; a board that says something else, or nothing, is lost."""
    until = time.monotonic() + 20.0
    while time.monotonic() < until:
        assignment.check()
        try:
            line = channel.receive(0.2)
        except TimeoutError:
            continue
        if line != word:
            raise DeviceError(f"The board says {line!r} and not {word!r}.")
        return
    raise DeviceError("The board says nothing.")


def burst_out(assignment: Assignment) -> Outcome:
    """Fail as a bug does."""
    print("what goes to standard output is no word")
    raise ValueError(f"nobody foresaw {assignment.order.job.id}")


def hog(assignment: Assignment) -> Outcome:
    """Hold this process's interpreter for ``seconds``: no other thread of it runs meanwhile."""
    import ctypes

    ctypes.PyDLL(None).sleep(int(assignment.order.job.spec.arguments["seconds"]))
    return Outcome(result={"deaf": True})
