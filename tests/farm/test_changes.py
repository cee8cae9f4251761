"""When something changed in a history, and what: false alarms, power, and what can't matter."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.farm.changes import LEAST, Point, changes, cut

noise = st.lists(st.floats(-0.05, 0.05), min_size=0, max_size=30)


def normal(seed: int, count: int, spread: float = 0.01) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(0, spread) for _ in range(count)]


def points(model: list[float], board: list[float]) -> list[Point]:
    """A history from logarithms: what the model takes on a board that takes so long for everything."""
    pairs = enumerate(zip(model, board, strict=True))
    return [Point(at=float(n), ms=math.exp(m + b), anchor_ms=math.exp(b)) for n, (m, b) in pairs]


@pytest.mark.parametrize("count", [7, 20])
def test_of_series_without_a_change_one_in_twenty_is_said_to_have_one(count: int) -> None:
    """200 series: more than 21 would happen by chance once in a thousand times."""
    alarms = sum(bool(changes(points(normal(2 * n, count), normal(2 * n + 1, count)))) for n in range(200))
    assert alarms <= 21


def test_a_step_of_the_model_is_found_with_its_size_and_place() -> None:
    model = [value + (0.05 if n >= 12 else 0.0) for n, value in enumerate(normal(1, 24))]
    (found,) = changes(points(model, normal(2, 24, 0.002)))
    assert (found.what, found.index, found.at) == ("model", 12, 12.0)
    assert found.low < math.exp(0.05) < found.high
    assert found.text.startswith("the model got slower by ")


def test_a_step_of_the_board_is_the_boards() -> None:
    board = [value + (0.1 if n >= 12 else 0.0) for n, value in enumerate(normal(3, 24, 0.002))]
    (found,) = changes(points(normal(4, 24), board))
    assert (found.what, found.index) == ("board", 12)


def test_steps_of_both_at_once_are_not_told_apart() -> None:
    late = [0.1 if n >= 12 else 0.0 for n in range(24)]
    told = changes(
        points(
            [a + b for a, b in zip(normal(5, 24), late, strict=True)],
            [a + b for a, b in zip(normal(6, 24, 0.002), late, strict=True)],
        )
    )
    assert {each.what for each in told} == {"board", "both"}


def test_without_anchors_nobody_says_whose_change_it_was() -> None:
    series = [math.exp(value + (0.1 if n >= 10 else 0.0)) for n, value in enumerate(normal(7, 20))]
    (found,) = changes([Point(at=float(n), ms=ms) for n, ms in enumerate(series)])
    assert found.what == "unknown"


def test_several_steps_are_found() -> None:
    more = 0
    for seed in range(0, 40, 2):
        model = [value + 0.1 * (n // 12) for n, value in enumerate(normal(seed, 36))]
        found = [each.index for each in changes(points(model, normal(seed + 1, 36, 0.002)))]
        assert all(any(abs(index - place) <= 1 for index in found) for place in (12, 24))
        more += len(found) - 2
    assert more <= 5


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), drift=st.lists(st.floats(-1, 1), min_size=20, max_size=20), at=st.integers(4, 16))
def test_what_the_board_does_to_everything_changes_nothing_of_the_model(seed: int, drift: list[float], at: int) -> None:
    model = [value + (0.2 if n >= at else 0.0) for n, value in enumerate(normal(seed, 20))]
    quiet, wild = (
        {each.index for each in changes(points(model, board)) if each.what in {"model", "both"}}
        for board in ([0.0] * 20, drift)
    )
    assert quiet == wild


@settings(max_examples=40, deadline=None)
@given(series=noise, shift=st.floats(-5, 5))
def test_a_cut_leaves_stretches_long_enough_and_does_not_depend_on_the_unit(series: list[float], shift: float) -> None:
    series = [round(value, 4) for value in series]
    found = cut(series, 0.05)
    ends = (0, *found, len(series))
    assert not found or all(b - a >= LEAST for a, b in pairwise(ends))
    assert cut([value + round(shift, 4) for value in series], 0.05) == found


def test_nonsense_is_no_history() -> None:
    odd = [Point(at=0.0, ms=ms, anchor_ms=1.0) for ms in (0.0, -1.0, math.nan, math.inf, 1.0)]
    assert changes(odd) == ()
    assert changes([]) == ()
    assert changes([Point(at=0.0, ms=1.0, anchor_ms=1.0)] * 50) == ()
