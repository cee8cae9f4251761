"""Metrics: by name, built in or an installed package's, or a user callable.

A metric is prepared once for a set of outputs and then asked for its value with every sample counted so many times:
that is all a bootstrap needs, so ranking metrics sort once and not once per draw.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from edgebuild.core.chunks import chunks, let_go
from edgebuild.core.metric_names import GROUP, metric_names, package_of
from edgebuild.core.registry import Registry
from edgebuild.errors import DataError, EnvironmentGap, UsageError
from edgebuild.judging import boxes, class_counts, detection, scores, sequences
from edgebuild.judging.arrays import Floats, Ints, Outputs, as_values, check_values, class_scores, pick_output
from edgebuild.judging.resampling import MAX_DRAWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

Direction: TypeAlias = Literal["maximise", "minimise"]
Scale: TypeAlias = tuple[float, float]
Scorer: TypeAlias = Callable[[Ints | None], float]

UNIT: Scale = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how good outputs are against targets.

    ``prepare(outputs, targets)`` returns the value as a function of how often each sample counts (``None``: once
    each); it is NaN where the metric is undefined, such as AUROC without negatives. ``scores`` returns one number per
    sample whose mean is the metric, where such a number exists. ``by_class`` says that targets are class labels.
    A bootstrap makes at most ``most_draws``: few where each calls code that prepares nothing.
    ``package`` is filled in: which package brings it, and in which version. ``reads`` is what makes predictions of
    outputs first, and the metric of those, where there is such a step: it need not be taken again for each slice.
    """

    name: str
    direction: Direction
    scale: Scale | None
    prepare: Callable[[Outputs, NDArray[Any]], Scorer]
    scores: Callable[[Outputs, NDArray[Any]], Floats] | None = None
    by_class: bool = False
    most_draws: int = MAX_DRAWS
    package: str = ""
    reads: tuple[Callable[[Outputs], Outputs], Metric] | None = None

    def value(self, outputs: Outputs, targets: NDArray[Any]) -> float:
        """Return the metric over all samples. Raises ``DataError`` where it's undefined or the arrays don't fit."""
        return self.defined(self.prepared(outputs, targets)(None), len(targets))

    def prepared(self, outputs: Outputs, targets: NDArray[Any]) -> Scorer:
        """Return what ``prepare`` does; what it read of mapped outputs doesn't stay in this process."""
        try:
            return self.prepare(outputs, targets)
        finally:
            let_go(*outputs.values())

    def defined(self, value: float, samples: int) -> float:
        """Return the value over so many samples. Raises ``DataError`` where it is no number."""
        if not math.isfinite(value):
            raise DataError(
                f"metric {self.name} is undefined on this data ({samples} samples)",
                hint="ranking metrics need both classes, correlations and R² need values that vary",
            )
        return value

    def per_sample(self, outputs: Outputs, targets: NDArray[Any]) -> Floats | None:
        """Return scores of shape (samples,) whose mean is the metric, or ``None`` where it isn't a mean."""
        try:
            return None if self.scores is None else self.scores(outputs, targets)
        finally:
            let_go(*outputs.values())

    def span(self, *values: float) -> float:
        """Return how far a sample that does anything may move the metric, as far as that can be known.

        With a scale its span. Without one there is no bound: the metric's own size, the largest of ``values``, so that
        such a sample errs by twice as much as the mean, or has nothing of what the others have.
        """
        return max(map(abs, values)) if self.scale is None else self.scale[1] - self.scale[0]

    def drop(self, reference: float, artifact: float) -> float:
        """Return how much worse the artifact is, in the metric's units (negative: better)."""
        return reference - artifact if self.direction == "maximise" else artifact - reference


def named_metric(name: str, *, output: str | None = None) -> Metric:
    """Return the metric ``name``, reading the model output ``output``. Default: the only one.

    Raises ``UsageError`` for an unknown name, with the nearest known one, ``EnvironmentGap`` for a missing package.
    """
    if name in _BUILTIN:
        return _BUILTIN[name](name, output)
    make = Registry(group=GROUP, kind="metric", table=_BUILTIN, accept=_maker).load().get(name)
    if make is None:
        close = difflib.get_close_matches(name, metric_names(), n=1)
        raise UsageError(
            f"there is no metric {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
            hint=f"known are {', '.join(metric_names())}; anything else is a callable `module:function`",
        )
    metric: object = make(name, output)
    if not isinstance(metric, Metric):
        raise EnvironmentGap(f"What the package of the metric {name!r} makes is no Metric.", hint="Tell its authors.")
    return replace(metric, package=package_of(name))


def is_builtin(name: str) -> bool:
    """Whether a metric is edgebuild's own, so that the version of edgebuild's code says what it computes."""
    return name in _BUILTIN


def _maker(loaded: Any) -> Maker | None:
    """A function ``(name, output) -> Metric``."""
    made: Maker | None = loaded if callable(loaded) else None
    return made


Maker: TypeAlias = Callable[[str, str | None], Metric]


def mean_of(samples: Floats) -> Scorer:
    """Return the mean of numbers per sample, each counted so many times."""

    def score(counts: Ints | None) -> float:
        return float(samples.mean() if counts is None else samples @ counts / counts.sum())

    return score


