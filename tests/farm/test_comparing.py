"""When boards are alike, and what two records say of each other."""

from __future__ import annotations

import math
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgebuild.core.measurement import Comparison, LatencySummary
from edgebuild.farm.comparing import alike, compare
from edgebuild.farm.memory import Measured, Origin, WholeRecord

times = st.lists(st.floats(0.1, 10.0), min_size=3, max_size=20)


def history(seed: int, ms: float, count: int = 10, spread: float = 0.01) -> list[float]:
    generator = random.Random(seed)
    return [ms * math.exp(generator.gauss(0, spread)) for _ in range(count)]


def test_boards_are_alike_different_or_unknown() -> None:
    assert alike(history(1, 20.0), history(2, 20.2)).outcome == "alike"
    assert alike(history(1, 20.0), history(2, 24.0)).outcome == "different"
    assert alike(history(1, 20.0, 3, 0.2), history(2, 20.0, 3, 0.2)).outcome == "unknown"
    assert alike([20.0, 20.0], history(2, 20.0)).outcome == "unknown"
    assert alike([20.0] * 3, [20.0] * 3).outcome == "alike"
    assert alike([20.0, math.nan, -1.0, 20.0], history(2, 20.0)).outcome == "unknown"


@given(one=times, other=times, scale=st.floats(0.01, 100.0))
def test_being_alike_does_not_depend_on_the_order_or_on_the_unit(
    one: list[float], other: list[float], scale: float
) -> None:
    there, back = alike(one, other), alike(other, one)
    assert there.ratio is not None
    assert back.ratio is not None
    assert math.isclose(there.ratio * back.ratio, 1.0)
    near = min(abs(abs(math.log(each or 1)) - math.log(1.05)) for each in (there.low, there.high)) < 1e-9
    scaled = alike([ms * scale for ms in one], [ms * scale for ms in other])
    assert near or there.outcome == back.outcome == scaled.outcome


def test_boards_that_differ_by_what_matters_are_rarely_called_alike() -> None:
    """At a true difference of exactly the bound, at most one in twenty: the size of the test, and its error."""
    wrong = sum(alike(history(2 * n, 1.05, 8), history(2 * n + 1, 1.0, 8)).outcome == "alike" for n in range(1000))
    assert wrong <= 75


def record(**more: Any) -> WholeRecord:
    latency = LatencySummary(
        launches=6, invalid_launches=0, point_ms=2.0, throughput_per_s=500.0, load_ms=1.0, first_inference_ms=1.0
    )
    common = {
        "number": 1, "id": "a", "session": "s", "job": "", "origin": Origin.HOST, "owner": "ada", "model": "cat",
        "artifact": "0" * 64, "device": "pi-1", "target": "pi", "protocol": "certify", "measured_at": 0.0,
        "point_ms": 2.0, "low_ms": 1.9, "high_ms": 2.1, "anchor_ms": 1.0, "evidence": "1" * 64,
        "environment": {"kernel": "6.12"}, "measured": Measured(latency=latency),
    }  # fmt: skip
    return WholeRecord.model_validate({**common, **more})


def test_every_reason_against_a_comparison_is_said() -> None:
    one = record()
    other = record(id="b", session="t", evidence="2" * 64, protocol="screen", environment={"kernel": "6.13"})
    said = compare(one, other, None, None)
    assert "certify" in said.text
    assert "kernel: 6.12 and 6.13" in said.text
    assert "one session" in said.text
    assert "the board was the same" in said.anchors
    assert "none" in compare(one, record(id="b", session="t", anchor_ms=None), None, None).anchors
    many = record(id="b", session="t", environment={f"fact{n}": "x" for n in range(9)})
    assert "5 more" in compare(one, many, None, None).text


def test_a_session_shared_without_two_pairs_says_nothing() -> None:
    assert "fewer than two launches" in compare(record(), record(id="b"), None, None).text


def test_a_comparison_across_sessions_is_not_believed_even_if_given() -> None:
    found = Comparison(outcome="better", effect=-0.1, low=-0.2, high=-0.05, pairs=6)
    assert compare(record(), record(id="b", session="t"), found, None).comparison is None
    assert compare(record(), record(id="b"), found, None).comparison == found
