"""Limits beside the budget: latency, throughput, memory, size, load time. A missing figure never passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.verdict import LimitCheck, Outcome, Verdict
from edgebuild.errors import UsageError
from edgebuild.judging.outcomes import with_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgebuild.core.measurement import LatencySummary, Memory, ThroughputSummary

MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of an artifact; ``None`` for what wasn't or couldn't be measured, and ``why``."""

    latency: LatencySummary | None = None
    throughput: ThroughputSummary | None = None
    memory: Memory | None = None
    size_bytes: int | None = None
    why: str = "not measured"


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A measured value with its 95 % interval where one is known, or why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = "not measured"


def _median(measured: Measured) -> _Figure:
    latency = measured.latency
    if latency is None:
        return _Figure(why=measured.why)
    return _Figure(value=latency.point_ms, low=latency.low_ms, high=latency.high_ms)


def _p99(measured: Measured) -> _Figure:
    found = [one for one in measured.latency.percentiles if one.p == 99.0] if measured.latency else []
    if not found:
        return _Figure(why=measured.why)
    return _Figure(value=found[0].value_ms, why=f"n/a, needs {found[0].needs_n} samples")


def _throughput(measured: Measured) -> _Figure:
    found = measured.throughput
    if found is None:
        return _Figure(why=measured.why)
    return _Figure(value=found.per_s, low=found.low_per_s, high=found.high_per_s)


def _peak_memory(measured: Measured) -> _Figure:
    return _Figure(value=measured.memory.peak_bytes / MB if measured.memory else None, why=measured.why)


def _file_size(measured: Measured) -> _Figure:
    return _Figure(value=None if measured.size_bytes is None else measured.size_bytes / MB)


def _load_time(measured: Measured) -> _Figure:
    return _Figure(value=measured.latency.load_ms if measured.latency else None, why=measured.why)


_LIMITS: dict[str, tuple[Callable[[Measured], _Figure], bool, str, str]] = {
    # name: (how it is read, whether it is the least allowed, unit, words)
    "latency_p50_ms": (_median, False, "ms", "median latency"),
    "latency_p99_ms": (_p99, False, "ms", "p99 latency"),
    "throughput_per_s": (_throughput, True, "a second", "throughput"),
    "peak_memory_mb": (_peak_memory, False, "MB", "peak memory"),
    "file_size_mb": (_file_size, False, "MB", "file size"),
    "load_time_ms": (_load_time, False, "ms", "load time"),
}


def check_limits(verdict: Verdict, limits: Mapping[str, float], measured: Measured) -> Verdict:
    """Return the verdict with every limit checked: its outcome becomes the worst of them all, each miss with a reason.

    ``limits`` are named as in ``[limits]`` of edgebuild.toml (MB = 10^6 bytes). The median latency, and the throughput
    with several requests in flight, pass when their 95 % interval lies inside the limit, are refused when it lies
    beyond it, and are else inconclusive; the other figures carry no interval and are compared as they are. What wasn't
    measured is inconclusive. Raises ``UsageError`` for an unknown limit.
    """
    unknown = sorted(set(limits) - set(_LIMITS))
    if unknown:
        raise UsageError(f"there is no limit {unknown[0]!r}", hint=f"limits are {', '.join(_LIMITS)}")
    for name in [name for name in _LIMITS if name in limits]:
        check, reason = _check(name, limits[name], measured)
        verdict = verdict.model_copy(update={"limits": (*verdict.limits, check)})
        if check.outcome is not Outcome.ACCEPTED:
            verdict = with_reason(verdict, reason, check.outcome)
    return verdict


def _check(name: str, limit: float, measured: Measured) -> tuple[LimitCheck, str]:
    read, least, unit, words = _LIMITS[name]
    figure = read(measured)
    if figure.value is None:
        check = LimitCheck(name=name, limit=limit, measured=None, outcome=Outcome.INCONCLUSIVE)
        return check, f"{words} is unknown ({figure.why}), so its limit of {limit:g} {unit} isn't proven"
    sign = -1 if least else 1
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    if sign * high <= sign * limit and sign * low <= sign * limit:
        outcome, ending = Outcome.ACCEPTED, "inside"
    elif sign * low > sign * limit and sign * high > sign * limit:
        outcome, ending = Outcome.REFUSED, "beyond"
    else:
        outcome, ending = Outcome.INCONCLUSIVE, f"its interval {low:.4g} to {high:.4g} straddles"
    return (
        LimitCheck(name=name, limit=limit, measured=figure.value, outcome=outcome),
        f"{words} {figure.value:.4g} {unit}, {ending} the limit of {limit:g} {unit}",
    )
