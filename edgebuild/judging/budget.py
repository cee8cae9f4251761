"""How much worse than the original an artifact may be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from edgebuild.core.values import Value
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


class Budget(Value):
    """Exactly one of four kinds, and perhaps a limit for every slice.

    ``points``: the largest drop in hundredths of the metric's scale. ``relative``: the largest drop as a share of the
    original's metric. ``floor``: the worst metric that is good enough. ``agreement``: the smallest share of samples
    decided as the original decides them, for unlabelled data. ``per_slice_points``: the largest drop in any one slice.
    """

    points: float | None = Field(default=None, gt=0)
    relative: float | None = Field(default=None, gt=0, lt=1)
    floor: float | None = None
    agreement: float | None = Field(default=None, gt=0, le=1)
    per_slice_points: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_kind(self) -> Budget:
        if sum(kind is not None for kind in (self.points, self.relative, self.floor, self.agreement)) != 1:
            raise ValueError("a budget is exactly one of points, relative, floor and agreement")
        return self

    @property
    def text(self) -> str:
        """The budget in words; ``parse_budget`` reads it back."""
        if self.points is not None:
            return f"{_plain(self.points)} {'point' if self.points == 1 else 'points'}"
        if self.relative is not None:
            return f"{_plain(self.relative * 100)}%"
        if self.floor is not None:
            return f"floor {_plain(self.floor)}"
        return f"agreement {_plain(100 * (self.agreement or 0))}%"


def _plain(number: float) -> str:
    """Twelve significant digits, without an exponent."""
    text = f"{float(f'{number:.12g}'):.15f}".rstrip("0")
    return text.removesuffix(".")


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
