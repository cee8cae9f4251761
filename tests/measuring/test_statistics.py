"""The statistics of launches, against known answers, properties and simulations."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.core.measurement import Comparison, Launch
from edgebuild.errors import DeviceError
from edgebuild.measuring import statistics as s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def compared(pairs: Sequence[tuple[float, float]], **looks: Any) -> Comparison:
    result = s.compare(pairs, **looks)
    assert result is not None
    return result


def launch(index: int, samples: NDArray[np.int64], **changes: Any) -> Launch:
    fields: dict[str, Any] = {
        "index": index,
        "arm": "a",
        "samples": f"{index}.i64",
        "samples_sha256": hashlib.sha256(samples.tobytes()).hexdigest(),
        "count": len(samples),
        "median_ns": int(np.median(samples)),
        "start_s": 0.01,
        "import_s": 0.2,
        "load_s": 0.05,
        "first_inference_s": 0.003,
        "warmup_inferences": 10,
        "settled": True,
    }
    return Launch(**{**fields, **changes})


@pytest.mark.parametrize(("p", "n"), [(50, 11), (90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_minimum_sample_counts_are_mlperfs(p: float, n: int) -> None:
    assert s.needed_n(p) == n


def test_a_summary_by_hand() -> None:
    raw = {i: np.full(100, median, dtype=np.int64) for i, median in enumerate((1_000_000, 2_000_000, 4_000_000))}
    raw[0][:2] = 9_000_000
    launches = [launch(i, samples) for i, samples in raw.items()]
    bad = launch(3, np.full(5, 77, dtype=np.int64), invalid=("throttled",))
    summary = s.summarise([*launches, bad], lambda one: raw[one.index], batch=4)
    assert (summary.launches, summary.invalid_launches) == (3, 1)
    assert summary.point_ms == 2.0
    assert summary.outliers == 2
    assert summary.spread == pytest.approx(math.log(2))
    # t(0.975, 2) = 4.302653: half width 4.302653 * ln 2 / sqrt 3
    assert summary.high_ms == pytest.approx(2 * math.exp(4.302653 * math.log(2) / math.sqrt(3)), rel=1e-6)
    assert summary.low_ms == pytest.approx(2 * math.exp(-4.302653 * math.log(2) / math.sqrt(3)), rel=1e-6)
    assert summary.throughput_per_s == pytest.approx(4 * 300 / (0.098 + 2 * 0.009 + 0.2 + 0.4))
    assert summary.cold_start_ms == pytest.approx(263)
    values = {one.p: one.value_ms for one in summary.percentiles}
    assert values == {50.0: 2.0, 90.0: 4.0, 95.0: 4.0, 99.0: None, 99.9: None}


def test_decoding_is_summed_up_where_there_was_any() -> None:
    raw = np.arange(1, 101, dtype=np.int64) * 1000
    plain = s.summarise([launch(0, raw)], lambda _: raw)
    assert (plain.decode_ms, plain.decoded_bytes) == (None, None)
    launches = [launch(i, raw, decode_s=each, decoded_bytes=64) for i, each in enumerate((0.001, 0.004, 0.002))]
    packed = s.summarise(launches, lambda _: raw)
    assert packed.decode_ms == pytest.approx(2)
    assert packed.decoded_bytes == 64


def test_percentiles_are_nearest_rank_over_all_launches() -> None:
    raw = {0: np.arange(1, 5001, dtype=np.int64) * 1000, 1: np.arange(5001, 10001, dtype=np.int64) * 1000}
    summary = s.summarise([launch(i, samples) for i, samples in raw.items()], lambda one: raw[one.index])
    assert [one.value_ms for one in summary.percentiles] == [5.0, 9.0, 9.5, 9.9, 9.99]


def test_one_launch_has_no_interval() -> None:
    raw = np.full(20, 1_000_000, dtype=np.int64)
    summary = s.summarise([launch(0, raw, start_s=None)], lambda _: raw)
    assert (summary.low_ms, summary.high_ms, summary.spread, summary.cold_start_ms) == (None, None, None, None)


def test_no_valid_launch_is_an_error_that_says_why() -> None:
    raw = np.full(20, 1_000_000, dtype=np.int64)
    with pytest.raises(DeviceError, match="none of 2 launches counts: swap-in"):
        s.summarise([launch(i, raw, invalid=("swap-in",)) for i in range(2)], lambda _: raw)


def test_reasons_that_differ_in_their_figures_are_told_once() -> None:
    raw = np.full(20, 1_000_000, dtype=np.int64)
    busy = [
        launch(i, raw, invalid=(f"waited {share} of the time (at most 0.1)",)) for i, share in enumerate((1.6, 1.7))
    ]
    with pytest.raises(DeviceError) as caught:
        s.summarise([*busy, launch(2, raw, invalid=("swap-in",))], lambda _: raw)
    assert caught.value.message == "none of 3 launches counts: swap-in; waited 1.6 of the time (at most 0.1)"


def test_pairs_skip_rounds_with_an_invalid_launch() -> None:
    raw = np.full(3, 10, dtype=np.int64)
    left = [launch(0, raw), launch(2, raw, invalid=("x",)), launch(4, raw * 3)]
    right = [launch(1, raw * 2), launch(3, raw), launch(5, raw), launch(7, raw)]
    assert s.paired_medians(left, right) == ((10.0, 20.0), (30.0, 10.0))


def test_a_comparison_by_hand() -> None:
    ratios = [-0.05, -0.03, -0.04, -0.06]
    result = compared([(math.exp(r), 1.0) for r in ratios])
    # mean -0.045, sd 0.012910, t(0.975, 3) = 3.182446
    assert result.outcome == "better"
    assert (result.effect, result.low, result.high) == pytest.approx(
        (-0.045, -0.045 - 0.0205426, -0.045 + 0.0205426), abs=1e-6
    )
    assert compared([(math.exp(-r), 1.0) for r in ratios]).outcome == "worse"


@pytest.mark.parametrize(
    ("ratios", "outcome"),
    [
        ([0.008, 0.008001, 0.008002], "equivalent"),  # surely slower, but by less than 1 %
        ([0.011, 0.011001, 0.011002], "worse"),
        ([0.1, -0.1, 0.2], "inconclusive"),
        ([0.0, 0.0, 0.0], "equivalent"),
    ],
)
def test_outcomes(ratios: list[float], outcome: str) -> None:
    assert compared([(math.exp(r), 1.0) for r in ratios]).outcome == outcome


def test_fewer_than_two_pairs_say_nothing() -> None:
    assert s.compare([]) is None
    assert s.compare([(1.0, 2.0)]) is None


def test_two_looks_are_stricter_than_one() -> None:
    pairs = [(math.exp(r), 1.0) for r in (0.05, 0.01, 0.04, 0.001, 0.03)]
    one, two = compared(pairs), compared(pairs, look=1, looks=2)
    assert (one.outcome, two.outcome) == ("worse", "inconclusive")
    assert two.high > one.high
    with pytest.raises(ValueError, match="look 2 of 1"):
        compared(pairs, look=2)


log_ratios = st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(log_ratios)
def test_swapping_the_arms_mirrors_the_comparison(ratios: list[float]) -> None:
    there = compared([(math.exp(r), 1.0) for r in ratios])
    back = compared([(1.0, math.exp(r)) for r in ratios])
    mirrored = {"better": "worse", "worse": "better"}
    assert back.outcome == mirrored.get(there.outcome, there.outcome)
    assert back.effect == pytest.approx(-there.effect, abs=1e-12)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-12)


def drifting_pairs(random: np.random.Generator, effect: float, rounds: int, seed: int) -> list[tuple[float, float]]:
    """One session: launch-to-launch spread 1.5 %, drift of 4 % over the session, in the order that we'd launch in."""
    position, pairs = 0, []
    for arms in s.order(("a", "b"), rounds, seed):
        times = {}
        for arm in arms:
            drift = 0.04 * position / (2 * rounds)
            times[arm] = math.exp(random.normal(0, 0.015) + drift + (effect if arm == "a" else 0))
            position += 1
        pairs.append((times["a"], times["b"]))
    return pairs


