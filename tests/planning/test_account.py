"""A time box is never promised more than it holds, and cheap work isn't left out for dear work that brings no more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.planning.account import NEXT_QUANTISER, TimeAccount, gains
from edgebuild.planning.costs import after_s
from edgebuild.planning.inputs import UnitCosts
from edgebuild.planning.plan import make_plan
from tests.planning.test_plan import COMPUTE, FP32, NNCF, OURS, STORAGE, THEIRS, inputs, profile

if TYPE_CHECKING:
    from edgebuild.planning.candidates import PlannedCandidate

EVERY = make_plan(
    inputs(
        profile("a", precisions=(FP32, STORAGE, OURS, THEIRS)),
        profile("b", "openvino", (FP32, COMPUTE, OURS, NNCF)),
    )
).candidates
GAIN = gains(EVERY)

seconds = st.floats(0, 500)
units = st.builds(
    UnitCosts,
    quantise_s=st.fixed_dictionaries(dict.fromkeys(("edgebuild", "nncf", "onnxruntime"), seconds)),
    compile_s=seconds,
    evaluate_s=seconds,
    evaluate_test_s=seconds,
    reference_test_s=seconds,
    screen_launch_s=seconds,
    certify_launch_s=st.floats(0, 50),
    certify_least=st.integers(2, 5),
    certify_launches=st.integers(5, 20),
    finalist_s=seconds,
    report_s=seconds,
)


def account(unit: UnitCosts, left_s: float) -> TimeAccount:
    return TimeAccount(box_s=left_s, left_s=left_s, unit=unit, max_finalists=4, gain=GAIN)


def chosen(box: TimeAccount) -> tuple[list[PlannedCandidate], TimeAccount]:
    made: list[PlannedCandidate] = []
    todo = list(EVERY)
    while (found := box.choose(todo, made)) is not None:
        box = box.spend(box.making_s(found, made))
        made.append(found)
        todo.remove(found)
    return made, box


@given(units, st.floats(0, 20_000))
@settings(deadline=None)
def test_all_that_is_chosen_is_made_and_measured_inside_the_box(unit: UnitCosts, left_s: float) -> None:
    made, box = chosen(account(unit, left_s))
    assert made[0].baseline
    if len(made) > 1:
        least = len(made) == 2
        assert after_s(made, unit, 4, least=least) <= box.left_s + 1e-6
    for each in EVERY:
        if each not in made:
            assert not box.fits(each, made), "what still fits is not left out"


@given(units, st.floats(0, 20_000))
@settings(deadline=None)
def test_a_quantiser_is_not_left_out_for_a_dearer_one_of_its_profile(unit: UnitCosts, left_s: float) -> None:
    made, _ = chosen(account(unit, left_s))
    int8 = [each for each in made if each.precision.kind == "int8"]
    for each in EVERY:
        if each.precision.kind != "int8" or each in made:
            continue
        costs = unit.quantise_s[each.precision.quantiser or ""]
        for kept in int8:
            shared = any(other.precision == kept.precision for other in EVERY if other is not kept)
            if kept.profile == each.profile and not shared:
                # One that costs more was kept only where it is the better one, and then by what it is better.
                more = unit.compile_s + unit.evaluate_s + unit.quantise_s[kept.precision.quantiser or ""]
                less = unit.compile_s + unit.evaluate_s + costs
                measuring = after_s(EVERY[:2], unit, 4)
                assert more <= less or (more + measuring) * NEXT_QUANTISER <= less + measuring + 1e-6


@given(units, st.floats(0, 20_000), st.floats(0, 500))
@settings(deadline=None)
def test_more_time_never_makes_the_account_choose_nothing(unit: UnitCosts, left_s: float, more_s: float) -> None:
    box = account(unit, left_s)
    made = list(EVERY[:1])
    todo = list(EVERY[1:])
    if box.choose(todo, made) is not None:
        assert replace(box, left_s=left_s + more_s).choose(todo, made) is not None


def test_the_reason_names_the_seconds() -> None:
    unit = UnitCosts(quantise_s={"edgebuild": 400.0}, compile_s=1.0, evaluate_s=2.0)
    int8 = next(each for each in EVERY if each.precision == OURS)
    box = account(unit, 100.0)
    assert not box.fits(int8, EVERY[:1])
    said = box.why_not(int8, EVERY[:1])
    assert said == "left out to stay inside 100 s: it takes about 403 s, and 100 s are left for it"
    assert box.spend(100.0).why_not(int8, EVERY[:1]).endswith("and nothing is left for it")


def test_what_is_expected_of_a_candidate_falls_with_preference() -> None:
    by_id = {each.id: GAIN[each.id] for each in EVERY}
    assert by_id[f"a/{OURS.label}"] > by_id[f"a/{THEIRS.label}"] > by_id[f"b/{NNCF.label}"]
    assert by_id["a/fp32"] > by_id["b/fp32"] > by_id["a/fp16-storage"]
