"""Limits in addition to the budget: latency, throughput, memory, size, load time. A missing figure never passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.measurement import Measurements
from edgebuild.core.verdict import LimitCheck, Outcome, Verdict
from edgebuild.errors import UsageError
from edgebuild.judging.outcomes import with_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MB = 1_000_000
NOTHING = Measurements()


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What is known of an artifact, and why it isn't more."""

    measured: Measurements
    size_bytes: int
    why: str


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A measured value with its 95 % interval where one is known, or why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = "not measured"


def _median(known: _Known) -> _Figure:
    latency = known.measured.latency
    if latency is None:
        return _Figure(why=known.why)
    return _Figure(value=latency.point_ms, low=latency.low_ms, high=latency.high_ms)


def _p99(known: _Known) -> _Figure:
    latency = known.measured.latency
    found = [one for one in latency.percentiles if one.p == 99.0] if latency else []
    if not found:
        return _Figure(why=known.why)
    return _Figure(value=found[0].value_ms, why=f"n/a, needs {found[0].needs_n} samples")


def _throughput(known: _Known) -> _Figure:
    found = known.measured.throughput
    if found is None:
        return _Figure(why=known.why)
    return _Figure(value=found.per_s, low=found.low_per_s, high=found.high_per_s)


def _peak_memory(known: _Known) -> _Figure:
    memory = known.measured.memory
    return _Figure(value=memory.peak_bytes / MB if memory else None, why=known.why)


def _file_size(known: _Known) -> _Figure:
    return _Figure(value=known.size_bytes / MB)


def _load_time(known: _Known) -> _Figure:
    latency = known.measured.latency
    return _Figure(value=latency.load_ms if latency else None, why=known.why)


_LIMITS: dict[str, tuple[Callable[[_Known], _Figure], bool, str, str]] = {
    # name: (how it is read, whether it is the least allowed, unit, words)
    "latency_p50_ms": (_median, False, "ms", "median latency"),
    "latency_p99_ms": (_p99, False, "ms", "p99 latency"),
    "throughput_per_s": (_throughput, True, "a second", "throughput"),
    "peak_memory_mb": (_peak_memory, False, "MB", "peak memory"),
    "file_size_mb": (_file_size, False, "MB", "file size"),
    "load_time_ms": (_load_time, False, "ms", "load time"),
}


def check_limits(
    verdict: Verdict,
    limits: Mapping[str, float],
    *,
    size_bytes: int,
    measured: Measurements = NOTHING,
    why: str = "not measured",
) -> Verdict:
    """Return the verdict with every limit checked: its outcome becomes the worst of them all, each miss with a reason.

    ``limits`` are named as in ``[limits]`` of edgebuild.toml (MB = 10^6 bytes). The median latency, and the throughput
    with several requests in flight, pass when their 95 % interval lies inside the limit, are refused when it lies
    beyond it, and are else inconclusive; the other figures carry no interval and are compared as they are. What wasn't
    measured is inconclusive, with ``why``. Raises ``UsageError`` for an unknown limit.
    """
    unknown = sorted(set(limits) - set(_LIMITS))
    if unknown:
        raise UsageError(f"there is no limit {unknown[0]!r}", hint=f"limits are {', '.join(_LIMITS)}")
    known = _Known(measured=measured, size_bytes=size_bytes, why=why)
    for name in [name for name in _LIMITS if name in limits]:
        check, reason = _check(name, limits[name], known)
        verdict = verdict.model_copy(update={"limits": (*verdict.limits, check)})
        if check.outcome is not Outcome.ACCEPTED:
            verdict = with_reason(verdict, reason, check.outcome)
    return verdict


def _check(name: str, limit: float, known: _Known) -> tuple[LimitCheck, str]:
    read, least, unit, words = _LIMITS[name]
    figure = read(known)
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
