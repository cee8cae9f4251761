"""Intervals for the paired drop between a reference and an artifact on identical samples.

A drop is positive where the artifact is worse. Every interval is two-sided; a budget is judged by its upper bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgebuild.judging.arrays import Ints, Labels
    from edgebuild.judging.unseen import Unseen


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Bounds of a drop and the method that gave them; ``failures``: on how many draws the metric raised, and what.

    ``unseen`` is what the width rests on where resampling alone would be narrower.
    """

    low: float
    high: float
    method: str
    failures: str = ""
    unseen: Unseen | None = None


def level_for_opening(k: int, alpha: float = 0.05) -> float:
    """Return the confidence level of opening ``k`` (1, 2, …) of the sealed test set: 1 - alpha / k."""
    if k < 1:
        raise ValueError(f"openings are counted from 1, not {k}")
    return 1 - alpha / k


def group_codes(groups: Labels | None) -> Ints | None:
    """Return a number per sample, equal within a group; a sample without one is its own.

    ``None`` when no two samples share a group, so that samples are resampled one by one.
    """
    if groups is None:
        return None
    keys = [("", i) if label is None else (label, -1) for i, label in enumerate(groups)]
    numbers: dict[tuple[str, int], int] = {}
    codes = [numbers.setdefault(key, len(numbers)) for key in keys]
    return None if len(numbers) == len(codes) else np.asarray(codes, dtype=np.int64)


def paired_proportion(lost: float, gained: float, samples: float, level: float) -> Interval:
    """Return Tango's score interval for the difference of two paired proportions, (lost - gained) / samples.

    ``lost`` samples are right only with the reference, ``gained`` only with the artifact. It holds its level down to
    small samples and to no discordant sample at all, where a Wald interval has no width.
    Source: Tango, Statistics in Medicine 17 (1998) 891-908; recommended by Fagerland, Lydersen and Laake, Statistics
    in Medicine 33 (2014) 2850-2875.
    """
    z = _normal_quantile((1 + level) / 2)
    return Interval(
        low=-_score_bound(gained, lost, samples, z),
        high=_score_bound(lost, gained, samples, z),
        method="Tango's score interval for paired proportions",
    )


def _score_bound(lost: float, gained: float, samples: float, z: float) -> float:
    """Return the largest difference that the score test doesn't reject, by bisection to 1e-12."""
    inside = (lost - gained) / samples
    outside = 1.0
    while outside - inside > 1e-12:
        middle = (inside + outside) / 2
        # The restricted estimate of the share of `gained` samples when the true difference is `middle`.
        a = 2 * samples
        b = (2 * samples - lost + gained) * middle - lost - gained
        c = -gained * middle * (1 - middle)
        share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = samples * (2 * share + middle * (1 - middle))
        if (samples * middle - (lost - gained)) ** 2 <= z * z * variance:
            inside = middle
        else:
            outside = middle
    return inside


def hull(one: Interval, other: Interval) -> Interval:
    """Return the interval that covers both."""
    return Interval(
        low=min(one.low, other.low),
        high=max(one.high, other.high),
        method=f"{one.method}; not narrower than {other.method}",
    )


#: Nobody collects so many times the samples there are; beyond it an estimate is on the budget, but for rounding.
MOST_TIMES = 10_000


def needed_samples(*, drop: float, high: float, budget: float, samples: int) -> int | None:
    """Return about how many more samples would bring the upper bound inside the budget if the drop stayed the same.

    Standard errors shrink with the root of the number of samples. ``None`` where the estimate itself is on or beyond
    the budget, or so near that ``MOST_TIMES`` the samples would not certify it.
    """
    if drop >= budget:
        return None
    times = ((high - drop) / (budget - drop)) ** 2
    return None if times > MOST_TIMES else max(0, math.ceil(samples * (times - 1)))


def needed_pairs(*, lost: float, gained: float, samples: int, budget: float, level: float) -> int | None:
    """Return ``needed_samples`` for paired proportions, from Tango's interval itself at the same rates."""
    if (lost - gained) / samples >= budget:
        return None
    z = _normal_quantile((1 + level) / 2)

    def certifies(total: int) -> bool:
        factor = total / samples
        return _score_bound(lost * factor, gained * factor, total, z) <= budget

    enough = samples
    while not certifies(enough):
        enough *= 2
        if enough > MOST_TIMES * samples:
            return None
    short = enough // 2 if enough > samples else samples
    while enough - short > max(1, short // 1000):
        middle = (short + enough) // 2
        short, enough = (short, middle) if certifies(middle) else (middle, enough)
    return enough - samples


def least_pairs(*, budget: float, level: float) -> int:
    """Return how many samples it takes for ``paired_proportion`` without any discordant one to be within ``budget``."""
    z = _normal_quantile((1 + level) / 2)
    # Without discordant samples the bound is z² / (n + z²); a hair of rounding must not cost a sample.
    return max(1, math.ceil(z * z * (1 - budget) / budget - 1e-9))


def _normal_quantile(p: float) -> float:
    return NormalDist().inv_cdf(p)
