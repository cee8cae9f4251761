"""How much worse than the original an artifact may be."""

from __future__ import annotations

from pydantic import Field, model_validator

from edgebuild.core.values import Value


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
