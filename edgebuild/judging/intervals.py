"""Intervals for the paired drop between a reference and an artifact on identical samples.

A drop is positive where the artifact is worse. Every interval is two-sided; a budget is judged by its upper bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import chain, islice
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from edgebuild.errors import DataError
from edgebuild.judging.pace import LEAST_DRAWS, Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgebuild.judging.arrays import Floats, Ints, Labels

MIN_DRAWS = 1_000
MAX_DRAWS = 20_000
#: Draws beyond each bound of a percentile interval: fewer make the bound itself random.
TAIL_DRAWS = 25
#: A bootstrap whose metric is undefined in more than this share of its draws bounds nothing.
MAX_UNDEFINED = 0.05

#: Draws of a part of the units have at least so many.
LEAST_BATCH = 20
#: The fastest of so many draws says how long one takes: a single one may have been disturbed.
TIMED_DRAWS = 3

_CHUNK_DRAWS = 64


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Bounds of a drop and the method that gave them; ``failures``: on how many draws the metric raised, and what."""

    low: float
    high: float
    method: str
    failures: str = ""


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


def bootstrap_mean(drops: Floats, codes: Ints | None, *, level: float, seed: int) -> Interval:
    """Return the paired bootstrap interval of the mean of per-sample drops; groups (``codes``) stay together.

    Same method and same resamples as ``bootstrap``, through the sums of each group.
    """
    own = np.arange(len(drops), dtype=np.int64) if codes is None else codes
    sums, sizes = np.bincount(own, drops), np.bincount(own)
    units = len(sums)
    draws = [
        sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
        for picks in _chunks(units, _draws(units, level), seed, units)
    ]
    return _expanded_percentile(np.concatenate(draws), units, level, grouped=codes is not None, widest=math.inf)


def bootstrap(
    drop: Callable[[Ints], float],
    samples: int,
    codes: Ints | None,
    *,
    estimate: float,
    level: float,
    seed: int,
    widest: float = math.inf,
    most: int = MAX_DRAWS,
    pace: Pace | None = None,
    title: str = "Resampling",
) -> Interval:
    """Return the paired bootstrap interval of any drop; groups (``codes``) stay together.

    ``drop(counts)`` is the drop with sample i counted ``counts[i]`` times; NaN or ``DataError`` where the metric is
    undefined. Such draws are counted in ``method``; more than 5 % of them, and the bounds are ± ``widest``
    (the span of the metric's scale): the data say nothing, nor does a single unit. At most ``most`` draws are made, and
    no more than ``pace`` allows. Fewer than 1,000 give no percentiles: then bounds are t times their spread around the
    ``estimate``, the drop over all samples. Where not even 10 fit, and the metric has a scale (so that it doesn't grow
    with the number of samples), draws are of a part of the units, and the spread shrinks as the root of that part.
    """
    pace = pace or Pace()
    units = samples if codes is None else int(codes.max()) + 1
    wanted = min(most, _draws(units, level))
    failures: list[str] = []

    def value(pick: Ints) -> float:
        pace.check()
        counts = np.bincount(pick, minlength=units)
        try:
            return drop(counts if codes is None else counts[codes])
        except DataError as error:
            # A callable that worked on all samples and fails on a resample is undefined there, as AUROC without
            # negatives.
            failures.append(error.message)
            return math.nan

    picks = _resamples(units, wanted, seed)
    values, fastest = _timed(value, picks, pace, own=most < MAX_DRAWS)
    draws, size = pace.fitting(wanted, fastest), units
    if draws * fastest > pace.box_s and most < MAX_DRAWS and math.isfinite(widest):
        size = min(units, max(LEAST_BATCH, int(units * pace.box_s / (draws * fastest))))
    if size < units:
        values, picks = [], _resamples(units, draws, seed, size)
        failures.clear()
    left = draws - len(values)
    with pace.progress.task(title, total=left) as task:
        for pick in islice(picks, left):
            values.append(value(pick))
            task.advance()
    drawn, grouped = np.asarray(values), codes is not None
    if len(drawn) < MIN_DRAWS:
        found = _standard_errors(drawn, estimate, units, level, grouped=grouped, widest=widest, size=size)
    else:
        found = _expanded_percentile(drawn, units, level, grouped=grouped, widest=widest)
    told = f"{len(failures)} of {len(drawn)} resamples: {failures[0]}" if failures else ""
    return replace(found, failures=told)