@pytest.mark.parametrize("looks", [1, 2])
def test_a_a_under_drift_is_called_different_in_at_most_7_percent(looks: int) -> None:
    random = np.random.default_rng(1)
    false = 0
    for seed in range(400):
        pairs = drifting_pairs(random, 0.0, 10 * looks, seed)
        outcomes = (
            [compared(pairs).outcome]
            if looks == 1
            else [
                compared(pairs[:10], look=1, looks=2).outcome,
                compared(pairs, look=2, looks=2).outcome,
            ]
        )
        false += any(outcome in ("better", "worse") for outcome in outcomes)
    assert false / 400 <= 0.07


def test_the_stated_resolution_is_found_at_the_stated_power_under_drift() -> None:
    random = np.random.default_rng(2)
    effect = s.resolution(0.015 * math.sqrt(2), 10)
    found = [compared(drifting_pairs(random, effect, 10, seed)).outcome == "worse" for seed in range(400)]
    assert np.mean(found) == pytest.approx(0.9, abs=0.04)


def test_power_is_that_of_the_t_test_where_the_practical_effect_does_not_bind() -> None:
    from scipy import stats

    n, spread, effect = 10, 0.05, 0.05
    critical = stats.t.ppf(0.975, n - 1)
    exact = 1 - stats.nct.cdf(critical, n - 1, effect * math.sqrt(n) / spread)
    assert s.power(effect, spread, n) == pytest.approx(exact, abs=0.005)


