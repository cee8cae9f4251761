"""The formulas behind the built-in metrics.

Those that a bootstrap runs a thousand times are numpy over integer counts (how often a sample counts), and are checked
against torchmetrics by tests; the others call torchmetrics itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgebuild.errors import EnvironmentGap
from edgebuild.judging.arrays import Floats, Ints, class_labels, class_scores, is_probability, log_softmax, value_pairs

Weighted: TypeAlias = Callable[[Ints], float]
Prepare: TypeAlias = Callable[[str, NDArray[Any], NDArray[Any]], Weighted]


def hits(class_scores: NDArray[Any], labels: Ints, k: int) -> Floats:
    """Return per sample the share of its labels that are among the ``k`` highest scores.

    ``class_scores`` is (samples, classes, …), ``labels`` (samples, …). Ties go to the lower class, as argmax does.
    """
    if k == 1:
        hit = class_scores.argmax(axis=1) == labels
    else:
        wanted = np.expand_dims(labels, 1)
        own = np.take_along_axis(class_scores, wanted, axis=1)
        classes = np.arange(class_scores.shape[1]).reshape((1, -1) + (1,) * (class_scores.ndim - 2))
        ahead = (class_scores > own) | ((class_scores == own) & (classes < wanted))
        hit = ahead.sum(axis=1) < k
    return np.asarray(hit.reshape(len(hit), -1).mean(axis=1, dtype=np.float64))


def f1_macro(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
    """Prepare the mean of the F1 of every class that is present or predicted."""
    scores, labels = class_scores(output, targets, name)
    classes = scores.shape[1]
    predicted = scores.argmax(axis=1)

    def score(counts: Ints) -> float:
        weights = _spread(counts, labels.shape)
        hit = np.bincount(labels.ravel(), weights * (labels == predicted).ravel(), classes)
        total = np.bincount(labels.ravel(), weights, classes) + np.bincount(predicted.ravel(), weights, classes)
        seen = total > 0
        return float((2 * hit[seen] / total[seen]).mean())

    return score


def _spread(counts: Ints, shape: tuple[int, ...]) -> Floats:
    column = counts.astype(np.float64).reshape((-1,) + (1,) * (len(shape) - 1))
    return np.broadcast_to(column, shape).ravel()


def auroc(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
    """Prepare the area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half.

    More than two classes: the mean over the classes, each against the rest.
    """
    return _mean_over_classes(_binary_problems(name, output, targets), _Ranking.area_under_roc)


def average_precision(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
    """Prepare Σ (Rₙ - Rₙ₋₁) Pₙ over the thresholds; more than two classes: the mean over the classes."""
    return _mean_over_classes(_binary_problems(name, output, targets), _Ranking.average_precision)


@dataclass(frozen=True, kw_only=True)
class _Ranking:
    """Positives and negatives, each sorted by score once; what is left per draw are cumulative sums.

    ``below``/``up_to``: how many negatives score less than, and at most as much as, each positive; ``ahead``: how many
    positives score less than it.
    """

    positives: NDArray[np.intp]
    negatives: NDArray[np.intp]
    below: NDArray[np.intp]
    up_to: NDArray[np.intp]
    ahead: NDArray[np.intp]

    def area_under_roc(self, weights: Floats) -> float:
        hits, misses = weights[self.positives], _running(weights[self.negatives])
        pairs = float(hits.sum() * misses[-1])
        return float(hits @ (misses[self.below] + misses[self.up_to])) / 2 / pairs if pairs else float("nan")

    def average_precision(self, weights: Floats) -> float:
        hits, misses = weights[self.positives], _running(weights[self.negatives])
        found = _running(hits)
        if not found[-1]:
            return float("nan")
        right = found[-1] - found[self.ahead]
        called = right + misses[-1] - misses[self.below]
        # Where nothing is called, the positive itself counts 0 times.
        precision = np.divide(right, called, out=np.zeros_like(called), where=called > 0)
        return float(hits @ precision / found[-1])


def _running(weights: Floats) -> Floats:
    """Cumulative sums, with the empty sum first."""
    sums = np.zeros(len(weights) + 1)
    np.cumsum(weights, out=sums[1:])
    return sums


def _rank(scores: NDArray[Any], positive: NDArray[np.bool_]) -> _Ranking:
    order = np.argsort(scores, kind="stable")
    positives, negatives = order[positive[order]], order[~positive[order]]
    high, low = scores[positives], scores[negatives]
    return _Ranking(
        positives=positives,
        negatives=negatives,
        below=np.searchsorted(low, high, side="left"),
        up_to=np.searchsorted(low, high, side="right"),
        ahead=np.searchsorted(high, high, side="left"),
    )


def _mean_over_classes(
    problems: list[tuple[NDArray[Any], NDArray[np.bool_]]], area: Callable[[_Ranking, Floats], float]
) -> Weighted:
    rankings = [_rank(scores, positive) for scores, positive in problems]
    rows = len(problems[0][0])

    def score(counts: Ints) -> float:
        weights = np.repeat(counts, rows // len(counts)).astype(np.float64)
        areas = [area(ranking, weights) for ranking in rankings]
        defined = [value for value in areas if value == value]
        return float(np.mean(defined)) if defined else float("nan")

    return score


def _binary_problems(
    name: str, output: NDArray[Any], targets: NDArray[Any]
) -> list[tuple[NDArray[Any], NDArray[np.bool_]]]:
    if output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1):
        single = output.reshape(-1)
        return [(single, class_labels(targets, 2, single.shape, name) == 1)]
    scores, labels = class_scores(output, targets, name)
    scores = np.moveaxis(scores, 1, -1).reshape(-1, scores.shape[1])
    if scores.shape[1] == 2:
        with np.errstate(invalid="ignore"):
            margin = scores[:, 1].astype(np.float64) - scores[:, 0]
        return [(np.where(np.isnan(margin), 0.0, margin), labels.ravel() == 1)]  # both masked: neither is ahead
    ranked = scores if is_probability(scores) else log_softmax(scores)
    return [(ranked[:, label], labels.ravel() == label) for label in range(scores.shape[1])]


def r2(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
    """Prepare the coefficient of determination, averaged over the values of an output."""
    values, wanted = value_pairs(output, targets, name)
    squared = (values - wanted) ** 2

    def score(counts: Ints) -> float:
        mean = counts @ wanted / counts.sum()
        total = counts @ (wanted - mean) ** 2
        if not total.all():
            return float("nan")
        return float((1 - (counts @ squared) / total).mean())

    return score


def torch_labels(function: str, options: Mapping[str, str]) -> Prepare:
    """Return a metric of predicted and true labels by the torchmetrics function of that name."""

    def prepare(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
        scores, labels = class_scores(output, targets, name)
        return _by_torchmetrics(
            function, scores.argmax(axis=1), labels, {"task": "multiclass", "num_classes": scores.shape[1], **options}
        )

    return prepare


def torch_values(function: str) -> Prepare:
    """Return a metric of predicted and true values by the torchmetrics function of that name."""

    def prepare(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
        values, wanted = value_pairs(output, targets, name)
        one = values.shape[1] == 1
        return _by_torchmetrics(function, values[:, 0] if one else values, wanted[:, 0] if one else wanted, {})

    return prepare


def _by_torchmetrics(
    function: str, predicted: NDArray[Any], wanted: NDArray[Any], options: Mapping[str, Any]
) -> Weighted:
    try:
        import torch
        import torchmetrics.functional
    except ImportError as error:
        raise EnvironmentGap(
            f"the metric {function} needs torch and torchmetrics", hint="pip install 'edgebuild[torch]'"
        ) from error
    compute = getattr(torchmetrics.functional, function)

    def score(counts: Ints) -> float:
        rows = np.repeat(np.arange(len(counts)), counts)
        with warnings.catch_warnings():
            # A resample may lack a class or vary too little: that is a NaN here, not a warning to the user.
            warnings.simplefilter("ignore")
            result = compute(torch.from_numpy(predicted[rows]), torch.from_numpy(wanted[rows]), **options)
        return float(result.mean())

    return score
