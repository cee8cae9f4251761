"""The formulas behind the built-in metrics.

A bootstrap runs them a thousand times: they are numpy over integer counts (how often a sample counts), and are checked
against torchmetrics by tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgebuild.core.chunks import chunks
from edgebuild.errors import DataError
from edgebuild.judging.arrays import Floats, Ints, class_labels, class_scores, is_probability, log_softmax, value_pairs

Weighted: TypeAlias = Callable[[Ints], float]
Prepare: TypeAlias = Callable[[str, NDArray[Any], NDArray[Any]], Weighted]


def each_pair(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each sample's output with its target; raises ``DataError`` where one is missing, or there is none."""
    if not len(output) or len(output) != len(targets):
        raise DataError(f"metric {name}: {len(output)} outputs for {len(targets)} targets")
    for part in chunks(output, targets):
        yield from zip(output[part], targets[part], strict=True)


def ratio_of_sums(parts: Floats, wholes: Floats) -> Weighted:
    """Return the sum of the one over that of the other; NaN where that is 0."""

    def score(counts: Ints) -> float:
        whole = float(wholes @ counts)
        return float(parts @ counts) / whole if whole else float("nan")

    return score


def hits(class_scores: NDArray[Any], labels: Ints, k: int) -> Floats:
    """Return per sample the share of its labels that are among the ``k`` highest scores.

    ``class_scores`` is (samples, classes, …), ``labels`` (samples, …). Ties go to the lower class, as argmax does.
    """
    hit = np.concatenate([_hit(class_scores[part], labels[part], k) for part in chunks(class_scores)])
    return np.asarray(hit.reshape(len(hit), -1).mean(axis=1, dtype=np.float64))


def _hit(class_scores: NDArray[Any], labels: Ints, k: int) -> NDArray[np.bool_]:
    if k == 1:
        return np.asarray(class_scores.argmax(axis=1) == labels)
    wanted = np.expand_dims(labels, 1)
    own = np.take_along_axis(class_scores, wanted, axis=1)
    classes = np.arange(class_scores.shape[1]).reshape((1, -1) + (1,) * (class_scores.ndim - 2))
    ahead = (class_scores > own) | ((class_scores == own) & (classes < wanted))
    return np.asarray(ahead.sum(axis=1) < k)


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


def pearson(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
    """Prepare the correlation of outputs and targets, averaged over the values of an output."""
    values, wanted = value_pairs(output, targets, name)
    return lambda counts: _correlation(values, wanted, counts)


def spearman(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
    """Prepare the correlation of ranks, ties at their mean, averaged over the values of an output."""
    columns = [[_ties(column) for column in values.T] for values in value_pairs(output, targets, name)]

    def score(counts: Ints) -> float:
        ranks = [np.stack([_ranks(ties, counts) for ties in each], axis=1) for each in columns]
        return _correlation(ranks[0], ranks[1], counts)

    return score


def _ties(values: Floats) -> Ints:
    """Return for each value how many different ones are below it."""
    return np.asarray(np.unique(values, return_inverse=True)[1], dtype=np.int64).reshape(-1)


def _ranks(ties: Ints, counts: Ints) -> Floats:
    many = np.bincount(ties, counts)
    return np.asarray((np.cumsum(many) - (many - 1) / 2)[ties])


def _correlation(one: Floats, other: Floats, counts: Ints) -> float:
    total = counts.sum()
    left, right = one - counts @ one / total, other - counts @ other / total
    scale = np.sqrt((counts @ left**2) * (counts @ right**2))
    if not scale.all():
        return float("nan")
    return float((counts @ (left * right) / scale).mean())
