"""Metrics of a project's own: called plainly or per sample, and what is said of bad ones."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.core.budget import Budget
from edgebuild.core.verdict import Outcome
from edgebuild.errors import DataError
from edgebuild.judging.drops import Pair, paired_drop
from edgebuild.judging.judge import Evaluated, judge
from edgebuild.judging.metrics import named_metric
from edgebuild.judging.own_metrics import by_samples, custom, decoded
from edgebuild.judging.pace import Pace

if TYPE_CHECKING:
    from edgebuild.judging.metrics import Metric


def test_a_callable_is_a_metric() -> None:
    metric = custom(lambda outputs, targets: (outputs["y"] == targets).mean(), name="m:same", direction="maximise")
    outputs = {"y": np.array([1, 2, 3])}
    targets = np.array([1, 2, 4])
    assert metric.value(outputs, targets) == pytest.approx(2 / 3)
    assert metric.prepare(outputs, targets)(np.array([0, 1, 3])) == pytest.approx(1 / 4)
    assert metric.per_sample(outputs, targets) is None


def raises(_outputs: Any, _targets: Any) -> float:
    raise KeyError("logits")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raises, "metric m:f raised KeyError: 'logits'"),
        (lambda _o, _t: float("nan"), "metric m:f returned nan on 3 samples"),
        (lambda _o, _t: "good", "metric m:f returned str, not a number"),
        (lambda _o, _t: None, "metric m:f returned NoneType, not a number"),
    ],
)
def test_a_bad_callable_is_named(function: Any, message: str) -> None:
    metric = custom(function, name="m:f", direction="maximise")
    with pytest.raises(DataError, match=message):
        metric.value({"y": np.zeros(3)}, np.zeros(3))


def takes_an_array(outputs: Any, _targets: Any) -> float:
    return float(np.asarray(outputs, np.float64).mean())


def test_a_callable_that_took_its_outputs_for_an_array_is_told_what_they_are() -> None:
    metric = custom(takes_an_array, name="m:f", direction="maximise")
    with pytest.raises(DataError, match="raised TypeError") as raised:
        metric.value({"logits": np.zeros((3, 5), np.float32)}, np.zeros(3, np.int64))
    assert raised.value.hint.startswith("It was called with {'logits': float32 (3, 5)}, int64 (3,); ")


RANDOM = np.random.default_rng(0)
TARGETS = RANDOM.integers(0, 2, size=(60, 8))
REFERENCE = {"map": np.where(RANDOM.random((60, 8)) < 0.9, TARGETS, 1 - TARGETS)}
ARTIFACT = {"map": np.where(RANDOM.random((60, 8)) < 0.8, TARGETS, 1 - TARGETS)}
PAIR = Pair(reference=REFERENCE, artifact=ARTIFACT, targets=TARGETS)


def dice(outputs: Any, targets: Any) -> float:
    return float(2 * (outputs["map"] & targets).sum() / (outputs["map"].sum() + targets.sum()))


def parts(outputs: Any, targets: Any) -> Any:
    return np.stack([2 * (outputs["map"] & targets).sum(axis=1), outputs["map"].sum(axis=1) + targets.sum(axis=1)], 1)


def ratio(entries: Any) -> float:
    hits, total = entries.sum(axis=0)
    return float(hits / total)


def dice_by_samples(**more: Any) -> Metric:
    return by_samples(parts, ratio, name="m:dice", direction="maximise", **more)


class Calls:
    """Counts the calls of a function."""

    def __init__(self, function: Any) -> None:
        self.function, self.count = function, 0

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        return self.function(*arguments)


def test_entries_per_sample_combine_to_what_the_callable_says_on_any_samples() -> None:
    plain, own = custom(dice, name="m:dice", direction="maximise"), dice_by_samples(plain=dice)
    counts = RANDOM.integers(0, 4, 60)
    for each in (None, counts):
        assert own.prepare(ARTIFACT, TARGETS)(each) == pytest.approx(plain.prepare(ARTIFACT, TARGETS)(each))


def test_a_plain_callable_is_called_a_few_hundred_times_and_entries_are_computed_once() -> None:
    plain, each = Calls(dice), Calls(parts)
    few = paired_drop(PAIR, custom(plain, name="m:dice", direction="maximise"), level=0.95, seed=0)
    many = paired_drop(
        PAIR, by_samples(each, ratio, name="m:dice", direction="maximise"), level=0.95, seed=0, pace=Pace(box_s=600)
    )
    assert (plain.count, each.count) == (2 + 2 * 200 + 2 * 60, 2)  # all, resamples, each sample alone
    assert "t times the standard error, 200 draws of 60 samples" in few.interval.method
    assert "expanded percentile" in many.interval.method
    assert few.drop == pytest.approx(many.drop)
    assert few.interval.low == pytest.approx(many.interval.low, abs=0.015)
    assert few.interval.high == pytest.approx(many.interval.high, abs=0.015)


def test_numbers_per_sample_without_a_combination_are_averaged_by_the_interval_of_a_mean() -> None:
    def right(outputs: Any, targets: Any) -> Any:
        return (outputs["map"] == targets).all(axis=1)

    found = paired_drop(PAIR, by_samples(right, None, name="m:right", direction="maximise"), level=0.95, seed=0)
    assert found.reference == right(REFERENCE, TARGETS).mean()
    assert found.lost == int((right(REFERENCE, TARGETS) & ~right(ARTIFACT, TARGETS)).sum())
    assert "Tango" in found.interval.method


def test_entries_may_be_anything() -> None:
    words = np.array(["a", "bb", "ccc"])
    metric = by_samples(
        lambda outputs, targets: [{"same": one == two} for one, two in zip(outputs["y"], targets, strict=True)],
        lambda entries: sum(entry["same"] for entry in entries) / len(entries),
        name="m:same",
        direction="maximise",
    )
    score = metric.prepare({"y": np.array(["a", "b", "ccc"])}, words)
    assert score(None) == pytest.approx(2 / 3)
    assert score(np.array([0, 3, 1])) == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("per_sample", "combine", "message"),
    [
        (raises, ratio, "metric m:f raised KeyError: 'logits'"),
        (lambda _o, _t: 0.5, ratio, "per_sample returned float, not one entry a sample"),
        (lambda _o, _t: [1, 2], ratio, "per_sample returned 2 entries for 60 samples"),
        (parts, lambda _e: float("nan"), "metric m:f returned nan on 60 samples"),
        (parts, lambda _e: "much", "metric m:f returned str, not a number"),
        (parts, None, r"per_sample returned shape \(60, 2\) of int64, not one number a sample"),
        (lambda _o, t: ["x"] * len(t), None, "of object, not one number a sample"),
        (lambda _o, t: np.where(np.arange(len(t)) == 7, np.nan, 1), None, "per_sample returned nan for sample 7"),
        (parts, lambda e: ratio(e) + 1e-3, r"per_sample combines to 0\.\d+ on 60 samples, where it returns 0\.\d+"),
    ],
)
def test_bad_entries_are_named(per_sample: Any, combine: Any, message: str) -> None:
    metric = by_samples(per_sample, combine, name="m:f", direction="maximise", plain=dice)
    with pytest.raises(DataError, match=message):
        metric.value(ARTIFACT, TARGETS)


def test_a_built_in_metric_reads_what_a_project_decodes() -> None:
    letters = np.array(list("abc"))

    def read(outputs: Any) -> list[str]:
        return ["".join(letters[row]) for row in outputs["codes"]]

    metric = decoded(named_metric("cer"), read)
    outputs, targets = {"codes": np.array([[0, 1], [2, 2]]), "more": np.zeros(2)}, np.array(["ab", "bcc"])
    assert metric.value(outputs, targets) == pytest.approx(1 / 5)
    accuracy = decoded(named_metric("accuracy"), lambda outputs: np.eye(2)[outputs["y"]])
    assert accuracy.per_sample({"y": np.array([0, 1])}, np.array([0, 0])) == pytest.approx([1, 0])
    for bad, message in (
        (raises_alone, "metric cer raised KeyError: 'codes'"),
        (lambda _: ["ab"], "metric cer: decode returned 1 entries for 2 samples"),
        (lambda _: None, "metric cer: decode returned NoneType, not one entry a sample"),
    ):
        with pytest.raises(DataError, match=message):
            decoded(named_metric("cer"), bad).value(outputs, targets)


def raises_alone(_outputs: Any) -> Any:
    raise KeyError("codes")


class Clock:
    """A clock that only a metric moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("call_s", "draws"), [(0.001, 200), (0.015, 100), (0.037, 50), (0.09, 20), (0.19, 10)])
