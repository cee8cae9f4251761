"""Gaps in quantisation steps, the sample, and what is concluded: pure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.core.verdict import CrossCheck, LayerGap
from edgebuild.crosscheck.conclusion import (
    ENDLESS,
    REACH_LIMIT,
    agreeing,
    gap_in_steps,
    of_layer,
    of_reach,
    of_right_layers,
    share_of_reach,
    spread,
)

SEEN = agreeing("32 frames", 32, "logits", 3.0)


def test_floats_are_counted_in_steps_but_never_in_less_than_float_noise() -> None:
    expected = np.array([[0.0, 10.0]])
    found = np.array([[0.5, 10.0001]])
    gap = gap_in_steps(expected, found, np.array([[0.25, 0.0]]))
    assert gap[0, 0] == 2.0
    assert gap[0, 1] == pytest.approx(0.1)


def test_other_types_must_be_equal_unless_one_step_changes_them_too() -> None:
    gap = gap_in_steps(np.array([[3, 4, 5]]), np.array([[3, 7, 8]]), np.array([[0.0, 1.0, 0.0]]))
    assert gap.tolist() == [[0.0, 1.0, ENDLESS]]


def test_what_is_not_a_number_or_has_another_shape_is_endlessly_far() -> None:
    one = np.ones((1, 1))
    gap = gap_in_steps(np.array([[1.0, np.nan, np.inf]]), np.array([[np.nan, np.nan, np.inf]]), np.ones((1, 3)))
    assert gap.tolist() == [[ENDLESS, 0.0, 0.0]]
    assert gap_in_steps(np.ones((1, 2)), one, one).tolist() == [[ENDLESS, ENDLESS]]


def test_reach_is_per_place() -> None:
    expected, found = np.zeros((2, 2)), np.array([[1.0, 0.1], [0.0, 0.3]])
    assert share_of_reach(expected, found, np.array([2.0, 0.1])) == pytest.approx(3.0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 64), st.integers(1, 20))
def test_the_sample_is_bounded_and_made_of_beginnings(lengths: list[int], frames: int, steps: int) -> None:
    rows, taken = spread(lengths, frames=frames, steps=steps)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].tolist()
    assert len(rows) == sum(taken) <= max(frames, steps)
    assert len(set(rows)) == len(rows)
    assert sorted(rows) == list(rows)
    begin = 0
    for count in taken:
        assert rows[begin] in starts
        assert rows[begin : begin + count] == tuple(range(rows[begin], rows[begin] + count))
        begin += count


def test_stateless_frames_are_spread_from_first_to_last() -> None:
    rows, taken = spread([1] * 1000, frames=5, steps=8)
    assert rows == (0, 250, 500, 749, 999)
    assert taken == (1,) * 5


def test_a_named_layer_counts_and_rounding_does_not() -> None:
    layer = LayerGap(node="conv1", op="Conv", tensor="t", steps=30.0, share=0.1, why="its sums saturate")
    fault = of_layer(SEEN, layer)
    assert fault.counts
    assert not fault.refuses
    assert "Conv conv1" in fault.explanation
    rounding = of_reach(SEEN, reach=REACH_LIMIT, tensors=4)
    assert (rounding.cause, rounding.counts, rounding.refuses) == ("rounding", False, False)
    composed = of_right_layers(SEEN, 4)
    assert (composed.cause, composed.refuses, composed.reach) == ("rounding", False, None)
    assert "none of 4 layers is off by more than one" in composed.explanation


def test_what_nothing_explains_refuses_and_says_why_no_layer_is_named() -> None:
    found = of_reach(SEEN, reach=REACH_LIMIT + 0.1, tensors=0, unseen="it can't be compiled")
    assert found.refuses
    assert "not explained: the layers can't be checked: it can't be compiled" in found.explanation


def test_records_survive_endless_gaps() -> None:
    seen = agreeing("32 frames", 32, "label", ENDLESS)
    found = of_reach(seen, reach=ENDLESS, tensors=2)
    assert CrossCheck.model_validate_json(found.to_json()) == found
