"""Scales, ticks, and labels that keep out of each other's way; pure geometry, in SVG user units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LOG_FROM_RATIO = 6.0
_CHARACTER = 0.6  # of the font size: the width of an average glyph, rounded up


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A linear or logarithmic scale from values to positions; values outside are held at the ends."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the position of ``value``."""
        low, high, v = (math.log(max(x, 1e-300)) if self.log else x for x in (self.low, self.high, value))
        share = (v - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, count: int = 6) -> tuple[float, ...]:
        """Return round values inside the range, about ``count`` of them."""
        return _log_ticks(self.low, self.high, count) if self.log else _linear_ticks(self.low, self.high, count)


def axis_for(
    values: Sequence[float], *, start: float, end: float, margin: float = 0.08, log: bool | None = None
) -> Axis:
    """Return an axis that holds ``values`` with a margin. ``log`` by default: where the positive range is wide."""
    low, high = min(values), max(values)
    use_log = log if log is not None else low > 0 and high / low >= LOG_FROM_RATIO
    if use_log:
        stretch = max((high / low) ** margin, 1.02)
        return Axis(low=low / stretch, high=high * stretch, start=start, end=end, log=True)
    pad = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Axis(low=low - pad, high=high + pad, start=start, end=end)


def _linear_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    rough = (high - low) / max(1, count)
    if not math.isfinite(rough) or rough <= 0:
        return (low,)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(0.0 if k == 0 else k * step for k in range(first, last + 1))


def _log_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = tuple(m * 10.0**d for d in decades for m in mantissas if low <= m * 10.0**d <= high)
        if len(found) <= count:
            break
    return found if len(found) >= 2 else _linear_ticks(low, high, count)


@dataclass(frozen=True, kw_only=True)
class Box:
    """An area that a label may not cover."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Return the shared area."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide * high if wide > 0 and high > 0 else 0.0

    def inside(self, other: Box) -> bool:
        """Whether this box lies within ``other``."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text wanted near (x, y), at least ``gap`` away; ``texts`` from the most to the least wanted."""

    x: float
    y: float
    gap: float
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A label with its place: the left end of its baseline, and whether it is far enough to need a leader line."""

    text: str
    x: float
    y: float
    box: Box
    leader: bool


def place(labels: Sequence[Label], *, obstacles: Sequence[Box], bounds: Box, font: float) -> tuple[Placed, ...]:
    """Return a place for each label, earlier labels first, free of ``obstacles`` and each other wherever that exists.

    Near places are tried with every text before far ones; where none is free, the least covered place is taken.
    """
    taken = list(obstacles)
    done: list[Placed] = []
    for label in labels:
        options = [
            _placed(label, text, font, dx, dy, far)
            for far in (1.0, 2.6, 4.5)
            for text in label.texts
            for dx, dy in ((1, 0), (-1, 0), (0.7, -0.9), (-0.7, -0.9), (0.7, 0.9), (-0.7, 0.9), (0, -1), (0, 1))
        ]
        fitting = [o for o in options if o.box.inside(bounds)] or options
        costs = [sum(o.box.overlap(t) for t in taken) for o in fitting]
        best = fitting[min(range(len(fitting)), key=costs.__getitem__)]
        taken.append(best.box)
        done.append(best)
    return tuple(done)


def _placed(label: Label, text: str, font: float, dx: float, dy: float, far: float) -> Placed:
    width, reach = len(text) * font * _CHARACTER, (label.gap + font * 0.4) * far
    left = label.x + dx * reach - (width / 2 if dx == 0 else width if dx < 0 else 0)
    middle = label.y + dy * (reach if dx else reach + font * 0.3)
    box = Box(left=left, top=middle - font * 0.62, right=left + width, bottom=middle + font * 0.62)
    return Placed(text=text, x=left, y=middle + font * 0.36, box=box, leader=far > 1)
