"""Verdicts: what is accepted, refused and left open, and what their sentences say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.core.budget import Budget
from edgebuild.core.verdict import Outcome, Verdict
from edgebuild.errors import DataError, ModelError, UsageError
from edgebuild.judging.judge import Evaluated, judge
from edgebuild.judging.metrics import Metric, named_metric
from edgebuild.judging.own_metrics import custom

if TYPE_CHECKING:
    from numpy.typing import NDArray

TWO_POINTS = Budget(points=2)
ACCURACY = named_metric("accuracy")


def one_hot(predicted: NDArray[np.int64], classes: int = 4) -> dict[str, NDArray[Any]]:
    return {"logits": np.eye(classes, dtype=np.float32)[predicted]}


def classifier(n: int, lost: int, gained: int, wrong: int = 0, **more: Any) -> Evaluated:
    """Both right but for: ``lost`` only the reference right, ``gained`` only the artifact, ``wrong`` neither."""
    targets = np.arange(n) % 4
    reference, artifact = targets.copy(), targets.copy()
    artifact[:lost] = (targets[:lost] + 1) % 4
    reference[lost : lost + gained] = (targets[lost : lost + gained] + 1) % 4
    both = slice(lost + gained, lost + gained + wrong)
    reference[both] = artifact[both] = (targets[both] + 2) % 4
    return Evaluated(reference=one_hot(reference), artifact=one_hot(artifact), targets=targets, **more)


def verdict_of(
    evaluated: Evaluated, budget: Budget = TWO_POINTS, metric: Metric | None = ACCURACY, **more: Any
) -> Verdict:
    return judge(evaluated, metric, budget, split="validation", **more)


def test_accepted_inside_the_budget() -> None:
    verdict = verdict_of(classifier(5000, 30, 20, wrong=200))
    assert verdict.outcome is Outcome.ACCEPTED
    drop = verdict.drop
    assert drop is not None
    assert (drop.samples, drop.groups, drop.level) == (5000, None, 0.95)
    assert (drop.reference, drop.artifact, drop.drop, drop.budget) == pytest.approx((0.956, 0.954, 0.002, 0.02))
    assert drop.low < drop.drop < drop.high
    assert drop.needed_samples is None
    assert "Tango" in drop.method
    assert verdict.reasons == (
        "accuracy falls behind by 0.2 points (95 % interval of the drop -0.08 to 0.49), inside the budget of 2 points",
    )


def test_refused_beyond_the_budget() -> None:
    verdict = verdict_of(classifier(1000, 60, 5))
    assert verdict.outcome is Outcome.REFUSED
    assert "beyond the budget of 2 points" in verdict.reasons[0]


def test_a_small_set_is_inconclusive_and_says_how_many_samples_are_missing() -> None:
    verdict = verdict_of(classifier(150, 1, 0))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.drop is not None
    more = verdict.drop.needed_samples
    assert more is not None
    assert f"too wide for the budget of 2 points: about {more} more samples needed" in verdict.reasons[0]
    scale = (150 + more) // 150 + 1
    assert verdict_of(classifier(150 * scale, scale, 0)).outcome is Outcome.ACCEPTED


def test_an_estimate_beyond_the_budget_asks_for_no_more_samples() -> None:
    verdict = verdict_of(classifier(100, 3, 0))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.drop is not None
    assert verdict.drop.needed_samples is None
    assert "the estimate itself is on it or beyond" in verdict.reasons[0]


@pytest.mark.parametrize("n", [1, 9])
def test_a_handful_of_samples_certifies_nothing(n: int) -> None:
    verdict = verdict_of(classifier(n, 0, 0), Budget(points=90))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert f"only {n} samples, at least 10 are needed" in verdict.reasons[0]


def test_few_groups_certify_nothing_however_many_samples() -> None:
    groups = [f"g{i % 5}" for i in range(4000)]
    verdict = verdict_of(classifier(4000, 0, 0, groups=groups))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "only 5 groups" in verdict.reasons[0]


def test_losses_that_sit_in_one_group_weigh_more_than_scattered_ones() -> None:
    together = [f"g{i // 50}" for i in range(2000)]
    scattered = [f"g{i % 40}" for i in range(2000)]
    one = verdict_of(classifier(2000, 25, 0, groups=together)).drop
    other = verdict_of(classifier(2000, 25, 0, groups=scattered)).drop
    plain = verdict_of(classifier(2000, 25, 0)).drop
    assert one is not None
    assert other is not None
    assert plain is not None
    assert one.groups == other.groups == 40
    assert one.high > other.high >= plain.high
    assert "group bootstrap" in one.method


def test_grouped_data_without_any_loss_keep_some_doubt() -> None:
    verdict = verdict_of(classifier(60, 0, 0, groups=[f"g{i % 20}" for i in range(60)]))
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_a_later_opening_of_the_test_set_is_judged_more_strictly() -> None:
    evaluated = classifier(900, 14, 7)
    first, fifth = verdict_of(evaluated), verdict_of(evaluated, level=0.99)
    assert (first.outcome, fifth.outcome) == (Outcome.ACCEPTED, Outcome.INCONCLUSIVE)
    assert fifth.drop is not None
    assert fifth.drop.level == 0.99


def masked(evaluated: Evaluated) -> Evaluated:
    """A score of each sample, not of its class, is -inf."""
    reference, artifact = ({"logits": each["logits"].copy()} for each in (evaluated.reference, evaluated.artifact))
    for row in range(len(reference["logits"])):
        low = int(np.argmin(reference["logits"][row] + artifact["logits"][row]))
        reference["logits"][row, low] = artifact["logits"][row, low] = -np.inf
    return Evaluated(reference=reference, artifact=artifact, targets=evaluated.targets)


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "auroc", "average_precision"])
def test_scores_that_both_mask_change_no_verdict_and_no_other_metric(name: str) -> None:
    with np.errstate(all="raise"):
        verdict = judge(masked(classifier(400, 2, 1)), named_metric(name), Budget(points=5), split="validation")
    assert verdict.drop is not None
    assert verdict.outcome is not Outcome.REFUSED


def test_an_artifact_may_mask_by_a_number_what_the_original_masks() -> None:
    evaluated = masked(classifier(400, 0, 0))
    evaluated.artifact["logits"][np.isneginf(evaluated.artifact["logits"])] = -65504.0
    assert verdict_of(evaluated).outcome is Outcome.ACCEPTED


def test_an_artifact_that_masks_what_the_original_does_not_is_refused() -> None:
    evaluated = classifier(50, 0, 0)
    evaluated.artifact["logits"][7, 0] = -np.inf
    assert verdict_of(evaluated).reasons == ("output 'logits' is NaN or infinite for 1 samples, first sample 7",)


@pytest.mark.parametrize("name", ["mse", "mae", "rmse", "r2"])
@pytest.mark.parametrize("where", ["output", "target"])
def test_a_metric_of_numbers_names_what_it_cannot_take(name: str, where: str) -> None:
    values, targets = np.zeros((20, 2)), np.ones((20, 2))
    (values if where == "output" else targets)[3:5, 1] = -np.inf if where == "output" else np.nan
    evaluated = Evaluated(reference={"y": values}, artifact={"y": values}, targets=targets)
    with pytest.raises(DataError, match=f"the {where} holds NaN or an infinity in 2 samples, the first 3"):
        judge(evaluated, named_metric(name), Budget(relative=0.1), split="validation")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_outputs(bad: float) -> None:
    good, broken = classifier(50, 0, 0), classifier(50, 0, 0)
    broken.artifact["logits"][[7, 9], 0] = bad
    verdict = verdict_of(broken)
    assert verdict.outcome is Outcome.REFUSED
    assert verdict.reasons == ("output 'logits' is NaN or infinite for 2 samples, first sample 7",)
    swapped = Evaluated(reference=broken.artifact, artifact=good.artifact, targets=good.targets)
    with pytest.raises(
        ModelError, match="original model gives NaN or infinity in output 'logits' for 2 samples, first 7"
    ):
        verdict_of(swapped)


def test_classes_are_reported_and_can_be_limited() -> None:
    evaluated = classifier(4000, 40, 0)
    hidden = np.flatnonzero(evaluated.targets == 2)[:100]
    evaluated.artifact["logits"][hidden] = np.eye(4)[0]
    free = verdict_of(evaluated, Budget(points=10))
    assert free.outcome is Outcome.ACCEPTED
    assert [one.slice for one in free.slices] == [f"class {i}" for i in range(4)]
    worst = max(free.slices, key=lambda one: one.drop)
    assert (worst.slice, worst.samples, worst.limit) == ("class 2", 1000, None)
    limited = verdict_of(evaluated, Budget(points=10, per_slice_points=5))
    assert limited.outcome is Outcome.REFUSED
    assert limited.slices[2].limit == pytest.approx(0.05)
    assert "class 2 falls behind by 10" in limited.reasons[1]
    assert "beyond its limit of 5 points" in limited.reasons[1]
    assert limited.slices[2].high > free.slices[2].high  # Bonferroni over four


def test_a_slice_whose_estimate_is_beyond_its_limit_is_no_pass() -> None:
    slices = ["rare" if i < 20 else "common" for i in range(4000)]
    verdict = verdict_of(classifier(4000, 2, 0, slices=slices), Budget(points=2, per_slice_points=5))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "rare falls behind by 10 points" in verdict.reasons[1]
    assert "perhaps beyond its limit of 5 points" in verdict.reasons[1]
    assert [one.slice for one in verdict.slices] == ["common", "rare"]


def test_a_slice_on_which_the_metric_is_undefined_is_told() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    scores = {"score": (labels + random.normal(size=400)).astype(np.float32)}
    slices = ["all positive" if i < 100 else "mixed" for i in range(400)]
    labels[:100] = 1
    evaluated = Evaluated(reference=scores, artifact=scores, targets=labels, slices=slices)
    verdict = verdict_of(evaluated, metric=named_metric("auroc"))
    assert verdict.outcome is Outcome.ACCEPTED
    assert [one.slice for one in verdict.slices] == ["mixed"]
    assert "all positive can't be judged: metric auroc is undefined" in verdict.reasons[1]
    limited = verdict_of(evaluated, Budget(points=2, per_slice_points=3), named_metric("auroc"))
    assert limited.outcome is Outcome.INCONCLUSIVE


def test_a_ranking_metric_by_groups() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 1500)
    reference = labels + random.normal(0, 0.5, 1500)
    groups = [f"g{i // 30}" for i in range(1500)]
    metric = named_metric("auroc")
    near = Evaluated(
        reference={"s": reference},
        artifact={"s": reference + random.normal(0, 0.01, 1500)},
        targets=labels,
        groups=groups,
    )
    far = Evaluated(
        reference={"s": reference}, artifact={"s": reference + random.normal(0, 1, 1500)}, targets=labels, groups=groups
    )
    assert verdict_of(near, metric=metric).outcome is Outcome.ACCEPTED
    refused = verdict_of(far, metric=metric)
    assert refused.outcome is Outcome.REFUSED
    assert refused.drop is not None
    assert refused.drop.groups == 50
    assert verdict_of(far, metric=metric) == refused  # seeded


def test_an_error_falls_behind_when_it_grows() -> None:
    random = np.random.default_rng(2)
    wanted = random.normal(size=500)
    reference = wanted + random.normal(0, 1, 500)
    evaluated = Evaluated(reference={"y": reference}, artifact={"y": reference * 1.5}, targets=wanted)
    verdict = verdict_of(evaluated, Budget(relative=0.05), named_metric("mse"))
    assert verdict.outcome is Outcome.REFUSED
    assert verdict.drop is not None
    assert verdict.drop.drop > 0
    assert verdict.drop.drop == pytest.approx(verdict.drop.artifact - verdict.drop.reference)
    assert "points" not in verdict.reasons[0]


def test_a_floor_that_the_original_misses_is_said() -> None:
    verdict = verdict_of(classifier(1000, 0, 0, wrong=200), Budget(floor=0.9))
    assert verdict.outcome is Outcome.REFUSED
    assert "the original itself, 0.8, misses the floor 0.9" in verdict.reasons


def test_a_callable_that_needs_both_classes_bounds_nothing_on_data_that_hardly_have_them() -> None:
    def both(outputs: Any, targets: Any) -> float:
        if len(set(targets.tolist())) < 2:
            raise ValueError("one class only")
        return float((outputs["y"] == targets).mean())

    targets = np.array([1] + [0] * 29)
    evaluated = Evaluated(reference={"y": targets}, artifact={"y": targets}, targets=targets)
    verdict = verdict_of(evaluated, Budget(relative=0.5), custom(both, name="m:both", direction="maximise"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "m:both is undefined on too many resamples" in verdict.reasons[0]
    assert re.fullmatch(
        r"the metric failed on \d+ of 200 resamples: metric m:both raised ValueError: one class only",
        verdict.reasons[1],
    )
    assert verdict.to_json()


def test_unlabelled_data_are_judged_by_agreement() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(size=(3000, 5)).astype(np.float32)
    near = Evaluated(reference={"y": logits}, artifact={"y": logits + 1e-4}, slices=["a", "b"] * 1500)
    verdict = verdict_of(near, Budget(agreement=0.98), None)
    assert verdict.outcome is Outcome.ACCEPTED
    assert verdict.drop is not None
    assert verdict.drop.metric == "agreement (same class)"
    assert [one.slice for one in verdict.slices] == ["a", "b"]
    far = Evaluated(reference={"y": logits}, artifact={"y": random.normal(size=(3000, 5))})
    assert verdict_of(far, Budget(agreement=0.98), None).outcome is Outcome.REFUSED


def test_values_agree_within_five_percent_of_their_rms() -> None:
    values = np.random.default_rng(4).normal(size=(2000, 1))
    scale = float(np.sqrt((values**2).mean()))
    inside = Evaluated(reference={"y": values}, artifact={"y": values + 0.049 * scale})
    outside = Evaluated(reference={"y": values}, artifact={"y": values + 0.051 * scale})
    verdict = verdict_of(inside, Budget(agreement=0.98), None)
    assert verdict.outcome is Outcome.ACCEPTED
    assert verdict.drop is not None
    assert verdict.drop.metric == "agreement (outputs within 5% of their RMS)"
    assert verdict_of(outside, Budget(agreement=0.98), None).outcome is Outcome.REFUSED


def test_memory_maps_are_judged_like_arrays(tmp_path: Any) -> None:
    evaluated = classifier(500, 3, 1)
    np.save(tmp_path / "y.npy", evaluated.artifact["logits"])
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    same = Evaluated(reference=evaluated.reference, artifact={"logits": mapped}, targets=evaluated.targets)
    assert verdict_of(same) == verdict_of(evaluated)


def test_labels_may_be_arrays_and_samples_without_a_slice_are_in_none() -> None:
    names = ["a", None, "b", None] * 100
    evaluated = classifier(400, 2, 0, slices=names, groups=np.repeat([f"g{i}" for i in range(40)], 10))
    assert [one.slice for one in verdict_of(evaluated).slices] == ["a", "b"]
    unnamed = classifier(400, 2, 0, slices=[None] * 400, groups=[None] * 400)
    assert verdict_of(unnamed) == verdict_of(classifier(400, 2, 0))
    array = Evaluated(
        reference=evaluated.reference, artifact=evaluated.artifact, slices=np.array(names), groups=evaluated.groups
    )
    assert [one.samples for one in verdict_of(array, Budget(agreement=0.9), None).slices] == [100, 100]


def test_what_does_not_fit_together() -> None:
    good = classifier(40, 0, 0)
    with pytest.raises(UsageError, match="a budget of 2 points needs targets"):
        verdict_of(Evaluated(reference=good.reference, artifact=good.artifact))
    with pytest.raises(UsageError, match="needs a metric"):
        verdict_of(good, metric=None)
    with pytest.raises(UsageError, match="has no scale"):
        verdict_of(
            Evaluated(reference={"y": np.ones(20)}, artifact={"y": np.ones(20)}, targets=np.ones(20)),
            metric=named_metric("mse"),
        )
    with pytest.raises(DataError, match="there are 40 samples but 3 groups"):
        verdict_of(Evaluated(reference=good.reference, artifact=good.artifact, targets=good.targets, groups=["a"] * 3))
    with pytest.raises(ModelError, match=r"output 'logits' has shape \(30, 4\), the reference's has \(40, 4\)"):
        verdict_of(Evaluated(reference=good.reference, artifact={"logits": np.zeros((30, 4))}, targets=good.targets))
    with pytest.raises(ModelError, match=r"the artifact's outputs are \['x'\], the reference's \['logits'\]"):
        verdict_of(Evaluated(reference=good.reference, artifact={"x": np.zeros((40, 4))}, targets=good.targets))
    with pytest.raises(DataError, match="there are no samples to judge by"):
        verdict_of(classifier(0, 0, 0))


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 400), st.data(), st.floats(0.1, 20))
def test_the_outcome_is_where_the_interval_lies(n: int, data: st.DataObject, points: float) -> None:
    lost = data.draw(st.integers(0, n // 3))
    gained = data.draw(st.integers(0, n // 3))
    verdict = verdict_of(classifier(n, lost, gained), Budget(points=points))
    drop = verdict.drop
    assert drop is not None
    assert drop.drop == pytest.approx((lost - gained) / n)
    expected = (
        Outcome.ACCEPTED
        if drop.high <= drop.budget
        else Outcome.REFUSED
        if drop.low > drop.budget
        else Outcome.INCONCLUSIVE
    )
    assert verdict.outcome is expected
    tighter = verdict_of(classifier(n, lost, gained), Budget(points=points / 2)).outcome
    assert not (tighter is Outcome.ACCEPTED and verdict.outcome is not Outcome.ACCEPTED)


def test_at_the_edge_of_the_budget_a_bad_artifact_slips_through_rarely() -> None:
    """A true drop of exactly the budget is accepted in about 2.5 % of data sets."""
    random = np.random.default_rng(5)
    accepted = 0
    for _ in range(400):
        lost, gained, _both = random.multinomial(800, [0.03, 0.01, 0.96])
        accepted += verdict_of(classifier(800, int(lost), int(gained))).outcome is Outcome.ACCEPTED
    assert accepted / 400 <= 0.05


def test_an_artifact_that_gives_no_number_at_all_does_not_work() -> None:
    good = classifier(40, 0, 0)
    nothing = {"logits": np.full_like(good.artifact["logits"], np.nan)}
    verdict = verdict_of(Evaluated(reference=good.reference, artifact=nothing, targets=good.targets))
    assert verdict.outcome is Outcome.REFUSED
    assert verdict.reasons == (
        "output 'logits' is NaN or infinite for every sample: the artifact doesn't work in its runtime",
    )


def test_a_metric_that_fails_on_the_artifact_alone_is_the_artifacts_fault() -> None:
    def picky(outputs: Any, targets: Any) -> float:
        if outputs["logits"].min() < 0:
            raise ValueError("negative")
        return float(len(targets))

    good = classifier(40, 0, 0)
    metric = custom(picky, name="m:picky", direction="maximise", scale=(0, 100))
    bad = {"logits": good.reference["logits"] - 2}
    with pytest.raises(ModelError, match="its outputs can't be scored, the original's can: metric m:picky raised"):
        verdict_of(Evaluated(reference=good.reference, artifact=bad, targets=good.targets), metric=metric)
    with pytest.raises(DataError, match="metric m:picky raised ValueError: negative"):
        verdict_of(Evaluated(reference=bad, artifact=good.reference, targets=good.targets), metric=metric)
