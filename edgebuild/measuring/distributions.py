"""Student's t, chi-squared and the normal distribution, for whole degrees of freedom. Pure.

Their finite sums, and not scipy's functions: to import those takes longer than all else that a finished build computes.
Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.2, 26.4.4, 26.4.5, 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: The smallest quantiles that are asked for are a millionth of where their search begins.
HALVINGS = 64


def normal_below(values: Floats) -> Floats:
    """Return the probability that a standard normal variable is below each value."""
    import numpy as np

    return np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in values.tolist()])


@cache
def t_quantile(p: float, degrees: int) -> float:
    """Return what Student's t stays below with probability ``p`` (0 < p < 1)."""
    if p < 0.5:
        return -t_quantile(1 - p, degrees)
    high = 1.0
    while _t_below(high, degrees) < p:
        high *= 2
    low = 0.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _t_below(middle, degrees) < p else (low, middle)
    return high


def _t_below(t: float, degrees: int) -> float:
    """Return the probability that Student's t is below ``t`` >= 0."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine, odd = math.cos(angle), degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= (k - 1) / k * cosine**2
    within = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return (1 + within) / 2


@cache
def chi_squared_spread(degrees: int, count: int) -> Floats:
    """Return ``count`` quantiles of chi-squared, at the middles of as many equal shares, smallest first."""
    import numpy as np

    above = 1 - (np.arange(count) + 0.5) / count
    low, high = np.zeros(count), np.full(count, float(degrees))
    while (short := _chi_squared_above(high, degrees) > above).any():
        high[short] *= 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = _chi_squared_above(middle, degrees) > above
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    high.flags.writeable = False
    return high


def _chi_squared_above(x: Floats, degrees: int) -> Floats:
    """Return the probability that chi-squared is above each ``x`` > 0."""
    import numpy as np

    odd, logs = degrees % 2, np.log(x)
    # Terms by their logarithms: from 1,400 degrees on the first ones are less than the smallest number there is.
    term = (math.log(2 / math.pi) + logs - x) / 2 if odd else -x / 2
    total = 2 * normal_below(-np.sqrt(x)) if odd else np.zeros_like(x)
    for k in range(2 + odd, degrees + 1, 2):
        total = total + np.exp(term)
        term = term + (logs - math.log(k))
    return total