def test_a_slow_metric_is_resampled_as_often_as_its_time_allows(call_s: float, draws: int) -> None:
    clock = Clock()

    def slow(outputs: Any, targets: Any) -> float:
        clock.now += call_s
        return dice(outputs, targets)

    metric = custom(slow, name="m:slow", direction="maximise")
    found = paired_drop(PAIR, metric, level=0.95, seed=0, pace=Pace(clock=clock))
    assert f", {draws} draws of 60 samples" in found.interval.method
    assert found.interval.low < found.drop < found.interval.high


def test_a_very_slow_metric_is_asked_about_batches() -> None:
    """A second for all 60: twice as long in all as they take once."""
    clock, asked = Clock(), []

    def slow(outputs: Any, targets: Any) -> float:
        clock.now += len(targets) / 60
        asked.append(len(targets))
        return dice(outputs, targets)

    metric = custom(slow, name="m:slow", direction="maximise", scale=(0, 1))
    found = paired_drop(PAIR, metric, level=0.95, seed=0, pace=Pace(clock=clock))
    assert found.interval.method.startswith("paired batches, t times the standard error, 10 batches of 60 samples")
    assert asked == [60] * 2 + [6] * 20
    assert clock.now == pytest.approx(4)
    whole = paired_drop(PAIR, custom(dice, name="m:dice", direction="maximise"), level=0.95, seed=0).interval
    assert 0.5 < (found.interval.high - found.interval.low) / (whole.high - whole.low) < 2


