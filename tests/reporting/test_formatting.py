from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.core.measurement import Comparison, Percentile
from edgebuild.reporting import formatting


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.4123, "0.412"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (-0.051, "−0.0510"),
        (0.0, "0"),
        (float("nan"), "not a number"),
    ],
)
def test_numbers_have_three_digits_and_a_true_minus(value: float, expected: str) -> None:
    assert formatting.number(value) == expected


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.41234, 0.4071, 0.4169, "0.412 [0.407, 0.417]"),
        (2.31, 2.264, 2.357, "2.31 [2.26, 2.36]"),
        (0.28, -0.07, 0.63, "0.28 [−0.07, 0.63]"),
        (41.2, 40.2, 42.2, "41.2 [40.2, 42.2]"),
        (0.0, 0.0, 0.0, "0 [0, 0]"),
        (1.5, None, None, "1.50"),
    ],
)
def test_intervals_have_the_digits_that_they_justify(
    value: float, low: float | None, high: float | None, expected: str
) -> None:
    assert formatting.with_interval(value, low, high) == expected


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.floats(0, 1e9))
def test_any_interval_can_be_written_and_never_shows_a_minus_zero(value: float, below: float, above: float) -> None:
    text = formatting.with_interval(value, value - below, value + above)
    assert text.count("[") == 1
    assert "−0]" not in text.replace("0.", "")


@pytest.mark.parametrize(
    ("size", "expected"), [(None, "–"), (0, "0 B"), (999, "999 B"), (98_304, "96.0 KiB"), (3 * 2**30, "3.00 GiB")]
)
def test_sizes(size: int | None, expected: str) -> None:
    assert formatting.bytes_text(size) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.034, "34 ms"), (5.21, "5.2 s"), (200, "3 min 20 s"), (3840, "1 h 04 min")]
)
def test_durations(seconds: float, expected: str) -> None:
    assert formatting.seconds_text(seconds) == expected


def test_a_percentile_below_its_minimum_says_what_it_needs() -> None:
    assert formatting.percentile_text(Percentile(p=99.9, value_ms=None, needs_n=6636)) == "n/a, needs 6,636"
    assert formatting.percentile_name(Percentile(p=99.9, value_ms=None, needs_n=6636)) == "p99.9"


@given(st.text())
def test_clean_text_holds_nothing_that_steers_a_terminal(text: str) -> None:
    cleaned = formatting.clean(text)
    assert len(cleaned) == len(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066" for c in cleaned)
    cleaned.encode()


def test_a_ratio_keeps_its_direction() -> None:
    def compared(outcome: str, effect: float) -> str:
        fields = {"outcome": outcome, "effect": effect, "low": effect - 0.02, "high": effect + 0.02, "pairs": 10}
        return formatting.speed(Comparison.model_validate(fields))

    assert compared("better", -math.log(2)) == "2.00× [1.96, 2.04] faster"
    assert compared("worse", math.log(2)) == "2.00× [1.96, 2.04] slower"
    assert "±2 %" in compared("equivalent", 0.001)
    assert "undecided" in compared("inconclusive", 0.01)
    assert formatting.speed(None) == "not compared"