def _timed(
    value: Callable[[Ints], float], picks: Iterator[Ints], pace: Pace, *, own: bool
) -> tuple[list[float], float]:
    """Return the first values and how long the fastest took; a single one where it is slow."""
    clock = pace.clock if own else pace.computing
    values, fastest = [], math.inf
    for pick in islice(picks, TIMED_DRAWS):
        started = clock()
        values.append(value(pick))
        fastest = min(fastest, clock() - started)
        if LEAST_DRAWS * fastest > pace.box_s:
            break
    return values, fastest


def _tail(units: int, level: float) -> float:
    """Return the share of draws beyond each bound.

    Plain percentile intervals are too short with few units; these use t for z and undo the bootstrap's n for n - 1.
    Source: Hesterberg, The American Statistician 69 (2015) 371-386, "expanded percentile interval".
    """
    from scipy import special

    if units < 2:
        return 0.0
    t = float(special.stdtrit(units - 1, (1 + level) / 2))
    return float(special.ndtr(-t * math.sqrt(units / (units - 1))))


def _draws(units: int, level: float) -> int:
    tail = _tail(units, level)
    return MAX_DRAWS if tail * MAX_DRAWS <= TAIL_DRAWS else max(MIN_DRAWS, math.ceil(TAIL_DRAWS / tail))


def _resamples(units: int, draws: int, seed: int, size: int | None = None) -> Iterator[Ints]:
    """Yield draws of ``size`` units. Default: as many as there are."""
    return chain.from_iterable(_chunks(units, draws, seed, units if size is None else size))


def _chunks(units: int, draws: int, seed: int, size: int) -> Iterator[Ints]:
    random = np.random.default_rng(seed)
    for start in range(0, draws, _CHUNK_DRAWS):
        yield random.integers(0, units, size=(min(_CHUNK_DRAWS, draws - start), size))


def _expanded_percentile(values: Floats, units: int, level: float, *, grouped: bool, widest: float) -> Interval:
    method = _method("expanded percentile", values, units, grouped=grouped)
    if _bounds_nothing(values, units):
        return Interval(low=-widest, high=widest, method=method)
    tail = _tail(units, level)
    low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
    return Interval(low=float(low), high=float(high), method=method)


def _standard_errors(
    values: Floats, estimate: float, units: int, level: float, *, grouped: bool, widest: float, size: int
) -> Interval:
    """Return t standard errors around the estimate, for draws too few for percentiles.

    The spread of R draws of n units is a variance with about R - 1 degrees of freedom around one with n - 1; added up
    as relative variances they give those of t, so that fewer draws make the interval wider, not too short. Of draws of
    ``size`` units it is n / size times as large. A draw in which the metric is undefined counts as the farthest.
    """
    from scipy import special

    method = _method("t times the standard error", values, units, grouped=grouped, size=size)
    if _bounds_nothing(values, units):
        return Interval(low=-widest, high=widest, method=method)
    away = np.abs(values - values[np.isfinite(values)].mean())
    away[~np.isfinite(away)] = away[np.isfinite(away)].max()
    error = math.sqrt(float(away @ away) / (len(values) - 1) * size / (units - 1))
    freedom = 1 / (1 / (len(values) - 1) + 1 / (units - 1))
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error
    return Interval(low=estimate - half, high=estimate + half, method=method)


def _method(kind: str, values: Floats, units: int, *, grouped: bool, size: int | None = None) -> str:
    undefined = int((~np.isfinite(values)).sum())
    drawn = f"{units}" if size in (None, units) else f"{size} of {units}"
    return (
        f"paired {'group ' if grouped else ''}bootstrap, {kind}, {len(values)} draws of {drawn} "
        f"{'groups' if grouped else 'samples'}" + (f", {undefined} undefined" if undefined else "")
    )


def _bounds_nothing(values: Floats, units: int) -> bool:
    return units < 2 or float((~np.isfinite(values)).mean()) > MAX_UNDEFINED


def hull(one: Interval, other: Interval) -> Interval:
    """Return the interval that covers both."""
    return Interval(
        low=min(one.low, other.low),
        high=max(one.high, other.high),
        method=f"{one.method}; not narrower than {other.method}",
    )


def needed_samples(*, drop: float, high: float, budget: float, samples: int) -> int | None:
    """Return about how many more samples would bring the upper bound inside the budget if the drop stayed the same.

    Standard errors shrink with the root of the number of samples. ``None`` where the estimate itself is on or beyond
    the budget, so that more data would not certify it.
    """
    if drop >= budget:
        return None
    return max(0, math.ceil(samples * (((high - drop) / (budget - drop)) ** 2 - 1)))


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
