"""Metrics that follow from how often each class was right, wanted and predicted, counted per sample and added up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgebuild.errors import DataError
from edgebuild.judging.arrays import Floats, Ints, by_parts, class_scores
from edgebuild.judging.scores import each_pair

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from edgebuild.judging.scores import Prepare, Weighted

#: A target of this value, or a negative one, marks a pixel that nobody labelled.
VOID = 255

#: From how often each class was hit, wanted and predicted.
Formula: TypeAlias = Callable[[Floats, Floats, Floats], float]


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """Sparse matrices of (classes, samples)."""

    hit: Any
    wanted: Any
    predicted: Any

    def weighted(self, formula: Formula) -> Weighted:
        return lambda counts: formula(self.hit @ counts, self.wanted @ counts, self.predicted @ counts)


def of_classes(formula: Formula) -> Prepare:
    """Return a metric of the highest scores of (samples, classes, …) and as many labels."""

    def prepare(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
        scores, labels = class_scores(output, targets, name)
        predicted = by_parts(scores, lambda part: part.argmax(axis=1))
        if labels.ndim == 1:
            return _counted_once(predicted, labels, scores.shape[1]).weighted(formula)
        flat = (each.reshape(len(labels), -1) for each in (predicted, labels))
        return _counted(zip(*flat, strict=True)).weighted(formula)

    return prepare


def mean_iou(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
    """Prepare the mean over classes of intersection over union, all pixels of all samples together.

    Of a sample: scores (classes, …), a map of class numbers, or of probabilities of class 1; its target is a map of
    class numbers, where 255 and negative ones count for nothing. Maps of different samples may differ in size.
    """
    maps = (_labels(name, sample, *pair) for sample, pair in enumerate(each_pair(name, output, targets)))
    return _counted(maps).weighted(iou_macro)


def _labels(name: str, sample: int, output: Any, target: Any) -> tuple[Ints, Ints]:
    """Return predicted and wanted classes of a sample's labelled pixels."""
    found, wanted = np.asarray(output), np.asarray(target)
    if wanted.dtype.kind not in "iub":
        raise DataError(
            f"metric {name}: the target of sample {sample} must be a map of class numbers, it is {wanted.dtype} of "
            f"shape {wanted.shape}"
        )
    if wanted.ndim > 1 and wanted.shape[0] == 1 and found.shape[1:] != wanted.shape:
        wanted = wanted[0]
    classes = VOID
    if found.ndim == wanted.ndim + 1 and found.shape[0] > 1:
        classes, found = found.shape[0], found.argmax(axis=0)
    elif found.ndim == wanted.ndim + 1:
        found = found[0]
    if found.shape != wanted.shape:
        raise DataError(
            f"metric {name}: sample {sample} has an output of shape {np.shape(output)} and a target of shape "
            f"{np.shape(target)}; it compares (classes, …) or (…) with (…)"
        )
    if found.dtype.kind == "f":
        if found.size and not (found.min() >= 0 and found.max() <= 1):
            raise DataError(
                f"metric {name}: the output of sample {sample} is neither scores of classes nor probabilities",
                hint='name under [metric] what makes class numbers of it: `decode = "module:function"`',
            )
        found = found > 0.5
    wanted = wanted.astype(np.int64)
    labelled = (wanted >= 0) & (wanted != VOID)
    found, wanted = found.astype(np.int64)[labelled], wanted[labelled]
    if wanted.size and (wanted.max() >= classes or found.min() < 0):
        bad = f"a target is {wanted.max()}" if wanted.max() >= classes else f"an output is {found.min()}"
        raise DataError(f"metric {name}: in sample {sample} {bad}, but classes are 0 to {classes - 1}")
    return found, wanted


def _counted(samples: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> _Counts:
    """Count (predicted, wanted) classes of each sample."""
    hit, of_wanted, of_predicted = [], [], []
    for predicted, wanted in samples:
        hit.append(np.bincount(wanted[wanted == predicted]))
        of_wanted.append(np.bincount(wanted))
        of_predicted.append(np.bincount(predicted))
    classes = max(len(each) for each in (*of_wanted, *of_predicted))
    return _Counts(
        hit=_sparse(hit, classes), wanted=_sparse(of_wanted, classes), predicted=_sparse(of_predicted, classes)
    )


def _counted_once(predicted: Ints, wanted: Ints, classes: int) -> _Counts:
    """Count where every sample is of one class."""
    from scipy import sparse

    samples = len(wanted)

    def ones(labels: Ints, values: Floats) -> Any:
        return sparse.csc_array((values, labels, np.arange(samples + 1)), shape=(classes, samples)).tocsr()

    each = np.ones(samples)
    return _Counts(
        hit=ones(wanted, (wanted == predicted).astype(np.float64)),
        wanted=ones(wanted, each),
        predicted=ones(predicted, each),
    )


def _sparse(columns: Sequence[Ints], classes: int) -> Any:
    from scipy import sparse

    present = [np.flatnonzero(column) for column in columns]
    ends = np.cumsum([0, *map(len, present)])
    values = np.concatenate([column[kept] for column, kept in zip(columns, present, strict=True)]).astype(np.float64)
    # By samples, a column each; by rows a product with counts streams over it once.
    return sparse.csc_array((values, np.concatenate(present), ends), shape=(classes, len(columns))).tocsr()


def f1_macro(hit: Floats, wanted: Floats, predicted: Floats) -> float:
    """Return the mean F1 of every class that is wanted or predicted."""
    return _mean_of(2 * hit, wanted + predicted, wanted + predicted)


def precision_macro(hit: Floats, wanted: Floats, predicted: Floats) -> float:
    """Return the mean share of right ones among those predicted; 0 for a class that never is."""
    return _mean_of(hit, predicted, wanted + predicted)


def recall_macro(hit: Floats, wanted: Floats, predicted: Floats) -> float:
    """Return the mean share of right ones among those wanted; 0 for a class that only is predicted."""
    return _mean_of(hit, wanted, wanted + predicted)


def iou_macro(hit: Floats, wanted: Floats, predicted: Floats) -> float:
    """Return the mean of intersection over union of every class that is wanted or predicted."""
    return _mean_of(hit, wanted + predicted - hit, wanted + predicted)


def _mean_of(part: Floats, whole: Floats, seen: Floats) -> float:
    if not seen.any():
        return math.nan
    shares = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return float(shares[seen > 0].mean())


def matthews_corrcoef(hit: Floats, wanted: Floats, predicted: Floats) -> float:
    """Return the correlation of labels and predictions; 0 where all predictions are one class.

    Source: Gorodkin, Computational Biology and Chemistry 28 (2004) 367-374.
    """
    total = wanted.sum()
    spread, guessed = total**2 - wanted @ wanted, total**2 - predicted @ predicted
    if not spread:
        return math.nan
    return float((hit.sum() * total - wanted @ predicted) / math.sqrt(spread * guessed)) if guessed else 0.0


def cohen_kappa(hit: Floats, wanted: Floats, predicted: Floats) -> float:
    """Return the agreement beyond what the frequencies of classes give by chance."""
    total = wanted.sum()
    chance = float(wanted @ predicted) / total**2
    return float((hit.sum() / total - chance) / (1 - chance)) if chance < 1 else math.nan
