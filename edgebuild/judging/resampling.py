"""Intervals from resampling: what a drop would have been on other samples, by drawing from those that there are."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from edgebuild.errors import DataError
from edgebuild.judging.intervals import Interval, hull
from edgebuild.judging.pace import LEAST_DRAWS, Pace
from edgebuild.judging.unseen import ROUNDING, nothing_moved, unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from edgebuild.judging.arrays import Floats, Ints
    from edgebuild.judging.unseen import Unseen

MIN_DRAWS = 1_000
MAX_DRAWS = 20_000
#: Draws beyond each bound of a percentile interval: fewer make the bound itself random.
TAIL_DRAWS = 25
#: A bootstrap whose metric is undefined in more than this share of its draws bounds nothing.
MAX_UNDEFINED = 0.05
#: The fastest of so many draws says how long one takes: a single one may have been disturbed.
TIMED_DRAWS = 3

#: Where not even 10 resamples fit, units are scored once, in so many batches at least, ...
LEAST_BATCHES = 4
#: ... and up to 10 where each then holds so many.
BATCH_UNITS = 5
#: Samples are looked at alone, or in so many pools: more would take longer than the draws.
MAX_POOLS = 100
LEAST_POOLS = 20

_CHUNK_DRAWS = 64


def bootstrap_mean(drops: Floats, codes: Ints | None, *, level: float, seed: int, span: float) -> Interval:
    """Return the paired bootstrap interval of the mean of per-sample drops; groups (``codes``) stay together.

    Same method and same resamples as ``bootstrap``, through the sums of each group, and not narrower than samples of
    which hardly any changes allow.
    """
    own = np.arange(len(drops), dtype=np.int64) if codes is None else codes
    sums, sizes = np.bincount(own, drops), np.bincount(own)
    units = len(sums)
    draws = [sums[picks].sum(axis=1) / sizes[picks].sum(axis=1) for picks in _chunks(units, _draws(units, level), seed)]
    found = _expanded_percentile(np.concatenate(draws), units, level, grouped=codes is not None, widest=math.inf)
    return _not_narrower(found, float(drops.mean()), unseen(drops, np.ones(len(drops)), span), level)


def bootstrap(
    drop: Callable[[Ints], float],
    samples: int,
    codes: Ints | None,
    *,
    estimate: float,
    level: float,
    seed: int,
    span: float,
    widest: float = math.inf,
    most: int = MAX_DRAWS,
    call_s: float = 0.0,
    batches: bool = False,
    pace: Pace | None = None,
    title: str = "Resampling",
) -> Interval:
    """Return the paired bootstrap interval of any drop; groups (``codes``) stay together.

    ``drop(counts)`` is the drop with sample i counted ``counts[i]`` times; NaN or ``DataError`` where the metric is
    undefined. Such draws are counted in ``method``; more than 5 % of them, and the bounds are ± ``widest``
    (the span of the metric's scale): the data say nothing, nor does a single unit. At most ``most`` draws are made, and
    no more than ``pace`` allows. Fewer than 1,000 give no percentiles: then bounds are t times their spread around the
    ``estimate``, the drop over all samples. Where not even 10 fit (``call_s``: what one takes, as far as is known), and
    ``batches`` may be (of a metric that doesn't grow with the number of samples), the spread is that of batches, which
    take as long as one draw together. The interval is never narrower than samples of which hardly any changes allow,
    where one that wasn't seen may move the metric by ``span``.
    """
    asked = _Asked(drop=drop, samples=samples, codes=codes, pace=pace or Pace(), own=most < MAX_DRAWS, title=title)
    drawn = asked.drawn(min(most, _draws(asked.units, level)), seed, call_s, batches=batches)
    values, grouped = drawn.values, codes is not None
    if len(values) < MIN_DRAWS:
        found = _standard_errors(values, estimate, asked.units, level, grouped=grouped, widest=widest, size=drawn.size)
    else:
        found = _expanded_percentile(values, asked.units, level, grouped=grouped, widest=widest)
    told = f"{len(asked.failures)} of {len(values)} resamples: {asked.failures[0]}" if asked.failures else ""
    if _bounds_nothing(values, asked.units):
        return replace(found, failures=told)
    return replace(_not_narrower(found, estimate, asked.unseen(drawn, span), level), failures=told)


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Drops of draws of ``size`` units each; ``batches``: what each was of, where they are not resamples."""

    values: Floats
    size: float
    batches: list[Ints] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A drop that is asked for at a pace, and on how many draws that failed. ``own``: it is code of a project's."""

    drop: Callable[[Ints], float]
    samples: int
    codes: Ints | None
    pace: Pace
    own: bool
    title: str
    failures: list[str] = field(default_factory=list)

    @property
    def units(self) -> int:
        return self.samples if self.codes is None else int(self.codes.max()) + 1

    def counts(self, pick: Ints) -> Ints:
        """Return how often each sample counts where these units are picked."""
        counts = np.bincount(pick, minlength=self.units)
        return counts if self.codes is None else counts[self.codes]

    def value(self, counts: Ints) -> float:
        self.pace.check()
        try:
            return self.drop(counts)
        except DataError as error:
            # A callable that worked on all samples and fails on a resample is undefined there, as AUROC without
            # negatives.
            self.failures.append(error.message)
            return math.nan

    def drawn(self, wanted: int, seed: int, call_s: float, *, batches: bool) -> _Drawn:
        """Return as many draws of all units as fit, at most ``wanted``; else, with ``batches``, those."""
        values: list[float] = []
        if not (batches and self.pace.too_slow(call_s)):
            picks = chain.from_iterable(_chunks(self.units, wanted, seed))
            values, call_s = self._timed(picks)
        if batches and self.pace.too_slow(call_s):
            self.failures.clear()
            parts = _batches(self.units, seed)
            return _Drawn(values=self._values(parts, len(parts)), size=self.units / len(parts), batches=parts)
        left = self.pace.fitting(wanted, call_s) - len(values)
        return _Drawn(values=np.append(values, self._values(islice(picks, left), left)), size=self.units)

    def unseen(self, drawn: _Drawn, span: float) -> Unseen | None:
        """Return what samples of which hardly any changes leave open; None where they vary."""
        values = drawn.values
        if np.ptp(values[np.isfinite(values)]) <= ROUNDING * span:
            return nothing_moved(self.samples, span)
        if drawn.batches:
            return unseen(values, np.asarray([float(self.counts(batch).sum()) for batch in drawn.batches]), span)
        number = min(self.samples, MAX_POOLS, max(LEAST_POOLS, len(values) // 2))
        pools = np.arange(self.samples) % number
        failed = len(self.failures)
        with warnings.catch_warnings():
            # A callable of all samples may warn of one: nobody asked for that value but this.
            warnings.simplefilter("ignore")
            alone = np.asarray([self.value((pools == pool).astype(np.int64)) for pool in range(number)])
        del self.failures[failed:]
        return unseen(alone, np.bincount(pools).astype(np.float64), span)

    def _values(self, picks: Iterable[Ints], total: int) -> Floats:
        values = []
        with self.pace.progress.task(self.title, total=total) as task:
            for pick in picks:
                values.append(self.value(self.counts(pick)))
                task.advance()
        return np.asarray(values)

    def _timed(self, picks: Iterator[Ints]) -> tuple[list[float], float]:
        """Return the first values and how long the fastest took; a single one where it is slow."""
        clock = self.pace.clock if self.own else self.pace.computing
        values, fastest = [], math.inf
        for pick in islice(picks, TIMED_DRAWS):
            started = clock()
            values.append(self.value(self.counts(pick)))
            fastest = min(fastest, clock() - started)
            if self.pace.too_slow(fastest):
                break
        return values, fastest


def _not_narrower(found: Interval, estimate: float, left_open: Unseen | None, level: float) -> Interval:
    """Return the interval, as wide as what wasn't seen makes it."""
    if left_open is None:
        return found
    half = left_open.half(level)
    if found.low <= estimate - half and estimate + half <= found.high:
        return found
    floor = Interval(low=estimate - half, high=estimate + half, method=left_open.text())
    return replace(hull(found, floor), unseen=left_open if floor.high > found.high else None)


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


def _chunks(units: int, draws: int, seed: int) -> Iterator[Ints]:
    """Yield many draws at a time, each of as many units as there are."""
    random = np.random.default_rng(seed)
    for start in range(0, draws, _CHUNK_DRAWS):
        yield random.integers(0, units, size=(min(_CHUNK_DRAWS, draws - start), units))


def _batches(units: int, seed: int) -> list[Ints]:
    """Return all units in 4 to 10 batches by chance, of 5 at least where there are enough."""
    count = min(units, max(LEAST_BATCHES, min(LEAST_DRAWS, units // BATCH_UNITS)))
    return np.array_split(np.random.default_rng(seed).permutation(units), count)


def _expanded_percentile(values: Floats, units: int, level: float, *, grouped: bool, widest: float) -> Interval:
    method = _method("expanded percentile", values, units, grouped=grouped, size=units)
    if _bounds_nothing(values, units):
        return Interval(low=-widest, high=widest, method=method)
    tail = _tail(units, level)
    low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
    return Interval(low=float(low), high=float(high), method=method)


def _standard_errors(
    values: Floats, estimate: float, units: int, level: float, *, grouped: bool, widest: float, size: float
) -> Interval:
    """Return t standard errors around the estimate, for draws too few for percentiles.

    The spread of R draws of n units is a variance with about R - 1 degrees of freedom around one with n - 1; added up
    as relative variances they give those of t, so that fewer draws make the interval wider, not too short. Of batches
    of ``size`` units it is n / size times as large: the method of random groups, Wolter, Introduction to Variance
    Estimation (2007), chapter 2. A draw in which the metric is undefined counts as the farthest.
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


def _method(kind: str, values: Floats, units: int, *, grouped: bool, size: float) -> str:
    undefined = int((~np.isfinite(values)).sum())
    drawn = "draws" if size == units else "batches"
    return (
        f"paired {'group ' if grouped else ''}{'bootstrap' if size == units else 'batches'}, {kind}, {len(values)} "
        f"{drawn} of {units} {'groups' if grouped else 'samples'}" + (f", {undefined} undefined" if undefined else "")
    )


def _bounds_nothing(values: Floats, units: int) -> bool:
    return units < 2 or float((~np.isfinite(values)).mean()) > MAX_UNDEFINED
