"""Planning is pure: what is tried, in which order, what is refused and why, and what it will cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.resolve import ResolvedProfile, ResolvedTarget, resolve
from edgebuild.catalogue.targets import load_targets
from edgebuild.core.artifact import Fp16Meaning, Int8Scheme, Precision
from edgebuild.errors import EnvironmentGap
from edgebuild.planning.account import FEW_SAMPLES
from edgebuild.planning.inputs import PlanInputs, UnitCosts
from edgebuild.planning.plan import Plan, make_plan, plan_digest

FP32 = Precision(kind="fp32")
STORAGE = Precision(kind="fp16", fp16=Fp16Meaning.STORAGE)
COMPUTE = Precision(kind="fp16", fp16=Fp16Meaning.COMPUTE)
U8S8 = Int8Scheme(activations="uint8")
S8S8 = Int8Scheme(activations="int8")
OURS, THEIRS, NNCF = (
    Precision(kind="int8", scheme=U8S8, quantiser=quantiser) for quantiser in ("edgebuild", "onnxruntime", "nncf")
)
ALL = (FP32, STORAGE, OURS, THEIRS, NNCF)
SETTINGS = ((("threads", 2),), (("threads", 1),))
COSTS = UnitCosts(
    prepare_s=5,
    quantise_s={"edgebuild": 7, "onnxruntime": 7, "nncf": 7},
    compile_s=1,
    evaluate_s=2,
    evaluate_test_s=3,
    screen_launch_s=4,
    certify_launch_s=6,
    crosscheck_s=9,
)
X86 = {"arch": "x86_64", "isa": "sse2 avx2", "cores": "4", "memory_bytes": str(8 * 2**30), "cpu": "AMD EPYC"}


def profile(name: str, backend: str = "onnxruntime", precisions: tuple[Precision, ...] = ALL) -> ResolvedProfile:
    return ResolvedProfile(
        name=name,
        backend=backend,
        arch="x86_64",
        isa=("avx2",),
        cores=2,
        precisions=precisions,
        settings=SETTINGS,
        channel_multiple=8,
    )


def inputs(*profiles: ResolvedProfile, name: str = "here", refused: Any = (), **more: Any) -> PlanInputs:
    target = ResolvedTarget(name=name, profiles=profiles or (profile("a"),), refused=refused)
    given = {"objective": "latency", "budget": "2 points", "quantisable_ops": 3, "costs": COSTS}
    return PlanInputs(target=target, **{**given, **more})


def ids(plan: Plan) -> list[str]:
    return [candidate.id for candidate in plan.candidates]


def refusals(plan: Plan) -> dict[str, str]:
    return {refusal.what: refusal.reason for refusal in plan.refused}


precisions = st.lists(
    st.sampled_from([*ALL, COMPUTE, OURS.model_copy(update={"scheme": S8S8})]), min_size=1, unique=True
)
profiles = st.lists(st.tuples(st.sampled_from(["onnxruntime", "openvino"]), precisions), min_size=1, max_size=3)
plan_inputs = st.builds(
    lambda found, objective, ops, time_s, missing, backend_refusals, precision_refusals: inputs(
        *(profile(f"p{i}", backend, tuple(p)) for i, (backend, p) in enumerate(found)),
        refused=(("other", "is for aarch64, the device is x86_64"),),
        objective=objective,
        quantisable_ops=ops,
        time_s=time_s,
        missing=missing,
        backend_refusals=backend_refusals,
        precision_refusals=precision_refusals,
    ),
    profiles,
    st.sampled_from(["latency", "throughput", "size", "memory"]),
    st.integers(0, 2),
    st.none() | st.floats(0, 2000),
    st.dictionaries(st.sampled_from(["openvino", "nncf", "onnxruntime"]), st.just("pip install it"), max_size=2),
    st.dictionaries(st.just("openvino"), st.just("custom operators run elsewhere")),
    st.dictionaries(st.sampled_from([f"p0/{each.label}" for each in ALL]), st.just("this CPU can't"), max_size=3),
)


def planned(given: PlanInputs) -> Plan | None:
    try:
        return make_plan(given)
    except EnvironmentGap:
        return None


@given(plan_inputs)
@settings(deadline=None)
def test_equal_inputs_give_equal_plans_and_are_left_alone(given: PlanInputs) -> None:
    before = given.to_json()
    plan = planned(given)
    assert planned(PlanInputs.model_validate_json(before)) == plan
    assert given.to_json() == before


@given(plan_inputs, st.text(min_size=1, max_size=8))
@settings(deadline=None)
def test_a_target_s_name_changes_nothing_but_itself(given: PlanInputs, name: str) -> None:
    renamed = given.model_copy(update={"target": given.target.model_copy(update={"name": name})})
    one, other = planned(given), planned(renamed)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert other.target == name
        assert plan_digest(one) == plan_digest(other)
        assert one.model_copy(update={"target": name}) == other


@given(plan_inputs)
@settings(deadline=None)
def test_nothing_is_lost_every_precision_is_tried_or_refused_with_a_reason(given: PlanInputs) -> None:
    plan = planned(given)
    if plan is None:
        return
    told = refusals(plan)
    assert len(set(ids(plan))) == len(plan.candidates)
    assert all(told.values())
    for found in given.target.profiles:
        for precision in found.precisions:
            name = f"{found.name}/{precision.label}"
            assert (name in ids(plan)) != (name in told or found.name in told)
    assert told["other"] == "is for aarch64, the device is x86_64"


def test_what_a_backend_says_of_a_precision_is_the_reason_why_it_is_not_tried() -> None:
    plan = make_plan(
        inputs(profile("a"), profile("b"), precision_refusals={f"b/{OURS.label}": "the device is too old"})
    )
    assert refusals(plan) == {f"b/{OURS.label}": "the device is too old"}
    assert f"a/{OURS.label}" in ids(plan)


@given(plan_inputs)
@settings(deadline=None)
def test_one_baseline_the_first_fp32(given: PlanInputs) -> None:
    plan = planned(given)
    if plan is None:
        return
    fp32 = [candidate.id for candidate in plan.candidates if candidate.precision.kind == "fp32"]
    assert [candidate.id for candidate in plan.candidates if candidate.baseline] == fp32[:1]


@given(plan_inputs)
@settings(deadline=None)
def test_a_plan_fits_the_time_unless_nothing_more_can_go(given: PlanInputs) -> None:
    plan = planned(given)
    if plan is None or given.time_s is None:
        return
    whole = planned(given.model_copy(update={"time_s": None}))
    assert whole is not None
    if whole.seconds <= given.time_s:
        assert plan.candidates == whole.candidates
        assert plan.costs == whole.costs
    if plan.seconds > given.time_s:
        assert len(plan.candidates) == 1, "the least of all: nothing is never measured"
        assert len(plan.candidates[0].settings) == 1
        assert any("is the least for what is left" in note for note in plan.notes)
    baselines = [c.id for c in whole.candidates if c.baseline]
    assert set(baselines) <= set(ids(plan))


def test_candidates_keep_the_order_of_profiles_and_precisions() -> None:
    plan = make_plan(inputs(profile("b"), profile("a", "openvino", (OURS, FP32))))
    assert ids(plan) == [
        "b/fp32",
        "b/fp16-storage",
        "b/int8-edgebuild-u8s8",
        "b/int8-onnxruntime-u8s8",
        "b/int8-nncf-u8s8",
        "a/int8-edgebuild-u8s8",
        "a/fp32",
    ]
    assert [candidate.backend for candidate in plan.candidates[-2:]] == ["openvino", "openvino"]


@pytest.mark.parametrize(
    ("objective", "raced"), [("latency", False), ("throughput", False), ("size", True), ("memory", True)]
)
def test_fp16_storage_is_raced_where_it_can_win(objective: str, raced: bool) -> None:
    plan = make_plan(inputs(profile("a", precisions=(FP32, STORAGE, COMPUTE)), objective=objective))
    fp32, storage, compute = plan.candidates
    assert storage.raced is raced
    assert fp32.raced
    assert compute.raced
    assert len(storage.settings) == (1 if objective != "memory" else 2)
    assert len(fp32.settings) == (1 if objective == "size" else 2), "settings don't change a file's size"


@pytest.mark.parametrize(
    ("change", "what", "reason"),
    [
        (
            {"missing": {"openvino": "pip install 'edgebuild[openvino]'"}},
            "b",
            "openvino is not installed (pip install 'edgebuild[openvino]')",
        ),
        ({"missing": {"nncf": "pip install nncf"}}, "a/int8-nncf-u8s8", "nncf is not installed (pip install nncf)"),
        (
            {"quantisable_ops": 0},
            "a/int8-edgebuild-u8s8",
            "the model has no convolution or matrix product that could run in int8",
        ),
        ({"backend_refusals": {"openvino": "custom operators (my.ops)"}}, "b", "custom operators (my.ops)"),
        ({"refused": (("c", "needs a CPU with avx512f"),)}, "c", "needs a CPU with avx512f"),
    ],
)
def test_what_is_not_tried_has_its_reason(change: dict[str, Any], what: str, reason: str) -> None:
    plan = make_plan(inputs(profile("a"), profile("b", "openvino"), **change))
    assert refusals(plan)[what] == reason
    assert not any(candidate.startswith(f"{what}/") or candidate == what for candidate in ids(plan))
    assert "a/fp32" in ids(plan)


def test_nothing_left_to_try_is_an_error_with_every_reason() -> None:
    with pytest.raises(EnvironmentGap) as caught:
        make_plan(inputs(profile("a"), refused=(("b", "needs avx2"),), missing={"onnxruntime": "pip install x"}))
    message = "Nothing can be built for here: b: needs avx2; a: onnxruntime is not installed (pip install x)."
    assert caught.value.message == message


def test_time_takes_a_rival_then_settings_then_cross_checks_then_candidates() -> None:
    every = make_plan(inputs())
    # Who is close to the best of all is certified as well where there is time: ten launches of 6 s, and the test set.
    whole_s = every.seconds - 10 * 6 - 3
    close = make_plan(inputs(time_s=every.seconds - 1))
    assert (close.candidates, refusals(close)) == (every.candidates, {})
    shorter = make_plan(inputs(time_s=whole_s - 1))
    (what,) = refusals(shorter)
    assert what == "all runtime settings of a/fp32 but the first", "what is expected to bring least"
    assert refusals(shorter)[what].startswith(f"left out to stay inside {whole_s - 1:.0f} s: it takes about 8 s")
    assert shorter.seconds == whole_s - 1
    # Four raced candidates whose second setting goes, three cross-checks of 9 s, and what isn't raced, of 3 s.
    bare_s = whole_s - 4 * 8 - 3 * 9 - 3
    bare = make_plan(inputs(time_s=bare_s))
    assert ids(bare) == [name for name in ids(every) if name != "a/fp16-storage"]
    assert {len(candidate.settings) for candidate in bare.candidates} == {1}
    assert sum("the cross-check of" in what for what in refusals(bare)) == 3
    fewer = make_plan(inputs(time_s=bare_s - 1))
    assert len(fewer.candidates) == len(bare.candidates) - 1


def test_fp32_and_one_int8_come_first_and_the_least_is_fp32() -> None:
    found = (profile("a", precisions=(FP32, OURS)),)
    assert ids(make_plan(inputs(*found, time_s=1))) == ["a/fp32"]
    # Making both, certifying both, the test set: exactly what fits. Between two there is nothing to screen.
    both = 5 + (1 + 2) + (7 + 1 + 2) + 2 * 10 * 6 + 2 * 3
    assert ids(make_plan(inputs(*found, time_s=both))) == ["a/fp32", "a/int8-edgebuild-u8s8"]
    assert ids(make_plan(inputs(*found, time_s=both - 1))) == ["a/fp32"]


def test_the_first_int8_may_shorten_certifying_and_no_other_may() -> None:
    costs = COSTS.model_copy(update={"certify_least": 5, "certify_launches": 10})
    fixed = 5 + (1 + 2) + (7 + 1 + 2) + 2 * 3
    found = profile("a", precisions=(FP32, OURS, NNCF))
    shortest = make_plan(inputs(found, costs=costs, time_s=fixed + 2 * 5 * 6))
    assert ids(shortest) == ["a/fp32", "a/int8-edgebuild-u8s8"]
    assert shortest.seconds == fixed + 2 * 5 * 6
    longer = make_plan(inputs(found, costs=costs, time_s=fixed + 2 * 10 * 6))
    assert ids(longer) == ids(shortest)
    assert longer.seconds == fixed + 2 * 10 * 6
    most = make_plan(inputs(profile("a", precisions=(FP32, OURS)), costs=costs.model_copy(update={"certify_most": 20})))
    assert next(cost.seconds for cost in most.costs if cost.stage == "certify") == 2 * 20 * 6


def test_the_first_int8_is_calibrated_with_few_samples_where_there_is_no_time_for_all() -> None:
    few = {"calibrate_s": {"nncf": 0.1}, "samples": FEW_SAMPLES + 40}
    costs = COSTS.model_copy(update={**few, "quantise_s": {"edgebuild": 30.0, "nncf": 10.0}, "certify_least": 5})
    found = profile("a", precisions=(FP32, OURS, NNCF))
    with_all = 5 + (1 + 2) + (10 + 1 + 2) + 2 * 5 * 6 + 2 * 3
    samples = {c.id: c.samples for c in make_plan(inputs(found, costs=costs, time_s=with_all)).candidates}
    assert samples == {"a/fp32": None, "a/int8-nncf-u8s8": None}
    short = make_plan(inputs(found, costs=costs, time_s=with_all - 4))
    assert {c.id: c.samples for c in short.candidates} == {"a/fp32": None, "a/int8-nncf-u8s8": FEW_SAMPLES}
    assert short.seconds == with_all - 4
    why = f"left out to stay inside {with_all - 4} s: it takes about 13 s, and 9 s are left for it"
    assert refusals(short)[f"all calibration samples of a/int8-nncf-u8s8 but {FEW_SAMPLES}"] == why
    assert ids(make_plan(inputs(found, costs=costs, time_s=with_all - 5))) == ["a/fp32"]


def test_bf16_comes_where_no_int8_fits_and_is_certified_as_briefly() -> None:
    costs = COSTS.model_copy(update={"certify_least": 5, "quantise_s": {"edgebuild": 100.0}})
    found = profile("a", precisions=(FP32, Precision(kind="bf16"), OURS))
    both = 5 + 2 * (1 + 2) + 2 * 5 * 6 + 2 * 3
    assert ids(make_plan(inputs(found, costs=costs, time_s=both))) == ["a/fp32", "a/bf16"]
    assert ids(make_plan(inputs(found, costs=costs, time_s=both - 1))) == ["a/fp32"]
    assert ids(make_plan(inputs(found, costs=costs, time_s=both + 100))) == ["a/fp32", "a/int8-edgebuild-u8s8"]


def test_what_is_in_the_store_costs_no_quantising_and_equal_precisions_are_quantised_once() -> None:
    def making(**more: Any) -> float:
        plan = make_plan(inputs(profile("a", precisions=(FP32, OURS)), profile("b", precisions=(OURS,)), **more))
        return next(cost.seconds for cost in plan.costs if cost.stage == "quantise and compile")

    assert making() == 7 + 3 * 1
    assert making(costs=COSTS.model_copy(update={"ready": (f"a/{OURS.label}",)})) == 3 * 1


def test_a_cheap_quantiser_never_goes_for_a_dear_one() -> None:
    costs = COSTS.model_copy(update={"quantise_s": {"edgebuild": 400.0, "nncf": 25.0}})
    for time_s in range(100, 1_500, 10):
        kept = {c.precision.quantiser for c in make_plan(inputs(costs=costs, time_s=float(time_s))).candidates}
        assert "edgebuild" not in kept or "nncf" in kept
        assert kept != {None} or time_s < 5 + 3 + 28 + 16 + 120 + 6, "an int8 that fits is made"


def test_settings_are_not_said_to_be_dropped_where_there_was_one() -> None:
    plan = make_plan(inputs(time_s=1, objective="size"))
    assert not any("all runtime settings" in what for what in refusals(plan))


def test_costs_add_up_by_hand() -> None:
    plan = make_plan(inputs(profile("a", precisions=(FP32, STORAGE, OURS))))
    assert {cost.stage: cost.seconds for cost in plan.costs} == {
        "data, export and reference": 5,
        "quantise and compile": 7 + 3 * 1,
        "evaluate on validation": 3 * 2,
        "cross-check int8": 1 * 9,
        "screen": 2 * 2 * 4 * 2,  # fp16 storage isn't raced
        "certify": 2 * 10 * 6,
        "evaluate on test": 2 * 3,
        "report": 0,
    }
    assert plan.seconds == 5 + 10 + 6 + 9 + 32 + 120 + 6


def test_the_digest_sees_what_is_decided() -> None:
    plan = make_plan(inputs())
    for change in ({"objective": "size"}, {"budget": "1 point"}, {"time_s": 1.0}, {"quantisable_ops": 0}):
        assert plan_digest(make_plan(inputs(**change))) != plan_digest(plan)


@pytest.mark.parametrize("name", sorted(load_targets()))
def test_every_shipped_target_plans_distinct_candidates(name: str) -> None:
    target = load_targets()[name]
    facts = {"arch": "x86_64"} if target.facts.arch is None else {}
    resolved = resolve(target, load_profiles(), X86 if name == "this-machine" else facts)
    given = PlanInputs(target=resolved, objective="latency", budget="2 points", quantisable_ops=1)
    if not resolved.profiles:
        with pytest.raises(EnvironmentGap, match="Nothing can be built"):
            make_plan(given)
        return
    plan = make_plan(given)
    assert len(set(ids(plan))) == len(plan.candidates)
    assert sum(candidate.baseline for candidate in plan.candidates) == 1


@pytest.mark.parametrize(
    ("objective", "limited", "made"), [("size", False, True), ("latency", True, True), ("latency", False, False)]
)
def test_int8_storage_is_made_where_the_size_counts(objective: str, limited: bool, made: bool) -> None:
    found = profile("a", precisions=(FP32, Precision(kind="int8-storage")))
    plan = make_plan(inputs(found, objective=objective, size_limited=limited))
    assert [c.precision.label for c in plan.candidates] == ["fp32"] + ["int8-storage"] * made
    assert [c.raced for c in plan.candidates] == [True] + [objective == "size"] * made
    assert [r.reason.split(":")[0] for r in plan.refused] == ["it only saves space"] * (not made)


@pytest.mark.parametrize(
    ("dense", "whole", "made"), [(3e6, 4e6, True), (1e6, 1e6, False), (9e6, 40e6, False), (None, None, True)]
)
def test_dynamic_int8_is_for_large_models_that_are_mostly_products(
    dense: float | None, whole: float | None, made: bool
) -> None:
    found = profile("a", precisions=(FP32, Precision(kind="int8-dynamic", scheme=U8S8)))
    plan = make_plan(inputs(found, dense_bytes=dense, weight_bytes=whole))
    assert ("a/int8-dynamic-u8s8" in ids(plan)) == made
    assert ("mostly matrix products" in refusals(plan).get("a/int8-dynamic-u8s8", "")) == (not made)


def test_bf16_is_no_smaller() -> None:
    found = profile("a", precisions=(FP32, Precision(kind="bf16")))
    assert ids(make_plan(inputs(found))) == ["a/fp32", "a/bf16"]
    assert refusals(make_plan(inputs(found, objective="size"))) == {
        "a/bf16": "its files are those of fp32, and the objective is size"
    }
