"""Whether a device is fit to be lent: what is read from it, and what that says. Judging is pure."""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
import time
from typing import TYPE_CHECKING

from pydantic import Field

from edgebuild.core.values import digest_json
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.hold import hold_device
from edgebuild.devices.messages import whole_number
from edgebuild.devices.probe import configuration_of, platform_of, read_probe, require_alive
from edgebuild.errors import DeviceError, EdgebuildError, Interrupted
from edgebuild.farm.values import Message
from edgebuild.fleet.connect import connect
from edgebuild.measuring import session
from edgebuild.measuring.anchor import anchor_arm
from edgebuild.measuring.protocols import Protocol
from edgebuild.measuring.thermal import hottest_c

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from edgebuild.backends.protocol import Backend
    from edgebuild.core.steps import Progress
    from edgebuild.fleet.inventory import DeviceEntry

#: Less free room, on the device or on its host, and a job may end half-way.
LEAST_FREE_BYTES = 64 << 20
#: Idle and hotter than this, a device throttles as soon as it works.
HOTTEST_C = 80.0
#: A clock that is further off than this from its host's makes certificates and file times worthless.
MOST_SKEW_S = 60.0
#: By how much the anchor may differ from its history's median …
MOST_DRIFT = 0.05
#: … or by three times its history's spread, but never by more than this.
MOST_DRIFT_EVER = 0.25
#: Of fewer earlier checks there is no spread to speak of.
LEAST_HISTORY = 5
#: The raspberry's firmware: under-voltage, capped, throttled, soft limit; all of them now, the higher bits were once.
_PI_NOW = 0xF
#: Short: it comes before every job.
ANCHOR = Protocol(
    name="screen",
    launches=3,
    max_launches=3,
    sample_s=0.4,
    warmup_min_s=0.2,
    warmup_cap_s=5.0,
    attempts=2,
)


class Readings(Message):
    """What a check read; None is what this device, or its host, can't say.

    ``throttled`` says in words what throttles it now, ``anchor_note`` why there is no anchor. ``configuration`` stands
    for what the device is: anchors of another one are no history.
    """

    free_bytes: int | None = None
    host_free_bytes: int | None = None
    hottest_c: float | None = None
    throttled: tuple[str, ...] = ()
    skew_s: float | None = None
    anchor_ms: float | None = Field(default=None, gt=0)
    anchor_note: str = ""
    configuration: str = ""


def judge_health(readings: Readings, history: Sequence[float]) -> tuple[str, ...]:
    """Return why a device isn't fit, a sentence each; none for one that is.

    ``history`` holds the anchor's times in ms of earlier checks that passed, of the same configuration. What can't be
    read is no reason.
    """
    found = []
    for free, where in ((readings.free_bytes, "on the device"), (readings.host_free_bytes, "on its host")):
        if free is not None and free < LEAST_FREE_BYTES:
            found.append(f"{free >> 20} MiB are free {where}, less than {LEAST_FREE_BYTES >> 20}")
    if readings.hottest_c is not None and readings.hottest_c > HOTTEST_C:
        found.append(f"it is {readings.hottest_c:.0f} °C hot while idle, more than {HOTTEST_C:.0f}")
    found += [f"it is throttled: {words}" for words in readings.throttled]
    if readings.skew_s is not None and abs(readings.skew_s) > MOST_SKEW_S:
        found.append(f"its clock is {readings.skew_s:+.0f} s off its host's, more than {MOST_SKEW_S:.0f}")
    if readings.anchor_ms is not None and len(history) >= LEAST_HISTORY:
        usual, allowed = statistics.median(history), allowed_drift(history)
        drift = readings.anchor_ms / usual - 1
        if abs(math.log1p(drift)) > math.log1p(allowed):
            found.append(
                f"the anchor takes {readings.anchor_ms:.3g} ms, {drift:+.1%} off its usual {usual:.3g} ms "
                f"({allowed:.1%} are allowed)"
            )
    return tuple(found)


def allowed_drift(history: Sequence[float]) -> float:
    """Return by how much the anchor may differ: 5 %, or three robust standard deviations of its history, up to 25 %."""
    logs = [math.log(each) for each in history]
    middle = statistics.median(logs)
    # 1.4826 x the median absolute deviation estimates a normal's standard deviation (Rousseeuw & Croux 1993).
    spread = 1.4826 * statistics.median(abs(each - middle) for each in logs)
    return min(MOST_DRIFT_EVER, max(MOST_DRIFT, math.expm1(3 * spread)))


