"""Whether samples can be enough for any verdict, checked before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.judging.drops import MIN_UNITS
from edgebuild.judging.intervals import least_pairs

if TYPE_CHECKING:
    from edgebuild.core.budget import Budget

#: Metrics that are shares of samples where every sample has one label: their interval has a width without any change.
PROPORTIONS = frozenset({"accuracy", "top5_accuracy"})


def too_few(
    *, frames: int, units: int, grouped: bool, budget: Budget, metric: str | None, one_label: bool, level: float
) -> str | None:
    """Return why no artifact can be certified on this many samples, or None where one may be.

    ``units`` is what is resampled, ``metric`` a built-in one's name. With no sample decided in another way, the upper
    bound of a proportion's drop at ``frames`` samples is the narrowest that it gets unless the artifact is better than
    the original; the largest budget is that of an original that is always right.
    """
    unit = "groups" if grouped else "samples"
    if units < MIN_UNITS:
        return f"{units} {unit}: at least {MIN_UNITS} are needed to certify anything, so every verdict is inconclusive"
    allowed = _largest(budget, proportion=metric in PROPORTIONS and one_label)
    if allowed is None or allowed >= 1:
        return None
    needed = least_pairs(budget=allowed, level=level) if allowed > 0 else None
    if needed is None or frames >= needed:
        return None
    return (
        f"{frames} samples: within {budget.text} ({level * 100:.4g} % interval) at least {needed:,} are needed, even "
        "for an artifact that decides every sample as the original does"
    )


def _largest(budget: Budget, *, proportion: bool) -> float | None:
    """Return the largest drop that a budget can allow; None where no share of samples is judged."""
    if budget.agreement is not None:
        return 1 - budget.agreement
    if not proportion:
        return None
    if budget.floor is not None:
        return 1 - budget.floor
    return budget.relative if budget.relative is not None else (budget.points or 0.0) / 100