def _mean_metric(
    per_sample: Callable[[str, NDArray[Any], NDArray[Any]], Floats],
    direction: Direction,
    scale: Scale | None,
    *,
    by_class: bool = False,
) -> Maker:
    def build(name: str, output: str | None) -> Metric:
        def score(outputs: Outputs, targets: NDArray[Any]) -> Floats:
            return per_sample(name, pick_output(outputs, output, name), np.asarray(targets))

        return Metric(
            name=name,
            direction=direction,
            scale=scale,
            prepare=lambda outputs, targets: mean_of(score(outputs, targets)),
            scores=score,
            by_class=by_class,
        )

    return build


def _whole_metric(
    prepare: Callable[[str, NDArray[Any], NDArray[Any]], Callable[[Ints], float]],
    direction: Direction,
    scale: Scale | None,
    *,
    by_class: bool = False,
) -> Maker:
    def build(name: str, output: str | None) -> Metric:
        def prepared(outputs: Outputs, targets: NDArray[Any]) -> Scorer:
            weighted = prepare(name, pick_output(outputs, output, name), np.asarray(targets))
            once = np.ones(len(targets), dtype=np.int64)
            return lambda counts: weighted(once if counts is None else counts)

        return Metric(name=name, direction=direction, scale=scale, prepare=prepared, by_class=by_class)

    return build


def _top_k(k: int) -> Callable[[str, NDArray[Any], NDArray[Any]], Floats]:
    return lambda name, output, targets: scores.hits(*class_scores(output, targets, name), k)


def _errors(power: int) -> Callable[[str, NDArray[Any], NDArray[Any]], Floats]:
    return partial(_mean_gaps, lambda gap, _: gap**power)


def _mean_gaps(
    of_gap: Callable[[Floats, Floats], Floats], name: str, output: NDArray[Any], targets: NDArray[Any]
) -> Floats:
    """Return each sample's mean of something of the gaps to its target, some samples at a time."""
    check_values(output, targets, name)
    found = []
    for part in chunks(output, targets):
        wanted = as_values(targets[part])
        found.append(of_gap(np.abs(as_values(output[part]) - wanted), wanted).mean(axis=1))
    return np.concatenate(found)


def _rmse(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Callable[[Ints], float]:
    squared = mean_of(_errors(2)(name, output, targets))
    return lambda counts: math.sqrt(squared(counts))


#: 1.17e-6 is what torchmetrics takes for the smallest target, so that a target of 0 divides nothing by 0.
_SMALLEST_TARGET = 1.17e-6


def _percentages(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Floats:
    return _mean_gaps(lambda gap, wanted: gap / np.maximum(np.abs(wanted), _SMALLEST_TARGET), name, output, targets)


_CLASS_FORMULAS: dict[str, tuple[class_counts.Formula, Scale | None]] = {
    "f1_macro": (class_counts.f1_macro, UNIT),
    "precision_macro": (class_counts.precision_macro, UNIT),
    "recall_macro": (class_counts.recall_macro, UNIT),
    "jaccard_macro": (class_counts.iou_macro, UNIT),
    "matthews_corrcoef": (class_counts.matthews_corrcoef, None),
    "cohen_kappa": (class_counts.cohen_kappa, None),
}


def _coco_map(ious: Floats) -> Maker:
    make = _whole_metric(detection.coco_map(ious), "maximise", UNIT)

    def build(name: str, output: str | None) -> Metric:
        detection.require_evaluator(name)
        return make(name, output)

    return build


_BUILTIN: dict[str, Maker] = {
    "accuracy": _mean_metric(_top_k(1), "maximise", UNIT, by_class=True),
    "top5_accuracy": _mean_metric(_top_k(5), "maximise", UNIT, by_class=True),
    "auroc": _whole_metric(scores.auroc, "maximise", UNIT, by_class=True),
    "average_precision": _whole_metric(scores.average_precision, "maximise", UNIT, by_class=True),
    "mse": _mean_metric(_errors(2), "minimise", None),
    "mae": _mean_metric(_errors(1), "minimise", None),
    "rmse": _whole_metric(_rmse, "minimise", None),
    "r2": _whole_metric(scores.r2, "maximise", None),
    "mape": _mean_metric(_percentages, "minimise", None),
    "pearson": _whole_metric(scores.pearson, "maximise", None),
    "spearman": _whole_metric(scores.spearman, "maximise", None),
    "mean_iou": _whole_metric(class_counts.mean_iou, "maximise", UNIT),
    "cer": _whole_metric(sequences.cer, "minimise", UNIT),
    "wer": _whole_metric(sequences.wer, "minimise", UNIT),
    "box_f1": _whole_metric(boxes.box_f1, "maximise", UNIT),
    "coco_map": _coco_map(detection.COCO_IOUS),
    "coco_map50": _coco_map(detection.COCO_IOUS[:1]),
    **{
        name: _whole_metric(class_counts.of_classes(formula), "maximise", scale, by_class=True)
        for name, (formula, scale) in _CLASS_FORMULAS.items()
    },
}
