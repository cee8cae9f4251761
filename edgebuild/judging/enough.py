"""Whether samples can be enough for any verdict, checked before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.judging.drops import MIN_UNITS
from edgebuild.judging.intervals import least_pairs
from edgebuild.judging.unseen import least_samples

if TYPE_CHECKING:
    from edgebuild.core.budget import Budget
    from edgebuild.judging.metrics import Metric

#: Metrics that are shares of samples where every sample has one label: their interval is that of paired proportions.
PROPORTIONS = frozenset({"accuracy", "top5_accuracy"})


def too_few(
    *, frames: int, units: int, grouped: bool, budget: Budget, metric: Metric | None, one_label: bool, level: float
) -> str | None:
    """Return why an artifact that changes nothing can't be certified on this many samples, or None where it may be.

    ``units`` is what is resampled. With no sample decided in another way, the upper bound of the drop at ``frames``
    samples is the narrowest that it gets where hardly any change, unless the artifact is better than the original; the
    largest budget is that of the best possible original.
    """
    unit = "groups" if grouped else "samples"
    if units < MIN_UNITS:
        return f"{units} {unit}: at least {MIN_UNITS} are needed to certify anything, so every verdict is inconclusive"
    share = _share(budget, metric)
    if share is None or not 0 < share < 1:
        return None
    agreement = budget.agreement is not None
    proportion = agreement or (metric is not None and metric.name in PROPORTIONS and one_label)
    needed = least(share, proportion=proportion, level=level)
    if frames >= needed:
        return None
    return (
        f"{frames} samples: within {budget.text} ({level * 100:.4g} % interval) at least {needed:,} are needed"
        + (", even" if proportion else "")
        + " for an artifact that decides every sample as the original does"
    )


def least(share: float, *, proportion: bool, level: float) -> int:
    """Return how many samples it takes to certify an artifact that changes none within ``share`` of the span.

    ``proportion``: of accuracy and agreement, whose interval is that of paired proportions.
    """
    return least_pairs(budget=share, level=level) if proportion else least_samples(share=share, level=level)


def _share(budget: Budget, metric: Metric | None) -> float | None:
    """Return the largest drop that a budget can allow, as a share of what a sample may move; None where unknown."""
    if budget.agreement is not None:
        return 1 - budget.agreement
    if metric is None:
        return None
    if budget.points is not None:
        return budget.points / 100
    if metric.scale is None:
        return budget.relative
    best, span = metric.scale[metric.direction == "maximise"], metric.span()
    if budget.floor is not None:
        return metric.drop(best, budget.floor) / span
    return (budget.relative or 0.0) * max(map(abs, metric.scale)) / span
