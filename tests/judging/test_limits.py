"""Limits against what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from edgebuild.core.measurement import LatencySummary, Measurements, Memory, Percentile, ThroughputSummary
from edgebuild.core.verdict import Outcome, Verdict
from edgebuild.errors import UsageError
from edgebuild.judging.limits import check_limits

FINE = Verdict(outcome=Outcome.ACCEPTED, reasons=("accuracy is fine",))


def latency(p99_ms: float | None = 3.0, **changes: Any) -> LatencySummary:
    fields: dict[str, Any] = {
        "launches": 10,
        "invalid_launches": 0,
        "point_ms": 2.0,
        "low_ms": 1.9,
        "high_ms": 2.1,
        "percentiles": (Percentile(p=99.0, value_ms=p99_ms, needs_n=662),),
        "throughput_per_s": 480.0,
        "load_ms": 30.0,
        "first_inference_ms": 5.0,
    }
    return LatencySummary(**{**fields, **changes})


WHOLE = Measurements(
    latency=latency(throughput_per_s=9000.0),
    throughput=ThroughputSummary(launches=10, invalid_launches=0, requests=4, concurrent=True, per_s=480.0),
    memory=Memory(baseline_bytes=20_000_000, load_peak_bytes=40_000_000, inference_peak_bytes=50_000_000),
)
SIZE_BYTES = 1_500_000
TABLE = [
    ("latency_p50_ms", 2.1, 1.8, 2.0),
    ("latency_p99_ms", 3.0, 2.9, 3.0),
    ("throughput_per_s", 480.0, 481.0, 480.0),
    ("peak_memory_mb", 50.0, 49.9, 50.0),
    ("file_size_mb", 1.5, 1.4, 1.5),
    ("load_time_ms", 30.0, 29.0, 30.0),
]


def checked(limits: dict[str, float], measured: Measurements = WHOLE, verdict: Verdict = FINE, **more: str) -> Verdict:
    return check_limits(verdict, limits, size_bytes=SIZE_BYTES, measured=measured, **more)


@pytest.mark.parametrize(("name", "kept", "missed", "measured"), TABLE)
def test_each_limit(name: str, kept: float, missed: float, measured: float) -> None:
    passed = checked({name: kept}, WHOLE)
    assert passed.outcome is Outcome.ACCEPTED
    assert passed.reasons == FINE.reasons
    assert (passed.limits[0].name, passed.limits[0].measured) == (name, measured)
    refused = checked({name: missed}, WHOLE)
    assert refused.outcome is Outcome.REFUSED
    assert "beyond the limit of" in refused.reasons[1]


@pytest.mark.parametrize("name", [row[0] for row in TABLE if row[0] != "file_size_mb"])
def test_what_is_missing_never_passes(name: str) -> None:
    verdict = checked({name: 1.0}, Measurements(), why="no device")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.limits[0].measured is None
    assert "is unknown (no device), so its limit of 1" in verdict.reasons[1]


def test_a_percentile_below_its_sample_count_never_passes() -> None:
    verdict = checked({"latency_p99_ms": 100.0}, Measurements(latency=latency(p99_ms=None)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "n/a, needs 662 samples" in verdict.reasons[1]


def test_a_median_whose_interval_straddles_the_limit_is_inconclusive() -> None:
    verdict = checked({"latency_p50_ms": 2.05}, WHOLE)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[1] == "median latency 2 ms, its interval 1.9 to 2.1 straddles the limit of 2.05 ms"


def test_throughput_is_judged_by_what_was_measured_in_flight() -> None:
    alone = checked({"throughput_per_s": 1.0}, Measurements(latency=latency()))
    assert alone.outcome is Outcome.INCONCLUSIVE
    found = WHOLE.throughput
    assert found is not None
    ends = {"low_per_s": 450.0, "high_per_s": 500.0}
    wide = WHOLE.model_copy(update={"throughput": found.model_copy(update=ends)})
    for limit, outcome in ((449, Outcome.ACCEPTED), (470, Outcome.INCONCLUSIVE), (501, Outcome.REFUSED)):
        assert checked({"throughput_per_s": float(limit)}, wide).outcome is outcome


def test_the_worst_outcome_counts() -> None:
    limits = {"latency_p50_ms": 2.05, "file_size_mb": 1.0, "load_time_ms": 100.0}
    verdict = checked(limits, WHOLE)
    assert verdict.outcome is Outcome.REFUSED
    assert [check.outcome for check in verdict.limits] == [Outcome.INCONCLUSIVE, Outcome.REFUSED, Outcome.ACCEPTED]
    assert len(verdict.reasons) == 3
    refused = Verdict(outcome=Outcome.REFUSED, reasons=("NaN",))
    assert checked({"load_time_ms": 100.0}, verdict=refused).outcome is Outcome.REFUSED


def test_an_unknown_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="no limit 'latency'"):
        checked({"latency": 1.0}, WHOLE)
