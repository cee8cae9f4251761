"""Whether two measurements agree is pure, and says so where the intervals are too wide to tell."""

from __future__ import annotations

import pytest

from edgebuild.core.measurement import LatencySummary
from edgebuild.releasing.replay import compared
from edgebuild.releasing.values import Latency


def summary(point: float, spread: float | None) -> LatencySummary:
    return LatencySummary(
        launches=6,
        invalid_launches=0,
        point_ms=point,
        low_ms=None if spread is None else point / (1 + spread),
        high_ms=None if spread is None else point * (1 + spread),
        throughput_per_s=1e3 / point,
        load_ms=1.0,
        first_inference_ms=1.0,
    )


def recorded(point: float, spread: float = 0.02) -> Latency:
    return Latency(point_ms=point, low_ms=point / (1 + spread), high_ms=point * (1 + spread), launches=6)


@pytest.mark.parametrize(
    ("now", "spread", "agreement"),
    [
        (10.0, 0.02, "agrees"),
        (10.4, 0.02, "agrees"),
        (11.2, 0.02, "disagrees"),
        (8.8, 0.02, "disagrees"),
        (10.8, 0.04, "agrees"),
        (10.0, 0.5, "inconclusive"),
        (13.0, 0.5, "inconclusive"),
        (20.0, 0.5, "disagrees"),
    ],
)
def test_what_two_sessions_come_to(now: float, spread: float, agreement: str) -> None:
    found = compared(recorded(10.0), summary(now, spread))
    assert found is not None
    assert found.agreement == agreement
    assert found.low < found.ratio < found.high


def test_without_an_interval_nothing_is_said() -> None:
    assert compared(recorded(10.0), summary(10.0, None)) is None
    assert compared(Latency(point_ms=10.0, launches=1), summary(10.0, 0.02)) is None


def test_swapping_the_sessions_mirrors_the_ratio() -> None:
    one, other = compared(recorded(10.0), summary(12.0, 0.02)), compared(recorded(12.0), summary(10.0, 0.02))
    assert one is not None
    assert other is not None
    assert one.ratio * other.ratio == pytest.approx(1)
    assert one.low * other.high == pytest.approx(1)