def test_a_very_slow_metric_without_a_scale_is_asked_about_batches_where_it_is_no_sum() -> None:
    clock, sizes = Clock(), []

    def mean(outputs: Any, targets: Any) -> float:
        clock.now += len(targets) / 60
        sizes.append(len(targets))
        return float((outputs["map"] != targets).mean())

    def total(outputs: Any, targets: Any) -> float:
        return len(targets) * mean(outputs, targets)

    def fails_on_few(outputs: Any, targets: Any) -> float:
        if len(targets) < 60:
            raise ValueError("too few")
        return mean(outputs, targets)

    def method(function: Any) -> str:
        metric = custom(function, name="m:slow", direction="minimise")
        return paired_drop(PAIR, metric, level=0.95, seed=0, pace=Pace(clock=clock)).interval.method

    assert "10 batches of 60 samples" in method(mean)
    assert sizes == [60] * 2 + [30] + [6] * 20
    assert ", 10 draws of 60 samples" in method(total)
    assert ", 10 draws of 60 samples" in method(fails_on_few)


@pytest.mark.filterwarnings("error")
def test_what_a_metric_says_of_a_sample_alone_is_never_shown() -> None:
    def spread(outputs: Any, targets: Any) -> float:
        if len(targets) < 5:
            warnings.warn("too few", RuntimeWarning, stacklevel=1)
            raise ValueError("too few")
        return float(outputs["map"].std())

    found = paired_drop(PAIR, custom(spread, name="m:spread", direction="maximise"), level=0.95, seed=0)
    assert found.interval.failures == ""


def test_what_is_only_computed_here_is_timed_by_its_computing() -> None:
    """A clock on the wall would count what other programs do meanwhile."""
    wall, computing = Clock(), Clock()

    def combine(entries: Any) -> float:
        wall.now += 1.0
        computing.now += 0.005
        return ratio(entries)

    metric = by_samples(parts, combine, name="m:dice", direction="maximise")
    found = paired_drop(PAIR, metric, level=0.95, seed=0, pace=Pace(clock=wall, computing=computing))
    assert ", 200 draws of 60 samples" in found.interval.method


def test_slices_share_the_time_of_all_samples() -> None:
    clock = Clock()

    def slow(outputs: Any, targets: Any) -> float:
        clock.now += 1e-4 * len(targets)
        return dice(outputs, targets)

    evaluated = Evaluated(reference=REFERENCE, artifact=ARTIFACT, targets=TARGETS, slices=["a", "b", "c"] * 20)
    metric = custom(slow, name="m:slow", direction="maximise")
    verdict = judge(evaluated, metric, Budget(relative=0.5), split="validation", pace=Pace(box_s=1, clock=clock))
    assert len(verdict.slices) == 3
    assert clock.now < 1.3


def test_judging_reports_every_draw_and_can_be_stopped() -> None:
    class Told:
        def __init__(self) -> None:
            self.titles: list[str] = []
            self.total, self.done = 0.0, 0.0

        def task(self, title: str, total: float | None = None) -> Told:
            self.titles.append(title)
            self.total += total or 0
            return self

        def say(self, text: str) -> None: ...

        def advance(self, amount: float = 1.0, note: str = "") -> None:
            self.done += amount
            assert not note

        def __enter__(self) -> Told:
            return self

        def __exit__(self, *exc: object) -> None: ...

    class Stop(Exception): ...

    def stop() -> None:
        raise Stop

    told, metric = Told(), custom(dice, name="m:dice", direction="maximise")
    paired_drop(PAIR, metric, level=0.95, seed=0, pace=Pace(progress=told))
    assert told.titles == ["Judging by m:dice"]
    assert told.done == told.total > 100
    with pytest.raises(Stop):
        paired_drop(PAIR, metric, level=0.95, seed=0, pace=Pace(check=stop))


def test_a_metric_that_fails_on_some_resamples_is_judged_with_more_doubt_and_it_is_said() -> None:
    few = np.array([1, 1, 1, 1] + [0] * 56)
    outputs = {"y": (RANDOM.random(60) < 0.5).astype(np.int64)}

    def recall(found: Any, targets: Any) -> float:
        if not targets.any():
            raise ValueError("nothing to find")
        return float((found["y"] * targets).sum() / targets.sum())

    evaluated = Evaluated(reference={"y": few}, artifact=outputs, targets=few)
    metric = custom(recall, name="m:recall", direction="maximise", scale=(0, 1))
    verdict = judge(evaluated, metric, Budget(points=5), split="validation", seed=1)
    assert verdict.drop is not None
    assert "undefined" in verdict.drop.method
    assert verdict.outcome is not Outcome.ACCEPTED
    assert verdict.reasons[-1].endswith("of 200 resamples: metric m:recall raised ValueError: nothing to find")
