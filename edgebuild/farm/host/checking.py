"""The health check: as a job of its own, and before every other one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any

from edgebuild.devices.messages import printable
from edgebuild.errors import DeviceError, EdgebuildError
from edgebuild.farm.client import FarmClient
from edgebuild.farm.host.health import Readings, judge_health, read_health
from edgebuild.farm.host.orders import Outcome
from edgebuild.farm.host.speaking import LogProgress
from edgebuild.farm.values import MOST_FAILURES, JobEnd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.farm.host.orders import Assignment

#: So many earlier anchors are looked at, the newest.
MOST_HISTORY = 30
#: How long a command may take that switches a device off and on, and how long the device may take to come back.
CYCLE_LIMIT_S = 60.0
BACK_LIMIT_S = 240.0
BACK_POLL_S = 3.0
MOST_OUTPUT = 4_000


def check(assignment: Assignment) -> Outcome:
    """Look at a device. One that turns bad by it is switched off and on, where its owner said how, and looked at again.

    ``failures`` among the job's arguments says how many checks in a row failed before.
    """
    found = examine(assignment)
    failures = assignment.order.job.spec.arguments.get("failures", 0)
    if found.how is JobEnd.SUCCEEDED or failures != MOST_FAILURES - 1 or not assignment.order.entry.power_cycle:
        return found
    assignment.say(f"{found.reason}: switching it off and on")
    if not cycle(assignment):
        return found
    return _looked_at_until_back(assignment, time.monotonic() + BACK_LIMIT_S)


def examine(assignment: Assignment) -> Outcome:
    """Read a device and judge it; what is wrong with it is a lost device with the reason."""
    order = assignment.order
    try:
        readings = read_health(
            order.entry, assignment.scratch, progress=LogProgress(assignment.say), check=assignment.check
        )
    except DeviceError as error:
        return Outcome(how=JobEnd.DEVICE_LOST, reason=error.message)
    reasons = judge_health(readings, past_anchors(assignment, readings))
    said: dict[str, Any] = {"readings": readings.model_dump(mode="json"), "anchor_ms": readings.anchor_ms}
    if reasons:
        return Outcome(how=JobEnd.DEVICE_LOST, reason="; ".join(reasons), **said)
    return Outcome(**said)


def past_anchors(assignment: Assignment, readings: Readings) -> list[float]:
    """Return the anchor's times of this device as it is configured now; none where the farm can't be asked."""
    if readings.anchor_ms is None:
        return []
    client = FarmClient(assignment.order.farm.address())
    try:
        checks: list[dict[str, Any]] = client.ask(
            "GET", f"/api/devices/{assignment.order.entry.name}/checks", list[dict[str, Any]]
        )
    except EdgebuildError as error:
        assignment.say(f"the anchor isn't judged: {error.message}")
        return []
    finally:
        client.close()
    return usable(checks, readings.configuration)


def usable(checks: Sequence[dict[str, Any]], configuration: str) -> list[float]:
    """Return the anchors of the newest of those checks, which come first, that passed with a configuration."""
    found = []
    for each in checks:
        same = isinstance(each.get("readings"), dict) and each["readings"].get("configuration") == configuration
        time_ms = each.get("anchor_ms")
        if each.get("passed") and same and isinstance(time_ms, float) and time_ms > 0:
            found.append(time_ms)
    return found[:MOST_HISTORY]


def cycle(assignment: Assignment) -> bool:
    """Run the command that switches a device off and on; return whether it ended well. Its output goes to the log."""
    words = list(assignment.order.entry.power_cycle)
    with tempfile.TemporaryFile(dir=assignment.scratch) as output:
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            assignment.say(f"{words[0]} can't be started: {error.strerror or error}")
            return False
        try:
            ended = f"ended with status {process.wait(CYCLE_LIMIT_S)}"
        except subprocess.TimeoutExpired:
            ended = f"took longer than {CYCLE_LIMIT_S:g} s and was ended"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind, too
        process.wait()
        output.seek(0)
        assignment.say(printable(output.read(MOST_OUTPUT).decode("utf-8", "replace")))
    assignment.say(f"{words[0]} {ended}")
    return process.returncode == 0


def _looked_at_until_back(assignment: Assignment, until: float) -> Outcome:
    while True:
        found = examine(assignment)
        if found.how is JobEnd.SUCCEEDED or found.readings is not None or time.monotonic() > until:
            return found
        assignment.check()
        time.sleep(BACK_POLL_S)