def test_effects_up_to_one_percent_are_never_resolved() -> None:
    assert s.resolution(0.0, 10) > s.PRACTICAL_EFFECT
    assert s.resolution(1e-6, 50) == pytest.approx(s.PRACTICAL_EFFECT, abs=1e-4)
    assert s.launches_needed(0.01, 0.001) is None
    assert s.launches_needed(0.011, 5.0) is None
    assert s.resolution(0.01, 1) == math.inf


@settings(max_examples=25, deadline=None)
@given(st.floats(0.001, 0.1), st.integers(2, 40), st.sampled_from([1, 2]))
def test_launches_needed_inverts_resolution(spread: float, n: int, looks: Any) -> None:
    effect = s.resolution(spread, n, looks=looks)
    needed = s.launches_needed(effect * 1.0001, spread, looks=looks)
    assert needed is not None
    assert needed <= n
    assert needed == 2 or s.resolution(spread, needed - 1, looks=looks) > effect * 0.999


@given(st.integers(1, 7), st.integers(0, 40), st.integers(0, 1000))
def test_every_round_holds_each_arm_once_and_the_seed_decides(k: int, rounds: int, seed: int) -> None:
    arms = [f"arm{i}" for i in range(k)]
    order = s.order(arms, rounds, seed)
    assert len(order) == rounds
    assert all(sorted(one) == arms for one in order)
    assert order == s.order(arms, rounds, seed)


@given(st.integers(1, 20), st.integers(0, 1000))
def test_two_arms_run_abba(blocks: int, seed: int) -> None:
    order = s.order("ab", 2 * blocks, seed)
    assert all(order[2 * i] == order[2 * i + 1][::-1] for i in range(blocks))


def test_the_coin_falls_both_ways() -> None:
    assert {s.order("ab", 1, seed)[0] for seed in range(20)} == {("a", "b"), ("b", "a")}


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6, 7])
def test_a_williams_design_balances_position_and_carry_over(k: int) -> None:
    rows = s.williams(k)
    times = len(rows) // k
    followed = Counter((row[i], row[i + 1]) for row in rows for i in range(k - 1))
    assert followed == {(a, b): times for a in range(k) for b in range(k) if a != b}
    assert Counter((i, arm) for row in rows for i, arm in enumerate(row)) == {
        (i, arm): times for i in range(k) for arm in range(k)
    }
