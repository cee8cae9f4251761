"""The choice: its properties, its ties, its sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.core.measurement import Comparison
from edgebuild.core.objective import OBJECTIVES as TABLE
from edgebuild.core.verdict import Drop, LimitCheck, Outcome, Verdict
from edgebuild.judging import selection
from edgebuild.judging.selection import Option, Selection, missed_share

OBJECTIVES = st.sampled_from(["latency", "throughput", "size", "memory"])


def option(name: str, value: float, drop: float = 0.0, size: int = 100, **more: Any) -> Option:
    return Option(**{"id": name, "value": value, "drop": drop, "size_bytes": size, "outcome": Outcome.ACCEPTED, **more})


@st.composite
def sets_of_options(draw: st.DrawFn) -> list[Option]:
    count = draw(st.integers(0, 8))
    found = []
    for i in range(count):
        value = draw(st.integers(1, 6))
        width = draw(st.sampled_from([None, 0.0, 0.5, 1.5]))
        found.append(
            option(
                f"c{i}",
                value,
                draw(st.integers(-2, 3)),
                draw(st.integers(1, 4)),
                outcome=draw(st.sampled_from([*Outcome, Outcome.ACCEPTED])),
                low=None if width is None else value - width,
                high=None if width is None else value + width,
                gap=draw(st.sampled_from([None, None, None, "a layer saturates"])),
            )
        )
    return found


def select(options: list[Option], objective: Any, comparisons: Any = None) -> Selection:
    return selection.select(options, TABLE[objective], comparisons)


def counting(options: list[Option]) -> list[Option]:
    """The accepted options that the front is made of: those with a gap only where there is none without."""
    accepted = [one for one in options if one.outcome is Outcome.ACCEPTED]
    return [one for one in accepted if one.gap is None] or accepted


def dominates(one: Option, other: Option, objective: str) -> bool:
    sign = -1 if objective == "throughput" else 1
    pairs = [(sign * one.value, sign * other.value), (one.drop, other.drop), (one.size_bytes, other.size_bytes)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@settings(max_examples=200, deadline=None)
@given(sets_of_options(), OBJECTIVES, st.randoms(use_true_random=False))
def test_properties_of_the_choice(options: list[Option], objective: Any, random: Any) -> None:
    found = select(options, objective)
    accepted = counting(options)
    front = {one.id for one in accepted if not any(dominates(other, one, objective) for other in accepted)}
    assert set(found.front) == front
    assert (found.chosen is None) == (not accepted)
    assert found.chosen is None or found.chosen in front
    assert set(found.reasons) == {one.id for one in options}
    assert all(found.reasons.values())
    assert (found.nearest is None) == (not options)
    shuffled = list(options)
    random.shuffle(shuffled)
    assert select(shuffled, objective) == found


@settings(max_examples=200, deadline=None)
@given(sets_of_options(), OBJECTIVES, st.data())
def test_a_dominated_option_changes_nothing(options: list[Option], objective: Any, data: st.DataObject) -> None:
    accepted = counting(options)
    if not accepted:
        return
    better = data.draw(st.sampled_from(accepted))
    worse = replace(
        better, id="worse", drop=better.drop + 1, size_bytes=better.size_bytes + data.draw(st.integers(0, 2))
    )
    before, after = select(options, objective), select([*options, worse], objective)
    assert (after.chosen, after.front) == (before.chosen, before.front)
    assert all(after.reasons[name] == reason for name, reason in before.reasons.items())


def comparison(outcome: Literal["better", "worse", "equivalent", "inconclusive"], effect: float) -> Comparison:
    return Comparison(outcome=outcome, effect=effect, low=effect - 0.02, high=effect + 0.02, pairs=10)


def test_the_best_objective_wins_where_it_is_told_apart() -> None:
    fast, slow = option("fast", 1.0, drop=0.01, low=0.9, high=1.1), option("slow", 1.31, low=1.2, high=1.4)
    found = select([slow, fast], "latency", {("slow", "fast"): comparison("worse", 0.27)})
    assert found.chosen == "fast"
    assert found.front == ("fast", "slow")
    assert found.reasons["fast"] == "the fastest of the accepted candidates"
    assert found.reasons["slow"] == "1.31x slower than the chosen one (95 % CI 1.28x to 1.34x)"
    back = select([slow, fast], "latency", {("fast", "slow"): comparison("better", -0.27)})
    assert back.reasons["slow"] == found.reasons["slow"]


@pytest.mark.parametrize("outcome", ["equivalent", "inconclusive"])
def test_of_equally_fast_ones_the_more_accurate_wins(outcome: Any) -> None:
    fast, exact = option("fast", 1.00, drop=0.01), option("exact", 1.01, drop=0.0)
    found = select([fast, exact], "latency", {("exact", "fast"): comparison(outcome, 0.01)})
    assert found.chosen == "exact"
    assert found.reasons["exact"] == "statistically tied with the best objective, fast, and has the smaller drop"
    assert found.reasons["fast"] == (
        "statistically tied with exact in latency (95 % CI 0.97x to 1.01x), which has the smaller drop"
    )


def test_what_is_not_told_apart_but_estimated_slower_does_not_win_by_a_smaller_drop() -> None:
    fast, exact = option("fast", 1.00, drop=0.01), option("exact", 1.36, drop=0.0)
    wide = comparison("inconclusive", 0.3).model_copy(update={"low": -0.05, "high": 0.65})
    found = select([fast, exact], "latency", {("exact", "fast"): wide})
    assert found.chosen == "fast"
    assert found.reasons["fast"] == "the fastest of the accepted candidates"
    assert found.reasons["exact"] == (
        "statistically tied with fast in latency (95 % CI 0.95x to 1.92x), which has the better estimate"
    )


def test_a_gap_ranks_behind_every_accepted_candidate_without_one() -> None:
    fast, plain = option("fast", 1.0, gap="Conv c saturates"), option("plain", 5.0, drop=0.01, size=400)
    found = select([fast, plain], "latency")
    assert (found.chosen, found.front) == ("plain", ("plain",))
    assert found.reasons["fast"] == "ranked behind every accepted candidate without a gap: Conv c saturates"
    alone = select([fast, option("refused", 0.5, outcome=Outcome.REFUSED)], "latency")
    assert alone.chosen == "fast"


def test_a_comparison_counts_more_than_overlapping_intervals() -> None:
    fast = option("fast", 1.00, drop=0.01, low=0.9, high=1.2)
    exact = option("exact", 1.01, drop=0.0, low=1.0, high=1.3)
    assert select([fast, exact], "latency").chosen == "exact"
    assert select([fast, exact], "latency", {("fast", "exact"): comparison("better", -0.09)}).chosen == "fast"


def test_then_the_smaller_then_the_id() -> None:
    assert select([option("a", 1.0, size=3), option("b", 1.0, size=2)], "latency").chosen == "b"
    assert select([option("b", 1.0), option("a", 1.0)], "latency").chosen == "a"


def test_int8_that_made_things_worse_is_told() -> None:
    plain = option("fp32", 1.0, size=100)
    int8 = option("int8", 1.4, drop=0.01, size=120, plain="fp32")
    found = select([plain, int8], "latency")
    assert found.reasons["int8"] == (
        "1.40x slower than the chosen one; it made the file larger than fp32's and no faster"
    )


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        ("throughput", "2.00x less throughput than the chosen one"),
        ("size", "2.00x as large as the chosen one"),
        ("memory", "2.00x the memory of the chosen one"),
    ],
)
def test_sentences_of_the_other_objectives(objective: Any, sentence: str) -> None:
    found = select([option("a", 2.0), option("b", 1.0)], objective)
    assert sentence in found.reasons.values()


def test_without_an_accepted_option_the_nearest_is_named() -> None:
    refused = option("far", 1.0, outcome=Outcome.REFUSED, missed=2.0, reasons=("beyond the budget",))
    nearer = option("near", 9.0, outcome=Outcome.REFUSED, missed=0.1)
    found = select([refused, nearer], "latency")
    assert (found.chosen, found.nearest, found.front) == (None, "near", ())
    assert found.reasons == {"far": "beyond the budget", "near": "no reason recorded"}
    open_one = option("open", 99.0, outcome=Outcome.INCONCLUSIVE, missed=3.0)
    assert select([refused, nearer, open_one], "latency").nearest == "open"
    assert select([], "latency").nearest is None


def test_a_refused_option_is_never_chosen_and_keeps_its_reason() -> None:
    fast = option("fast", 0.1, outcome=Outcome.REFUSED, reasons=("output 'y' is NaN",))
    found = select([fast, option("slow", 1.0)], "latency")
    assert found.chosen == "slow"
    assert found.reasons["fast"] == "output 'y' is NaN"


def test_ids_are_unique() -> None:
    with pytest.raises(ValueError, match="share an id"):
        select([option("a", 1.0), option("a", 2.0)], "latency")


def test_how_far_a_verdict_misses() -> None:
    drop = Drop(
        metric="accuracy",
        split="validation",
        samples=100,
        reference=0.9,
        artifact=0.87,
        drop=0.03,
        low=0.0,
        high=0.06,
        level=0.95,
        method="m",
        budget=0.02,
    )
    kept = drop.model_copy(update={"drop": 0.01})
    slow = LimitCheck(name="latency_p50_ms", limit=2.0, measured=3.2, outcome=Outcome.REFUSED)
    few = LimitCheck(name="throughput_per_s", limit=100.0, measured=40.0, outcome=Outcome.REFUSED)
    unknown = LimitCheck(name="peak_memory_mb", limit=1.0, measured=None, outcome=Outcome.INCONCLUSIVE)
    assert missed_share(Verdict(outcome=Outcome.ACCEPTED, drop=kept)) == 0
    assert missed_share(Verdict(outcome=Outcome.REFUSED, drop=drop)) == pytest.approx(0.5)
    assert missed_share(Verdict(outcome=Outcome.REFUSED, drop=drop, limits=(slow,))) == pytest.approx(0.6)
    assert missed_share(Verdict(outcome=Outcome.REFUSED, drop=kept, limits=(few,))) == pytest.approx(1.5)
    assert missed_share(Verdict(outcome=Outcome.INCONCLUSIVE, drop=kept, limits=(unknown,))) == float("inf")
    assert missed_share(Verdict(outcome=Outcome.REFUSED)) == float("inf")
