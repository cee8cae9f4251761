"""What samples that behave alike leave open about those not seen: the least width of an interval from resampling.

A resample holds nothing but what was seen. Where no sample's result changes every draw is the same, and where few do
the draws vary too little: ten samples without a change would be certainty. But a share p of samples that behave
otherwise stays unseen among n with probability (1 - p)^n, so p may be as large as 1 - (alpha / 2)^(1 / n), about
3.7 / n at 95 %: Hanley and Lippman-Hand, JAMA 249 (1983) 1743-1745, the "rule of three". With some seen it is the bound
of Clopper and Pearson, Biometrika 26 (1934) 404-413.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgebuild.judging.arrays import Floats

#: Drops closer than this share of the metric's span are the same drop.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """How few samples do something of their own, and how far one of them moves the metric.

    ``samples`` were looked at in ``pools`` of equal size, of which ``moved`` hold such a sample. ``size`` is what one
    is taken to move: the mean of those seen and of one more that moves the whole span of the metric (Laplace's rule of
    succession), so that the span counts in full where nothing was seen, and hardly where much was.
    """

    samples: float
    pools: float
    moved: float
    size: float

    def half(self, level: float) -> float:
        """Return how far the drop may be from its estimate, in the metric's units."""
        return (self._share(_clopper_pearson(self.moved, self.pools, level)) - self.share) * self.size

    @property
    def share(self) -> float:
        """The share of samples that do something of their own, as seen."""
        return self._share(self.moved / self.pools)

    def needed(self, *, room: float, level: float) -> int:
        """Return how many more samples bring ``half`` to at most ``room`` (> 0) at the same share and size."""

        def enough(factor: float) -> bool:
            more = Unseen(
                samples=self.samples * factor, pools=self.pools * factor, moved=self.moved * factor, size=self.size
            )
            return more.half(level) <= room

        many = 1.0
        while not enough(many):
            many *= 2
        few = many / 2
        while self.samples * (many - few) > 0.5:
            middle = (few + many) / 2
            few, many = (few, middle) if enough(middle) else (middle, many)
        return max(0, math.ceil(self.samples * (many - 1)))

    def text(self) -> str:
        """Return what the width rests on, in words."""
        seen = round(self.share * self.samples)
        return f"{seen:,} of {round(self.samples):,} samples with a change of their own allow (Clopper-Pearson)"

    def _share(self, pools: float) -> float:
        """The share of samples from that of pools: one without such a sample holds none at all."""
        return -math.expm1(math.log1p(-pools) * self.pools / self.samples) if pools < 1 else 1.0


def nothing_moved(samples: float, span: float) -> Unseen:
    """Return what so many samples without any change leave open, for a metric of this span."""
    return Unseen(samples=samples, pools=samples, moved=0, size=span)


def unseen(drops: Floats, sizes: Floats, span: float) -> Unseen | None:
    """Return what pools of samples leave open whose ``drops`` were taken alone; NaN where that has no meaning.

    The median drop is the usual one. ``None`` where half of the pools or more have another one, or most
    none at all: then samples vary, and a bootstrap sees how they do.
    """
    known = np.isfinite(drops)
    if 2 * known.sum() <= len(drops):
        return None
    away = np.abs(drops[known] - np.quantile(drops[known], 0.5, method="lower"))
    moved = away > ROUNDING * span
    if 2 * moved.sum() > len(moved):
        return None
    samples = float(sizes[known].sum())
    seen = Unseen(samples=samples, pools=float(len(moved)), moved=float(moved.sum()), size=span)
    total = float((away * sizes[known])[moved].sum())
    size = (span + total) / (seen.share * samples + 1)
    return Unseen(samples=samples, pools=seen.pools, moved=seen.moved, size=size)


def least_samples(*, share: float, level: float) -> int:
    """Return how many samples without any change it takes to leave at most ``share`` of the span open."""
    return max(1, math.ceil(math.log((1 - level) / 2) / math.log1p(-share) - 1e-9))


def _clopper_pearson(seen: float, of: float, level: float) -> float:
    """Return the upper bound of a share that was seen so often, two-sided ``level``."""
    from scipy import special

    return float(special.betaincinv(seen + 1, of - seen, (1 + level) / 2)) if seen < of else 1.0
