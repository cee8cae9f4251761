from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgebuild.judging.screening import CLOSE, Contender, best_settings, finalists, lost_candidates

COSTS = st.one_of(st.sampled_from([1.0, 1.05, 1.1, 1.2, 2.0]), st.floats(0.001, 1e6))


@st.composite
def contenders(draw: st.DrawFn) -> list[Contender]:
    """Arms of some candidates; a candidate's profile and verdict are the same for all of its arms."""
    found = []
    for number in range(draw(st.integers(0, 6))):
        of: dict[str, Any] = {
            "candidate": f"c{number}",
            "profile": draw(st.sampled_from("pqr")),
            "accepted": draw(st.booleans()),
            "mismatched": draw(st.booleans()),
        }
        arms = range(draw(st.integers(1, 3)))
        found += [Contender(arm=f"c{number} ({arm})", cost=draw(COSTS), **of) for arm in arms]
    return found


@given(contenders(), st.randoms(use_true_random=False))
def test_the_best_settings_are_one_arm_of_each_candidate_and_none_of_its_arms_is_cheaper(
    each: list[Contender], random: Any
) -> None:
    best = best_settings(each)
    assert {one.candidate for one in best} == {one.candidate for one in each}
    assert len(best) == len({one.candidate for one in best})
    assert all(one.cost <= other.cost for one in best for other in each if one.candidate == other.candidate)
    shuffled = list(each)
    random.shuffle(shuffled)
    assert set(best_settings(shuffled)) == set(best)


@given(contenders(), st.integers(1, 6), st.randoms(use_true_random=False))
def test_finalists_are_the_best_of_every_profile_and_whatever_is_close(
    each: list[Contender], most: int, random: Any
) -> None:
    best = best_settings(each)
    by_arm = {one.arm: one for one in best}
    found = finalists(best, most)
    assert len(found) == len(set(found)) <= most
    assert set(found) <= set(by_arm)
    assert bool(found) == bool(best)
    everyone = finalists(best, len(best) or 1)
    assert everyone[: len(found)] == found
    assert {by_arm[arm].profile for arm in everyone} == {one.profile for one in best}
    lowest = min((one.cost for one in best), default=0.0)
    assert {one.arm for one in best if one.cost <= CLOSE * lowest} <= set(everyone)
    first = {
        profile: next(arm for arm in everyone if by_arm[arm].profile == profile)
        for profile in "pqr"
        if any(one.profile == profile for one in best)
    }
    for profile, arm in first.items():
        rank = (not by_arm[arm].accepted, by_arm[arm].mismatched, by_arm[arm].cost)
        assert all(rank <= (not one.accepted, one.mismatched, one.cost) for one in best if one.profile == profile)
    shuffled = list(best)
    random.shuffle(shuffled)
    assert finalists(shuffled, most) == found


@given(contenders(), st.data())
def test_a_candidate_is_lost_where_nothing_of_it_is_left_and_never_where_it_was_certified(
    each: list[Contender], data: st.DataObject
) -> None:
    candidate_of = {one.arm: one.candidate for one in each}
    some = st.sets(st.sampled_from(sorted(candidate_of))) if candidate_of else st.just(set())
    failed, screened = data.draw(some), data.draw(some)
    certified = data.draw(some) - failed
    lost = lost_candidates(candidate_of, dict.fromkeys(failed, "died"), screened=screened, certified=certified)
    assert set(lost) <= {candidate_of[arm] for arm in failed}
    assert not set(lost) & {candidate_of[arm] for arm in certified}
    for arm in failed:
        who = candidate_of[arm]
        left = {other for other in screened - failed if candidate_of[other] == who}
        if who not in {candidate_of[other] for other in certified} and not left:
            assert lost[who] == "died"


def test_one_setting_that_fails_leaves_the_candidate_and_all_of_them_take_it() -> None:
    candidate_of = {"a (one)": "a", "a (two)": "a", "b (one)": "b"}
    failures = {"a (one)": "died", "b (one)": "hung"}
    assert lost_candidates(candidate_of, failures, screened=["a (two)"], certified=["a (two)"]) == {"b": "hung"}
    assert lost_candidates(candidate_of, {"a (one)": "died"}, screened=["a (two)"], certified=[]) == {}


def test_a_failure_while_certifying_takes_the_candidate_though_another_setting_was_screened() -> None:
    candidate_of = {"a (one)": "a", "a (two)": "a"}
    found = lost_candidates(candidate_of, {"a (one)": "died"}, screened=["a (one)", "a (two)"], certified=[])
    assert found == {"a": "died"}
