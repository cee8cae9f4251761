"""Metrics against torchmetrics and by hand; bad targets and bad callables."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torchmetrics.functional as torch_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from edgebuild.core.metric_names import METRIC_NAMES
from edgebuild.errors import DataError, UsageError
from edgebuild.judging.metrics import _BUILTIN, named_metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RANDOM = np.random.default_rng(0)
CLASSES = 6
LOGITS = RANDOM.normal(size=(400, CLASSES)).astype(np.float32)
LABELS = np.where(RANDOM.random(400) < 0.5, LOGITS.argmax(axis=1), RANDOM.integers(0, CLASSES, 400))
SINGLE = np.round(RANDOM.random(400), 2)  # rounded: ties
BINARY = (RANDOM.random(400) < SINGLE).astype(np.int64)
VALUES = RANDOM.normal(size=(400, 3))
MAPS = RANDOM.normal(size=(30, CLASSES, 5, 4)).astype(np.float32)
PIXELS = np.where(RANDOM.random((30, 5, 4)) < 0.5, MAPS.argmax(axis=1), RANDOM.integers(0, CLASSES, (30, 5, 4)))
WANTED = VALUES + RANDOM.normal(scale=0.3, size=(400, 3))


#: Those of texts and boxes have tests of their own.
OF_ARRAYS = [name for name in METRIC_NAMES if name not in {"cer", "wer", "box_f1", "coco_map", "coco_map50"}]


def value(name: str, output: NDArray[Any], targets: NDArray[Any]) -> float:
    return named_metric(name).value({"output": output}, targets)


def oracle(function: Callable[..., Any], output: NDArray[Any], targets: NDArray[Any], **options: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(function(torch.from_numpy(output), torch.from_numpy(targets), **options).mean())


MULTI: dict[str, Any] = {"task": "multiclass", "num_classes": CLASSES}


@pytest.mark.parametrize(
    ("name", "function", "options"),
    [
        ("accuracy", torch_metrics.accuracy, {**MULTI, "average": "micro"}),
        ("top5_accuracy", torch_metrics.accuracy, {**MULTI, "average": "micro", "top_k": 5}),
        ("f1_macro", torch_metrics.f1_score, {**MULTI, "average": "macro"}),
        ("auroc", torch_metrics.auroc, MULTI),
        ("average_precision", torch_metrics.average_precision, MULTI),
        ("precision_macro", torch_metrics.precision, {**MULTI, "average": "macro"}),
        ("recall_macro", torch_metrics.recall, {**MULTI, "average": "macro"}),
        ("jaccard_macro", torch_metrics.jaccard_index, MULTI),
        ("cohen_kappa", torch_metrics.cohen_kappa, MULTI),
        ("matthews_corrcoef", torch_metrics.matthews_corrcoef, MULTI),
    ],
)
def test_class_metrics_are_torchmetrics(name: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    assert value(name, LOGITS, LABELS) == pytest.approx(oracle(function, LOGITS, LABELS, **options), abs=1e-6)


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
@pytest.mark.parametrize("shape", [(400,), (400, 1)])
def test_ranking_of_a_single_score_with_ties_is_torchmetrics(name: str, shape: tuple[int, ...]) -> None:
    expected = oracle(getattr(torch_metrics, name), SINGLE, BINARY, task="binary")
    assert value(name, SINGLE.reshape(shape), BINARY.reshape(shape)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["f1_macro", "jaccard_macro", "mean_iou"])
def test_maps_of_classes_are_torchmetrics_over_all_pixels(name: str) -> None:
    function = torch_metrics.f1_score if name == "f1_macro" else torch_metrics.jaccard_index
    expected = oracle(function, MAPS, PIXELS, **MULTI, average="macro")
    assert value(name, MAPS, PIXELS) == pytest.approx(expected, abs=1e-6)


def test_ranks_of_ties_are_their_mean() -> None:
    rounded = np.round(VALUES, 0)
    expected = np.mean([stats.spearmanr(*pair).statistic for pair in zip(rounded.T, WANTED.T, strict=True)])
    assert value("spearman", rounded, WANTED) == pytest.approx(expected, abs=1e-9)


def test_intersection_over_union_of_every_kind_of_map() -> None:
    """By hand: class 0 shares 1 of 3 pixels, class 1 shares 2 of 4; what is 255 or negative counts for nothing."""
    target = np.array([[0, 1, 1], [0, 1, 255], [-1, 255, -1]])
    found = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 1]])
    expected = (1 / 3 + 2 / 4) / 2
    scores, probabilities = np.eye(2)[found].transpose(2, 0, 1), found * 0.8 + 0.1
    for output in (scores, probabilities, probabilities[None], found):
        for wanted in (target, target[None]):
            assert value("mean_iou", output[None], wanted[None]) == pytest.approx(expected)


def test_maps_may_differ_in_size() -> None:
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.zeros((2, 2), int), np.ones((1, 3), int)]
    assert value("mean_iou", ragged, ragged) == 1
    assert named_metric("mean_iou").prepare({"y": ragged}, ragged)(np.array([2, 0])) == 1


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        (
            np.zeros((1, 2, 3, 3)),
            np.zeros((1, 3, 4), int),
            r"sample 0 has an output of shape \(2, 3, 3\) and a target of",
        ),
        (np.zeros((1, 2, 3, 3)), np.full((1, 3, 3), 2), "in sample 0 a target is 2, but classes are 0 to 1"),
        (
            np.zeros((1, 2, 3, 3)),
            np.zeros((1, 3, 3)),
            "the target of sample 0 must be a map of class numbers, it is float",
        ),
        (np.full((1, 3, 3), -4.0), np.zeros((1, 3, 3), int), "neither scores of classes nor probabilities"),
        (np.full((1, 3, 3), -4), np.zeros((1, 3, 3), int), "in sample 0 an output is -4"),
        (np.zeros((1, 2, 3, 3)), np.full((1, 3, 3), 255), "mean_iou is undefined"),
    ],
)
def test_maps_that_do_not_fit(output: NDArray[Any], target: NDArray[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        value("mean_iou", output, target)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8))
def test_correlation_and_agreement_of_few_labels(pairs: list[tuple[int, int]]) -> None:
    """Against scikit-learn; where only one class is wanted there is nothing to correlate with."""
    wanted, found = np.array(pairs).T
    if len(set(wanted.tolist())) < 2:
        with pytest.raises(DataError, match="matthews_corrcoef is undefined"):
            value("matthews_corrcoef", np.eye(4)[found], wanted)
        return
    for name in ("matthews_corrcoef", "cohen_kappa_score"):
        expected = getattr(sklearn_metrics, name)(wanted, found)
        assert value(name.removesuffix("_score"), np.eye(4)[found], wanted) == pytest.approx(expected, abs=1e-9)


def test_two_class_scores_rank_by_their_difference() -> None:
    two = np.stack([1 - SINGLE, SINGLE], axis=1)
    assert value("auroc", two, BINARY) == pytest.approx(value("auroc", SINGLE, BINARY), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mse", torch_metrics.mean_squared_error),
        ("mae", torch_metrics.mean_absolute_error),
        ("r2", torch_metrics.r2_score),
        ("mape", torch_metrics.mean_absolute_percentage_error),
        ("pearson", torch_metrics.pearson_corrcoef),
        ("spearman", torch_metrics.spearman_corrcoef),
    ],
)
@pytest.mark.parametrize("columns", [1, 3])
def test_value_metrics_are_torchmetrics(name: str, function: Callable[..., Any], columns: int) -> None:
    output, targets = VALUES[:, :columns].squeeze(), WANTED[:, :columns].squeeze()
    assert value(name, output, targets) == pytest.approx(oracle(function, output, targets), abs=1e-6)


def test_rmse_is_the_root_of_mse() -> None:
    assert value("rmse", VALUES, WANTED) == pytest.approx(value("mse", VALUES, WANTED) ** 0.5)


def _data(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    if name == "mean_iou":
        return MAPS, PIXELS
    return (LOGITS, LABELS) if named_metric(name).by_class else (VALUES[:, :1], WANTED[:, :1])


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_counting_samples_is_repeating_them(name: str) -> None:
    """What the bootstrap rests on."""
    output, targets = _data(name)
    counts = np.random.default_rng(1).integers(0, 3, len(targets))
    rows = np.repeat(np.arange(len(targets)), counts)
    counted = named_metric(name).prepare({"output": output}, targets)(counts)
    assert counted == pytest.approx(value(name, output[rows], targets[rows]), abs=1e-9)


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_scores_per_sample_average_to_the_metric(name: str) -> None:
    output, targets = _data(name)
    per_sample = named_metric(name).per_sample({"output": output}, targets)
    means = {"accuracy", "top5_accuracy", "mse", "mae", "mape"}
    assert (per_sample is not None) == (name in means)
    if per_sample is not None:
        assert per_sample.shape == (len(targets),)
        assert per_sample.mean() == pytest.approx(value(name, output, targets))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_ordered_pairs(samples: list[tuple[int, bool]]) -> None:
    positive = [score for score, label in samples if label]
    negative = [score for score, label in samples if not label]
    output = np.array([score for score, _ in samples], dtype=np.float32)
    labels = np.array([label for _, label in samples])
    if not positive or not negative:
        with pytest.raises(DataError, match=f"auroc is undefined on this data .{len(samples)} samples"):
            value("auroc", output, labels)
        return
    ordered = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
    assert value("auroc", output, labels) == pytest.approx(ordered / len(positive) / len(negative))


def test_ties_go_to_the_lower_class() -> None:
    scores, labels = np.zeros((8, 8)), np.arange(8)
    assert value("accuracy", scores, labels) == 1 / 8
    assert value("top5_accuracy", scores, labels) == 5 / 8


def test_a_map_of_classes_scores_the_share_of_right_pixels() -> None:
    scores = np.zeros((2, 3, 2, 2))
    scores[:, 1] = 1
    targets = np.array([[[1, 1], [1, 0]], [[1, 1], [1, 1]]])
    metric = named_metric("accuracy")
    samples = metric.per_sample({"map": scores}, targets)
    assert samples is not None
    assert samples.tolist() == [0.75, 1.0]
    assert value("f1_macro", scores, targets) == pytest.approx((0 + 2 * 7 / 15) / 2)
    assert value("jaccard_macro", scores, targets) == pytest.approx((0 + 7 / 8) / 2)


@pytest.mark.parametrize(
    ("name", "output", "targets", "message"),
    [
        ("accuracy", LOGITS, np.where(np.arange(400) == 7, 6, 0), "the target of sample 7 is 6, but the model has 6"),
        ("accuracy", LOGITS, np.full(400, -1), "sample 0 is -1.*400 targets are out of range"),
        ("accuracy", LOGITS, np.full(400, 0.5), "must be class numbers, they are float64"),
        ("accuracy", LOGITS, LABELS[:10], "400 outputs but targets of shape .10,"),
        ("accuracy", LOGITS, WANTED, "targets have shape .400, 3., the outputs need .400,"),
        ("accuracy", SINGLE, BINARY, "needs one score per class.*has shape .400,"),
        ("accuracy", LOGITS[:0], LABELS[:0], "there are no samples"),
        ("auroc", SINGLE, BINARY + 1, "the target of sample .* is 2, but the model has 2 classes"),
        ("mse", VALUES, WANTED[:, :2], r"output has shape \(400, 3\), the targets \(400, 2\)"),
        ("mse", SINGLE, np.array(["a"] * 400), "targets must be numbers"),
        ("r2", SINGLE, np.ones(400), "r2 is undefined on this data"),
    ],
)
def test_data_that_do_not_fit(name: str, output: NDArray[Any], targets: NDArray[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        value(name, output, targets)


def test_several_outputs_need_a_name() -> None:
    outputs: dict[str, NDArray[Any]] = {"a": LOGITS, "b": SINGLE}
    with pytest.raises(DataError, match=r"the model has 2 outputs \(a, b\)"):
        named_metric("accuracy").value(outputs, LABELS)
    with pytest.raises(DataError, match="no output 'c', it has a, b"):
        named_metric("accuracy", output="c").value(outputs, LABELS)
    assert named_metric("accuracy", output="a").value(outputs, LABELS) == value("accuracy", LOGITS, LABELS)


def test_every_name_that_configuration_takes_is_built_in() -> None:
    assert set(_BUILTIN) == set(METRIC_NAMES)


def test_an_unknown_name_is_met_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no metric 'acuracy'; did you mean 'accuracy'\?"):
        named_metric("acuracy")
    with pytest.raises(UsageError, match=r"no metric 'zzz'$"):
        named_metric("zzz")


def test_direction_decides_the_sign_of_a_drop() -> None:
    assert named_metric("accuracy").drop(0.9, 0.8) == pytest.approx(0.1)
    assert named_metric("mse").drop(0.9, 0.8) == pytest.approx(-0.1)


@pytest.mark.parametrize("name", ["accuracy", "top5_accuracy", "f1_macro", "auroc"])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS[:, None, None]])
def test_a_fully_convolutional_classifier_is_one(name: str, labels: NDArray[Any]) -> None:
    """SqueezeNet ends in (samples, classes, 1, 1)."""
    metric = named_metric(name)
    assert metric.value({"y": LOGITS[:, :, None, None]}, labels) == metric.value({"y": LOGITS}, LABELS)
