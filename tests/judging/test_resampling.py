"""Resampling: by simulated coverage, by its properties, and what it is never narrower than."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.errors import DataError
from edgebuild.judging.pace import Pace
from edgebuild.judging.resampling import _batches, _standard_errors, bootstrap, bootstrap_mean


def grouped_drops(random: np.random.Generator, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Drops of mean 0.02 that mostly vary between groups of uneven size."""
    sizes = random.integers(5, 20, groups)
    codes = np.repeat(np.arange(groups), sizes)
    return 0.02 + random.normal(0, 0.1, groups)[codes] + random.normal(0, 0.05, len(codes)), codes


@pytest.mark.parametrize("groups", [12, 40])
def test_the_group_bootstrap_covers_where_resampling_samples_would_not(groups: int) -> None:
    random = np.random.default_rng(4)
    held = ignored = 0
    for seed in range(300):
        drops, codes = grouped_drops(random, groups)
        found = bootstrap_mean(drops, codes, level=0.95, seed=seed, span=1.0)
        held += found.low <= 0.02 <= found.high
        alone = bootstrap_mean(drops, None, level=0.95, seed=seed, span=1.0)
        ignored += alone.low <= 0.02 <= alone.high
    assert 0.91 <= held / 300 <= 0.98
    assert ignored / 300 < 0.7


def test_the_fast_path_is_the_slow_path() -> None:
    drops, codes = grouped_drops(np.random.default_rng(5), 15)
    fast = bootstrap_mean(drops, codes, level=0.95, seed=1, span=1.0)
    slow = bootstrap(
        lambda counts: float(counts @ drops / counts.sum()),
        len(drops),
        codes,
        estimate=drops.mean(),
        level=0.95,
        seed=1,
        span=1.0,
        pace=Pace(box_s=600),
    )
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=1e-12)
    assert fast.method == slow.method


def test_the_seed_decides_and_a_higher_level_is_wider() -> None:
    drops, codes = grouped_drops(np.random.default_rng(6), 30)
    one = bootstrap_mean(drops, codes, level=0.95, seed=1, span=1.0)
    assert one == bootstrap_mean(drops, codes, level=0.95, seed=1, span=1.0)
    assert one != bootstrap_mean(drops, codes, level=0.95, seed=2, span=1.0)
    wide = bootstrap_mean(drops, codes, level=0.99, seed=1, span=1.0)
    assert wide.low < one.low
    assert wide.high > one.high


def test_at_least_a_thousand_draws_and_more_for_thin_tails() -> None:
    drops = np.random.default_rng(7).normal(size=300)
    draws = [
        int(bootstrap_mean(drops, None, level=level, seed=0, span=1.0).method.split(", ")[2].split()[0])
        for level in (0.5, 0.95, 0.995)
    ]
    assert draws[0] >= 1000
    assert draws == sorted(set(draws))


def test_draws_in_which_the_metric_is_undefined_are_counted() -> None:
    def rarely(counts: np.ndarray) -> float:
        if counts[0] > 4:
            raise DataError("no negatives")
        return float(counts[1])

    found = bootstrap(rarely, 20, None, estimate=1.0, level=0.95, seed=0, span=1.0)
    assert "undefined" in found.method
    assert math.isfinite(found.high)

    def often(counts: np.ndarray) -> float:
        return math.nan if counts[0] > 1 else float(counts[1])

    assert bootstrap(often, 20, None, estimate=1.0, level=0.95, seed=0, span=1.0).high == math.inf
    nothing = bootstrap(often, 20, None, estimate=1.0, level=0.95, seed=0, span=1.0, widest=1.0)
    assert (nothing.low, nothing.high) == (-1.0, 1.0)
    assert bootstrap_mean(np.array([0.5]), None, level=0.95, seed=0, span=1.0).high == math.inf


STATISTICS: dict[str, tuple[float, Any]] = {
    "mean": (0.02, lambda one, _: one.mean(axis=1)),
    "median": (0.02, lambda one, _: np.median(one, axis=1)),
    "ratio of sums": (0.02 / 5, lambda one, other: one.sum(axis=1) / other.sum(axis=1)),
}


@pytest.mark.parametrize("draws", [0, 10, 50, 200])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_few_draws_and_batches_cover_as_well_as_many(statistic: str, draws: int) -> None:
    """95 % nominal, 12 to 120 samples: at least 93 % over all, at every number of draws, and in batches (0)."""
    truth, value = STATISTICS[statistic]
    random = np.random.default_rng(8)
    held = trials = 0
    for n in (12, 40, 120):
        for seed in range(500):
            one, other = random.normal(0.02, 0.1, n), random.integers(1, 10, n)
            estimate = float(value(one[None], other[None])[0])
            if draws:
                picks, size = random.integers(0, n, (draws, n)), float(n)
                drawn = value(one[picks], other[picks])
            else:
                batches = _batches(n, seed)
                size = n / len(batches)
                drawn = np.concatenate([value(one[None, batch], other[None, batch]) for batch in batches])
            found = _standard_errors(drawn, estimate, n, 0.95, grouped=False, widest=math.inf, size=size)
            held += found.low <= truth <= found.high
            trials += 1
    assert held / trials >= 0.93


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=11, max_size=60), st.integers(0, 2))
def test_an_undefined_draw_never_narrows_an_interval(values: list[float], undefined: int) -> None:
    drawn = np.asarray([*values, *values])
    whole = _standard_errors(drawn, 0.0, 30, 0.95, grouped=False, widest=2.0, size=30)
    drawn[:undefined] = np.nan
    found = _standard_errors(drawn, 0.0, 30, 0.95, grouped=False, widest=2.0, size=30)
    rest = _standard_errors(drawn[undefined:], 0.0, 30, 0.95, grouped=False, widest=2.0, size=30)
    assert (undefined == 0) == (found.method == whole.method)
    assert found.high >= rest.high * (1 - 0.05) - 1e-12
