"""What samples that behave alike leave open: by the exact binomial interval, by simulation, and for every metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgebuild.core.budget import Budget
from edgebuild.core.verdict import Outcome
from edgebuild.judging.drops import Pair, PairedDrop, paired_drop
from edgebuild.judging.enough import least
from edgebuild.judging.intervals import level_for_opening
from edgebuild.judging.judge import Evaluated, judge
from edgebuild.judging.metrics import Metric, named_metric
from edgebuild.judging.own_metrics import by_samples, custom
from edgebuild.judging.pace import Pace
from edgebuild.judging.resampling import bootstrap_mean
from edgebuild.judging.unseen import Unseen, least_samples, nothing_moved, unseen

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def own_mean(scale: tuple[float, float] | None = (0.0, 1.0)) -> Metric:
    return custom(lambda outputs, _: outputs["y"].mean(), name="m:mean", direction="maximise", scale=scale)


def combined_mean() -> Metric:
    return by_samples(
        lambda outputs, _: outputs["y"],
        lambda entries: entries.mean(),
        name="m:mean",
        direction="maximise",
        scale=(0.0, 1.0),
    )


def exact(count: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson's interval by scipy, which shares no code with ours."""
    found = stats.binomtest(count, of).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def zero_or_one(n: int, lost: int, metric: Metric, *, copies: int = 1) -> PairedDrop:
    """All right with the reference, ``lost`` wrong with the artifact; perhaps in groups of copies."""
    right = np.ones(n)
    kept = np.random.default_rng(n + lost).permutation(np.arange(n) >= lost).astype(float)
    groups = [f"g{i // copies}" for i in range(n)] if copies > 1 else None
    pair = Pair(reference={"y": right}, artifact={"y": kept}, targets=right, groups=groups)
    return paired_drop(pair, metric, level=0.95, seed=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 100), st.data(), st.sampled_from([own_mean, combined_mean]))
def test_no_interval_of_a_share_is_narrower_than_the_exact_one(
    n: int, data: st.DataObject, make: Callable[[], Metric]
) -> None:
    lost = data.draw(st.integers(0, n))
    found = zero_or_one(n, lost, make()).interval
    low, high = exact(lost, n)
    assert found.low <= low + 1e-9
    assert found.high >= high - 1e-9


@pytest.mark.parametrize("n", [300, 1_000, 3_000])
@pytest.mark.parametrize("lost", [0, 1, 3, 10, 30, 100])
def test_pools_of_samples_say_nearly_the_same(n: int, lost: int) -> None:
    """Only a hundred pools are looked at; where half of them hold a change, resampling is near the exact one."""
    found = zero_or_one(n, lost, combined_mean()).interval
    assert found.high >= exact(lost, n)[1] * (1 - 0.05)
    assert found.high <= exact(lost, n)[1] * (1 + 0.15)


@settings(max_examples=60, deadline=None)
@given(st.integers(11, 120), st.integers(0, 1_000), st.floats(1e-6, 10))
def test_drops_that_vary_leave_the_interval_as_it_was(n: int, seed: int, spread: float) -> None:
    drops = np.random.default_rng(seed).normal(0, spread, n)
    assert unseen(drops, np.ones(n), 1.0) is None
    assert "narrower" not in bootstrap_mean(drops, None, level=0.95, seed=0, span=1.0).method


@pytest.mark.parametrize("span", [1.0, 20.0])
def test_equal_drops_say_as_little_as_none(span: float) -> None:
    none, equal = (
        bootstrap_mean(np.full(50, value), None, level=0.95, seed=0, span=span) for value in (0.0, 0.1 * span)
    )
    assert none.high == pytest.approx(exact(0, 50)[1] * span)
    assert equal.high - 0.1 * span == pytest.approx(none.high)
    assert "not narrower than 0 of 50 samples" in none.method


def test_many_samples_without_a_change_leave_little_open() -> None:
    assert nothing_moved(1_000, 1.0).half(0.95) < 0.004
    assert nothing_moved(10_000, 1.0).half(0.95) < 0.0004


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 2_000), st.integers(0, 8), st.floats(0.01, 1))
def test_small_changes_leave_less_open_than_large_ones_and_than_none(n: int, moved: int, size: float) -> None:
    drops = np.zeros(n)
    drops[:moved] = size
    found, whole = unseen(drops, np.ones(n), 1.0), unseen((drops > 0).astype(float), np.ones(n), 1.0)
    assert found is not None
    assert whole is not None
    assert found.half(0.95) <= whole.half(0.95) + 1e-12
    assert found.size <= 1 + 1e-12
    assert whole.half(0.95) >= nothing_moved(n, 1.0).half(0.95) - 1e-12


def test_what_is_undefined_alone_counts_for_nothing() -> None:
    drops = np.array([0.0, np.nan, 0.0, 0.0, np.nan])
    found = unseen(drops, np.full(5, 10.0), 1.0)
    assert found is not None
    assert found.half(0.95) == pytest.approx(nothing_moved(30, 1.0).half(0.95))
    assert unseen(np.array([0.0, np.nan]), np.ones(2), 1.0) is None


