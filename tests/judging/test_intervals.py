"""Intervals: against an independent oracle, by simulated coverage, and by their properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from edgebuild.judging.arrays import frame_groups, frame_labels
from edgebuild.judging.intervals import (
    Interval,
    group_codes,
    hull,
    level_for_opening,
    needed_pairs,
    needed_samples,
    paired_proportion,
)


def score_statistic(lost: int, gained: int, n: int, difference: float) -> float:
    """The score test with the nuisance share found by maximising the likelihood numerically, not by Tango's formula."""

    def negative(share_gained: float) -> float:
        both = n - lost - gained
        terms = ((lost, share_gained + difference), (gained, share_gained), (both, 1 - 2 * share_gained - difference))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in terms if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    share = float(optimize.minimize_scalar(negative, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x)
    variance = n * (2 * share + difference - difference**2)
    return (lost - gained - n * difference) / math.sqrt(variance)


@pytest.mark.parametrize(("lost", "gained", "n"), [(7, 2, 100), (1, 9, 40), (12, 12, 300), (30, 1, 60), (3, 1, 10)])
def test_the_score_interval_ends_where_the_score_test_rejects(lost: int, gained: int, n: int) -> None:
    found = paired_proportion(lost, gained, n, 0.95)
    assert score_statistic(lost, gained, n, found.low) == pytest.approx(1.959964, abs=2e-3)
    assert score_statistic(lost, gained, n, found.high) == pytest.approx(-1.959964, abs=2e-3)


def test_the_score_interval_of_a_published_example() -> None:
    """Fagerland, Lydersen and Laake (2014), tables II and V: 1 and 7 discordant of 21 children."""
    found = paired_proportion(1, 7, 21, 0.95)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.517, -0.026)


def test_no_discordant_sample_still_leaves_doubt() -> None:
    """By hand: z² / (n + z²)."""
    z2 = 1.959964**2
    found = paired_proportion(0, 0, 100, 0.95)
    assert (found.low, found.high) == pytest.approx((-z2 / (100 + z2), z2 / (100 + z2)), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.data(), st.floats(0.5, 0.999))
def test_the_score_interval_holds_the_estimate_and_mirrors(n: int, data: st.DataObject, level: float) -> None:
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    found, mirrored = paired_proportion(lost, gained, n, level), paired_proportion(gained, lost, n, level)
    assert -1 <= found.low <= (lost - gained) / n <= found.high <= 1
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-9)


@pytest.mark.parametrize(
    ("n", "p_lost", "p_gained"), [(50, 0.10, 0.05), (200, 0.03, 0.01), (360, 0.03, 0.01), (1000, 0.03, 0.015)]
)
def test_the_score_interval_covers(n: int, p_lost: float, p_gained: float) -> None:
    """Exact coverage over all likely outcomes; the upper bound, which budgets are judged by, errs in at most 2.5 %."""
    covered = below = 0.0
    truth = p_lost - p_gained
    for lost in range(int(n * p_lost * 4) + 8):
        for gained in range(int(n * p_gained * 4) + 8):
            chance = stats.multinomial.pmf(
                [lost, gained, n - lost - gained], n, [p_lost, p_gained, 1 - p_lost - p_gained]
            )
            if chance > 1e-8:
                found = paired_proportion(lost, gained, n, 0.95)
                covered += chance * (found.low <= truth <= found.high)
                below += chance * (found.high < truth)
    assert 0.935 <= covered <= 0.97
    assert 0.01 <= below <= 0.025


def test_hull_covers_both() -> None:
    found = hull(Interval(low=0, high=2, method="a"), Interval(low=1, high=3, method="b"))
    assert (found.low, found.high, found.method) == (0, 3, "a; not narrower than b")


def test_groups() -> None:
    assert group_codes(None) is None
    assert group_codes(["a", "b", None]) is None
    codes = group_codes(["b", None, "a", "b", None])
    assert codes is not None
    assert codes.tolist() == [0, 1, 2, 0, 3]


def test_frames_of_one_sequence_stay_together() -> None:
    assert frame_groups([1, 1], None) is None
    assert frame_groups([1, 1], ["a", None]) == ["a", None]
    assert frame_groups([2, 1], None) == ["sample 0", "sample 0", "sample 1"]
    assert frame_groups([2, 1, 1], ["a", None, "a"]) == ["group a", "group a", "sample 1", "group a"]
    assert frame_labels([2, 1], ["x", None]) == ["x", "x", None]
    assert frame_labels([2, 1], None) is None


def test_levels_of_openings() -> None:
    assert [level_for_opening(k) for k in (1, 2, 5)] == pytest.approx([0.95, 0.975, 0.99])
    with pytest.raises(ValueError, match="counted from 1"):
        level_for_opening(0)


def test_needed_samples_by_hand() -> None:
    # half-width 0.03 must become 0.01: nine times the samples
    assert needed_samples(drop=0.01, high=0.04, budget=0.02, samples=100) == 800
    assert needed_samples(drop=0.02, high=0.04, budget=0.02, samples=100) is None


def test_an_estimate_on_the_budget_but_for_rounding_needs_no_number_of_samples() -> None:
    budget = 1 - 0.95  # a hair above 0.05
    assert needed_pairs(lost=10, gained=0, samples=200, budget=budget, level=0.95) is None
    assert needed_samples(drop=0.05, high=0.09, budget=budget, samples=200) is None


def test_needed_pairs_without_any_discordant_sample() -> None:
    # z² / (n + z²) <= 0.02 from n = 188.24 on
    found = needed_pairs(lost=0, gained=0, samples=100, budget=0.02, level=0.95)
    assert found == pytest.approx(89, abs=1)
    assert needed_pairs(lost=3, gained=1, samples=100, budget=0.02, level=0.95) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 500), st.data())
def test_needed_pairs_certify_and_somewhat_fewer_do_not(n: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n // 5))
    gained = data.draw(st.integers(0, n // 5))
    budget = max(0.0, (lost - gained) / n) + 0.01
    more = needed_pairs(lost=lost, gained=gained, samples=n, budget=budget, level=0.95)
    assert more is not None
    enough = (n + more) / n
    assert paired_proportion(lost * enough, gained * enough, n * enough, 0.95).high <= budget
    if more:
        short = (n + more - max(2, (n + more) // 500)) / n
        assert paired_proportion(lost * short, gained * short, n * short, 0.95).high > budget
