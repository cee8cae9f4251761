"""What may disturb a measurement: read before and after, compared against stated bounds."""

from __future__ import annotations

import os
import resource
import time

from .machine import UNKNOWN, Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .protocol import Fields

#: A request may give others; those that held are part of the result.
BOUNDS = {
    "swap_in_pages": 0,
    "clock_step_s": 0.05,
    "frequency_ratio": 0.98,
    "steal_ratio": 0.02,
    "waiting_ratio": 0.1,
    "quota_throttled_ratio": 0.02,
    "spread_ratio": 0.05,
}


#: What others on the same cores cause. It comes in slices of milliseconds, each of which one inference feels.
NEIGHBOURS = ("steal", "quota", "waiting")


class Snapshot:
    """One reading of everything that changes."""

    def __init__(self, machine: Machine) -> None:
        self.monotonic_s = time.monotonic()
        self.realtime_s = time.time()
        self.swap_in = machine.counter("proc/vmstat", "pswpin")
        self.jiffies = machine.jiffies()
        self.switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        self.waiting_ns = waiting_ns(machine)
        self.throttles = machine.throttles()
        self.frequencies = machine.frequencies("scaling_cur_freq")
        self.zones = machine.zones()
        self.quota_us = quota_throttled_us(machine)
        self.load = (machine.text("proc/loadavg") or UNKNOWN).split(" ")[0]


def waiting_ns(machine: Machine) -> int | None:
    """Return how long this process's threads have stood ready without a core, all together (schedstat, run delay).

    Involuntary context switches say less: onnxruntime's spinning threads yield, which counts as thousands a second
    on a machine where nothing else runs.
    """
    found = [(machine.text(path) or "").split() for path in machine.paths("proc/self/task/*/schedstat")]
    delays = [int(fields[1]) for fields in found if len(fields) > 1 and fields[1].isdigit()]
    return sum(delays) if delays else None


def quota_throttled_us(machine: Machine) -> int | None:
    """Return how long a container's CPU quota has held it back (cgroup v2, ``cpu.stat``)."""
    lines = (machine.text("proc/self/cgroup") or "").splitlines()
    group = next((line[3:] for line in lines if line.startswith("0::")), "")
    return machine.counter("sys/fs/cgroup%s/cpu.stat" % group, "throttled_usec")


def compare(
    machine: Machine,
    before: Snapshot,
    after: Snapshot,
    bounds: Fields,
    spread: float,
    busy_s: float | None = None,
) -> tuple[list[Fields], list[str]]:
    """Return the facts of the interval and the reasons why what was measured in it must not count.

    ``spread`` is by how much the third quartile of the samples exceeds the first: others on the same cores disturb a
    median only where most of what it is taken of felt them. ``busy_s`` is how long this process worked in the interval,
    where it slept the rest.
    """
    seconds = max(after.monotonic_s - before.monotonic_s if busy_s is None else busy_s, 1e-9)
    seen = dict(_differences(before, after, seconds), spread=spread)
    reasons = _reasons(machine, before, after, seen, bounds)
    facts = {
        "governor": ", ".join(machine.governors()),
        "frequency_min_khz": _values(machine.frequencies("scaling_min_freq")),
        "frequency_max_khz": _values(machine.frequencies("scaling_max_freq")),
        "frequency_before_khz": _values(before.frequencies),
        "frequency_after_khz": _values(after.frequencies),
        "hottest_before_c": _hottest(before.zones),
        "hottest_after_c": _hottest(after.zones),
        "throttle_changes": str(seen["throttle"]) if after.throttles else None,
        "load_before": before.load,
        "load_after": after.load,
        "swap_in_pages": seen["swap_in"],
        "steal_ratio": seen["steal"],
        "involuntary_switches_per_s": seen["switches"],
        "waiting_ratio": seen["waiting"],
        "spread_ratio": seen["spread"],
        "quota_throttled_ratio": seen["quota"],
        "clock_step_s": seen["clock"],
    }
    return [{"name": name, "value": _shown(value)} for name, value in facts.items()], reasons