@pytest.mark.parametrize("level", [0.95, 0.975])
@pytest.mark.parametrize("share", [0.005, 0.01, 0.02, 0.1])
def test_the_least_number_is_that_of_the_bound(share: float, level: float) -> None:
    needed = least_samples(share=share, level=level)
    assert nothing_moved(needed, 1.0).half(level) <= share + 1e-9
    assert nothing_moved(needed - 1, 1.0).half(level) > share
    assert 10 + nothing_moved(10, 3.0).needed(room=3 * share, level=level) == pytest.approx(needed, abs=1)


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 100), st.integers(0, 5), st.floats(0.001, 0.5), st.floats(0.01, 1))
def test_needed_samples_are_enough_and_somewhat_fewer_are_not(n: int, moved: int, room: float, size: float) -> None:
    found = Unseen(samples=n, pools=n, moved=moved, size=size)
    more = found.needed(room=room, level=0.95)

    def half(total: float) -> float:
        return Unseen(samples=total, pools=total, moved=moved * total / n, size=size).half(0.95)

    assert half(n + more) <= room + 1e-9
    assert not more or half(n + more - 2) > room


@pytest.mark.parametrize("size", [1.0, 0.3])
def test_rare_failures_are_covered_where_resampling_alone_would_not(size: float) -> None:
    """1 % of samples lose ``size``, 100 are seen: in 37 % of sets none is among them."""
    random, trials = np.random.default_rng(11), 400
    below = alone = 0
    for seed in range(trials):
        drops = np.where(random.random(100) < 0.01, size, 0.0)
        below += bootstrap_mean(drops, None, level=0.95, seed=seed, span=1.0).high < 0.01 * size
        alone += bootstrap_mean(drops, None, level=0.95, seed=seed, span=0.0).high < 0.01 * size
    assert below / trials <= 0.025
    assert alone / trials > 0.3


@pytest.mark.parametrize("percent", [0.5, 1, 2, 5, 10])
def test_the_table_of_the_docs_is_what_the_code_says(percent: float) -> None:
    numbers = [
        least(percent / 100, proportion=proportion, level=level_for_opening(opening))
        for opening in (1, 2)
        for proportion in (True, False)
    ]
    row = f"| {percent:g} | {' | '.join(f'{number:,}' for number in numbers)} |"
    assert row in (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(), row


BOXES = np.array([[0.0, 0, 10, 10, 1.0, 0]])


def copies(value: Any, n: int) -> NDArray[Any]:
    each = np.empty(n, dtype=object)
    each[:] = [value] * n
    return each


def scores(n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    labels = np.arange(n) % 4
    return np.eye(4)[labels], labels


def numbers(n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    wanted = np.linspace(1, 2, n)
    return wanted + 0.1, wanted


#: A metric, what answers it for n samples, and a budget that is 2 % of its span.
UNCHANGED: dict[str, tuple[Callable[[int], tuple[NDArray[Any], NDArray[Any]]], Budget]] = {
    "f1_macro": (scores, Budget(points=2)),
    "auroc": (scores, Budget(points=2)),
    "mean_iou": (lambda n: (np.ones((n, 1, 4, 4)), np.ones((n, 4, 4), dtype=int)), Budget(points=2)),
    "cer": (lambda n: (copies("abcd", n), copies("abcx", n)), Budget(points=2)),
    "wer": (lambda n: (copies("ab cd", n), copies("ab cx", n)), Budget(points=2)),
    "box_f1": (lambda n: (copies(BOXES, n), copies(BOXES[:, [0, 1, 2, 3, 5]], n)), Budget(points=2)),
    "mae": (numbers, Budget(relative=0.02)),
    "rmse": (numbers, Budget(relative=0.02)),
    "spearman": (numbers, Budget(relative=0.02)),
    "callable": (numbers, Budget(relative=0.02)),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_ten_unchanged_samples_prove_nothing_and_enough_of_them_do(name: str) -> None:
    data, budget = UNCHANGED[name]
    metric = own_mean(None) if name == "callable" else named_metric(name)

    def verdict(n: int) -> tuple[Outcome, str]:
        output, targets = data(n)
        found = judge(
            Evaluated(reference={"y": output}, artifact={"y": output.copy()}, targets=targets),
            metric,
            budget,
            split="validation",
        )
        return found.outcome, " ".join(found.reasons)

    needed = least_samples(share=0.02, level=0.95)
    outcome, said = verdict(10)
    assert outcome is Outcome.INCONCLUSIVE
    assert f"about {needed - 10} more samples needed" in said
    assert verdict(needed - 2)[0] is Outcome.INCONCLUSIVE
    assert verdict(needed)[0] is Outcome.ACCEPTED


def test_batches_that_do_not_differ_are_no_certainty() -> None:
    """A callable so slow that only batches are scored."""
    now = 0.0

    def slow(outputs: Any, targets: Any) -> float:
        nonlocal now
        now += 0.1 * len(targets)
        return float(outputs["y"].mean())

    metric = custom(slow, name="m:slow", direction="maximise", scale=(0.0, 1.0))
    same = {"y": np.ones(40)}
    found = paired_drop(
        Pair(reference=same, artifact=same, targets=np.ones(40)),
        metric,
        level=0.95,
        seed=0,
        pace=Pace(clock=lambda: now),
    )
    assert found.interval.method.startswith("paired batches")
    assert found.interval.high == pytest.approx(exact(0, 40)[1])
