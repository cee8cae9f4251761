"""Reads a budget that was written as text, and turns one into the metric's own units."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgebuild.core.budget import Budget
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from edgebuild.judging.metrics import Metric

_NUMBER = r"(?P<number>\d+(?:\.\d+)?|\.\d+)"
_FORMS = {
    "points": re.compile(rf"{_NUMBER}\s*(?:points?|pts?)"),
    "relative": re.compile(rf"{_NUMBER}\s*%"),
    "floor": re.compile(r"floor\s+(?P<number>[-+]?(?:\d+(?:\.\d+)?|\.\d+))"),
    "agreement": re.compile(rf"agreement\s+{_NUMBER}\s*(?P<percent>%?)"),
}
_HINT = 'write "2 points" (0.02 on [0, 1]), "1%" (of the original\'s metric), "floor 0.9" or "agreement 98%"'


def parse_budget(text: str, *, per_slice_points: float | None = None) -> Budget:
    """Return the budget that ``--budget`` says. Raises ``UsageError`` with the forms that are understood."""
    for kind, form in _FORMS.items():
        found = form.fullmatch(text.strip().lower())
        if found is None:
            continue
        number = float(found["number"])
        if kind == "relative" or found.groupdict().get("percent"):
            number /= 100
        try:
            return Budget.model_validate({kind: number, "per_slice_points": per_slice_points})
        except ValueError as error:
            raise UsageError(f"a budget of {text!r} is out of range", hint=_HINT) from error
    raise UsageError(f"can't read the budget {text!r}", hint=_HINT)


def drop_budget(budget: Budget, reference: float, metric: Metric) -> float:
    """Return the largest drop that ``budget`` allows, in the metric's units.

    ``reference`` is the original's metric on the same samples. A floor that the original itself misses gives a negative
    budget. Raises ``UsageError`` for points of a metric that has no scale.
    """
    if budget.agreement is not None:
        return 1 - budget.agreement
    if budget.floor is not None:
        return metric.drop(reference, budget.floor)
    if budget.relative is not None:
        return budget.relative * abs(reference)
    return points_to_units(budget.points or 0.0, metric)


def points_to_units(points: float, metric: Metric) -> float:
    """Return points (hundredths of the metric's scale) in the metric's units."""
    if metric.scale is None:
        raise UsageError(
            f"metric {metric.name} has no scale, so a budget in points means nothing",
            hint="use `relative` or `floor`, or give a callable metric its `scale`",
        )
    return points / 100 * (metric.scale[1] - metric.scale[0])