def _differences(before: Snapshot, after: Snapshot, seconds: float) -> Fields:
    steal = None
    if before.jiffies and after.jiffies:
        total = after.jiffies["total"] - before.jiffies["total"]
        steal = (after.jiffies["steal"] - before.jiffies["steal"]) / total if total > 0 else 0.0
    quota = None
    if before.quota_us is not None and after.quota_us is not None:
        quota = (after.quota_us - before.quota_us) / 1e6 / seconds
    waiting = None
    if before.waiting_ns is not None and after.waiting_ns is not None:
        # A thread that ended takes its share of the sum with it.
        waiting = max(0.0, (after.waiting_ns - before.waiting_ns) / 1e9 / seconds)
    swap = None
    if before.swap_in is not None and after.swap_in is not None:
        swap = after.swap_in - before.swap_in
    return {
        "clock": abs((after.realtime_s - before.realtime_s) - (after.monotonic_s - before.monotonic_s)),
        "swap_in": swap,
        "steal": steal,
        "quota": quota,
        "waiting": waiting,
        "switches": (after.switches - before.switches) / seconds,
        "throttle": sum(after.throttles.get(k, 0) != v for k, v in before.throttles.items()),
    }


def _reasons(machine: Machine, before: Snapshot, after: Snapshot, seen: Fields, bounds: Fields) -> list[str]:
    limits = (
        ("swap_in", "swap_in_pages", "memory was swapped in (%g pages, at most %g)"),
        ("clock", "clock_step_s", "the clock was stepped by %.3g s (at most %g)"),
        ("steal", "steal_ratio", "%.3g of the CPU time was stolen by the host (at most %g)"),
        ("quota", "quota_throttled_ratio", "a CPU quota held the process back for %.3g of the time (at most %g)"),
        ("waiting", "waiting_ratio", "threads waited for a core %.3g of the time (at most %g): the machine was busy"),
    )
    reasons = [
        text % (seen[name], bounds[bound])
        for name, bound, text in limits
        if seen[name] is not None
        and seen[name] > bounds[bound]
        and (name not in NEIGHBOURS or seen["spread"] > bounds["spread_ratio"])
    ]
    if seen["throttle"]:
        reasons.append("%d throttle counters or alarms changed" % seen["throttle"])
    pinned = {
        core: khz
        for core, khz in machine.frequencies("scaling_max_freq").items()
        if machine.frequencies("scaling_min_freq").get(core) == khz
    }
    slow = [
        core
        for core, khz in pinned.items()
        if min(before.frequencies.get(core, khz), after.frequencies.get(core, khz)) < bounds["frequency_ratio"] * khz
    ]
    if slow:
        reasons.append("%s ran below %g of its pinned frequency" % (", ".join(slow), bounds["frequency_ratio"]))
    return reasons


def bounds_of(request: Fields) -> Fields:
    """Return the bounds that hold: ours, and the request's over them."""
    return {**BOUNDS, **request.get("bounds", {})}


def start_s() -> float | None:
    """Return the seconds since this process was started (resolution: a clock tick, 10 ms on most machines)."""
    text = Machine().text("proc/self/stat")
    if text is None:
        return None
    # Field 22; the name in field 2 may hold spaces, so count from its closing bracket.
    ticks = int(text.rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return age if age >= 0 else None


def read_bytes() -> int | None:
    """Return the bytes that this process had fetched from storage."""
    return Machine().counter("proc/self/io", "read_bytes")


def page_cache(before: int | None, after: int | None, model_bytes: int) -> str:
    """Say whether the model came from memory: ``warm`` when nothing was fetched, ``cold`` when all of it was."""
    if before is None or after is None:
        return UNKNOWN
    fetched = after - before
    return "warm" if fetched == 0 else "cold" if fetched >= model_bytes else UNKNOWN


def _values(cores: dict[str, int]) -> str:
    return ", ".join(sorted({str(v) for v in cores.values()}))


def _hottest(zones: dict[str, float]) -> Any:
    return max(zones.values()) if zones else None


def _shown(value: Any) -> str:
    if value is None or value == "":
        return UNKNOWN
    return "%.6g" % value if isinstance(value, float) else str(value)