def throttled(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Return what throttles a device, from two flattened probes: bits and alarms that are set, counters that moved."""
    found = []
    for name, value in sorted(after.items()):
        if not name.startswith("throttles.") or whole_number(value) is None:
            continue
        what, now = name.rsplit("/", 1)[-1], int(value)
        if what == "get_throttled":
            found += [f"the firmware says {now & _PI_NOW:#x}"] if now & _PI_NOW else []
        elif what.endswith("_alarm"):
            found += [f"{what} is set"] if now else []
        elif name in before and before[name] != value:
            found.append(f"{what} went from {before[name]} to {value}")
    return tuple(found)


def require_answer(entry: DeviceEntry) -> None:
    """Raise ``DeviceError`` unless the device's runner answers."""
    with contextlib.closing(connect(entry)) as device:
        require_alive(RunnerClient(device, {}))


def read_health(entry: DeviceEntry, scratch: Path, *, progress: Progress, check: Callable[[], None]) -> Readings:
    """Hold the device, ask it how it is, and let it run the anchor; raises ``DeviceError`` where it doesn't answer."""
    from edgebuild.backends.table import backends

    table = backends()
    with contextlib.closing(connect(entry)) as device:
        client = RunnerClient(device, {name: backend.device_file for name, backend in table.items()})
        with hold_device(client, "edgebuild: health check", progress=progress, check=check):
            before, skew = _timed_probe(client)
            time_ms, note, configuration = None, device.capabilities.why, ""
            if device.capabilities.times:
                probe = read_probe(client)
                facts = {fact.name: fact.value for fact in configuration_of(probe)}
                configuration = digest_json({**facts, "runner": client.runner_digest})[:16]
                time_ms, note = _anchor(client, probe, table, scratch, progress, check)
            after = read_probe(client, light=True)
        free = whole_number(after.get("disk_free_bytes", ""))
        return Readings(
            free_bytes=free,
            host_free_bytes=shutil.disk_usage(scratch).free,
            hottest_c=hottest_c(before),
            throttled=throttled(before, after),
            skew_s=None if device.on_host else skew,
            anchor_ms=time_ms,
            anchor_note=note,
            configuration=configuration,
        )


def _timed_probe(client: RunnerClient) -> tuple[dict[str, str], float | None]:
    """Return a quick probe, and how far the device's clock is ahead of ours as it tells."""
    read_probe(client, light=True)  # the runner lies there now: the next one is quick
    began = time.time()
    probe = read_probe(client, light=True)
    ended = time.time()
    try:
        at = float(probe["clock_s"])
    except (KeyError, ValueError):
        return probe, None
    skew = min(0.0, at - began) + max(0.0, at - ended)
    return probe, skew if math.isfinite(skew) else None


def _anchor(
    client: RunnerClient,
    probe: Mapping[str, str],
    table: Mapping[str, Backend],
    scratch: Path,
    progress: Progress,
    check: Callable[[], None],
) -> tuple[float | None, str]:
    """Return the median of the anchor's launches in ms, or why there is none."""
    from edgebuild.core.files import cache_home
    from edgebuild.execution.executor import Executor
    from edgebuild.execution.store import Store

    able = {name: backend for name, backend in table.items() if probe.get(f"runtime.{name}", "unknown") != "unknown"}
    try:
        with Store.open(cache_home() / "bench" / "store", quota_bytes=2_000_000_000) as store:
            executor = Executor(
                store=store,
                progress=progress,
                check=check,
                seed=0,
                isa="",
                device_configuration=platform_of(client, probe),
                device=client,
                project="bench",
            )
            arm = anchor_arm(able, executor)
            if arm is None:
                return None, "no runtime of the device is installed on its host, so there is no anchor"
            bench = session.MeasurementContext(
                client=client,
                root=scratch / "anchor",
                progress=progress,
                check=check,
                configuration=configuration_of(probe),
                remeasure=True,
            )
            measured = session.measure(bench, ANCHOR, (arm,), title="anchor").measurements[arm.id]
    except (DeviceError, Interrupted):
        raise
    except EdgebuildError as error:
        return None, error.message
    times = [launch.median_ns / 1e6 for launch in measured.launches if launch.valid]
    if not times:
        return None, f"the device was disturbed: {measured.launches[0].invalid[0]}"
    return statistics.median(times), ""
