"""What launches say: summaries, comparisons, how fine they resolve, and the order that launches are made in. Pure.

Launches, not samples, carry the variance: every statement here is about medians of launches. Effects are log-ratios of
candidate over baseline, so -0.03 is about 3 % faster.
"""

from __future__ import annotations

import math
import random
import re
import statistics as stdlib
from typing import TYPE_CHECKING, Any, Literal

from edgebuild.core.measurement import Comparison, LatencySummary, Launch, Percentile, ThroughputSummary
from edgebuild.errors import Disturbed
from edgebuild.measuring.distributions import chi_squared_spread, normal_below, t_quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgebuild.measuring.protocols import Protocol

#: The percentiles of a summary.
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
#: An effect must be larger than this to be called better or worse.
PRACTICAL_EFFECT = 0.01
#: Equivalent means that the interval lies inside ± this.
EQUIVALENCE = 0.02
#: The most launches that are ever asked for.
MAX_LAUNCHES = 1_000

_OUTLIER_IQRS = 3.0


def needed_n(percentile: float, confidence: float = 0.99) -> int:
    """Return the number of samples below which a percentile (0 < p < 100) must not be printed.

    The smallest n at which, with ``confidence``, at least two samples lie beyond the percentile: two, because one alone
    may be an accident. Gives MLPerf's early-stopping minima: p50 11, p90 64, p95 130, p99 662, p99.9 6,636.
    """
    below = percentile / 100
    miss = 1 - confidence

    def allowed(n: int) -> bool:
        return below**n + n * (1 - below) * below ** (n - 1) <= miss

    high = 2
    while not allowed(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if allowed(middle) else (middle, high)
    return high


def summarise(
    launches: Sequence[Launch], samples: Callable[[Launch], NDArray[np.int64]], *, batch: int = 1
) -> LatencySummary:
    """Return the summary of one arm's launches; ``samples(launch)`` gives its raw latencies in ns.

    Only valid launches count. Point: the median of launch medians (of launch means where the artifact ends early).
    Interval: 95 %, t on their logarithms, from two launches on. Percentiles: nearest rank over the samples of all
    launches together. Samples beyond 3 interquartile ranges from the quartiles of their launch are counted and kept.
    ``spread``: standard deviation of the log-medians. Throughput: ``batch`` over the mean latency. Raises
    ``Disturbed`` when no launch is valid.
    """
    import numpy as np

    valid = _valid(launches)
    raw = [np.asarray(samples(launch)) for launch in valid]
    middle = np.mean if valid[0].exits else np.median
    medians_ms = [float(middle(one)) / 1e6 for one in raw]
    interval = _log_interval(medians_ms, 0.95)
    starts_s = [_cold_start_s(launch) for launch in valid]
    decodes_s = [launch.decode_s for launch in valid if launch.decode_s is not None]
    pooled = np.sort(np.concatenate(raw))
    return LatencySummary(
        launches=len(valid),
        invalid_launches=len(launches) - len(valid),
        point_ms=stdlib.median(medians_ms),
        low_ms=interval and interval[0],
        high_ms=interval and interval[1],
        percentiles=tuple(_percentile(pooled, p) for p in PERCENTILES),
        throughput_per_s=batch * 1e9 / float(pooled.mean()),
        load_ms=1e3 * stdlib.median(launch.load_s for launch in valid),
        decode_ms=1e3 * stdlib.median(decodes_s) if decodes_s else None,
        decoded_bytes=valid[0].decoded_bytes,
        first_inference_ms=1e3 * stdlib.median(launch.first_inference_s for launch in valid),
        cold_start_ms=1e3 * stdlib.median(s for s in starts_s if s is not None) if any(starts_s) else None,
        outliers=sum(_outliers(one) for one in raw),
        spread=stdlib.stdev(map(math.log, medians_ms)) if len(valid) > 1 else None,
        exits=_shares(valid),
    )


def _shares(launches: Sequence[Launch]) -> tuple[tuple[str, float], ...]:
    """Return the share of all inferences that ended at each exit."""
    counts: dict[str, int] = {}
    for name, count in (pair for launch in launches for pair in launch.exits):
        counts[name] = counts.get(name, 0) + count
    total = sum(counts.values())
    return tuple((name, count / total) for name, count in counts.items())


def summarise_throughput(
    launches: Sequence[Launch], samples: Callable[[Launch], NDArray[np.int64]], *, batch: int = 1
) -> ThroughputSummary:
    """Return the summary of one arm's launches with several requests in flight; only valid launches count.

    ``samples(launch)`` gives the starts, then the ends of all its calls in ns. Raises ``Disturbed`` when no launch is
    valid.
    """
    import numpy as np

    valid = _valid(launches)
    rates = [batch * launch.per_s for launch in valid if launch.per_s]
    interval = _log_interval(rates, 0.95)
    halves = [np.asarray(samples(launch)).reshape(2, -1) for launch in valid]
    pooled = np.sort(np.concatenate([ends - starts for starts, ends in halves]))
    return ThroughputSummary(
        launches=len(valid),
        invalid_launches=len(launches) - len(valid),
        requests=valid[0].requests or 1,
        concurrent=bool(valid[0].concurrent),
        per_s=stdlib.median(rates),
        low_per_s=interval and interval[0],
        high_per_s=interval and interval[1],
        latencies=tuple(_percentile(pooled, p) for p in PERCENTILES),
        spread=stdlib.stdev(map(math.log, rates)) if len(rates) > 1 else None,
    )


def _valid(launches: Sequence[Launch]) -> list[Launch]:
    valid = [launch for launch in launches if launch.valid and launch.count]
    if not valid:
        reasons = disturbances(launches)
        raise Disturbed(
            f"none of {len(launches)} launches counts" + (f": {reasons}" if reasons else ""),
            hint="repeat it when the machine is quieter",
        )
    return valid


def disturbances(launches: Iterable[Launch]) -> str:
    """Return why launches don't count, each kind of reason once, however its figures differ from launch to launch."""
    kinds: dict[str, str] = {}
    for reason in sorted({reason for launch in launches for reason in launch.invalid}):
        kinds.setdefault(re.sub(r"\d[\d.,]*", "", reason), reason)
    return "; ".join(kinds.values())


def _cold_start_s(launch: Launch) -> float | None:
    """Process start to the end of the first inference."""
    if launch.start_s is None:
        return None
    return launch.start_s + launch.import_s + launch.load_s + launch.first_inference_s


def _log_interval(values: Sequence[float], level: float) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    logs = [math.log(value) for value in values]
    half = t_quantile((1 + level) / 2, len(logs) - 1) * stdlib.stdev(logs) / math.sqrt(len(logs))
    # Centred on the reported point, so that the interval always holds it.
    centre = math.log(stdlib.median(values))
    return math.exp(min(centre, stdlib.fmean(logs) - half)), math.exp(max(centre, stdlib.fmean(logs) + half))


def _percentile(pooled: NDArray[Any], p: float) -> Percentile:
    needs_n = needed_n(p)
    # The epsilon keeps 99.9 % of 10,000 from becoming the 9,991st sample by floating point.
    rank = max(1, math.ceil(len(pooled) * p / 100 - 1e-9))
    return Percentile(p=p, value_ms=float(pooled[rank - 1]) / 1e6 if len(pooled) >= needs_n else None, needs_n=needs_n)


def _outliers(samples: NDArray[Any]) -> int:
    import numpy as np

    low, high = np.percentile(samples, [25, 75])
    fence = _OUTLIER_IQRS * (high - low)
    return int(np.count_nonzero((samples < low - fence) | (samples > high + fence)))


def compare_launches(candidate: Sequence[Launch], baseline: Sequence[Launch], protocol: Protocol) -> Comparison | None:
    """Compare the launches of two arms of one session; a protocol is judged as having the looks that it may take."""
    looks = protocol.looks
    look = 1 + sum(min(len(candidate), len(baseline)) > count for count in looks[:-1])
    return compare(paired_medians(candidate, baseline), look=look, looks=len(looks))


def paired_medians(candidate: Sequence[Launch], baseline: Sequence[Launch]) -> tuple[tuple[float, float], ...]:
    """Return (candidate, baseline) launch medians in ns of the rounds in which both launches are valid.

    With several requests in flight it is the time per completed call. The n-th launch of either arm belongs to round n.
    Where both took bursts in turn, they are held against each other turn by turn (see ``_cost_against``).
    """
    return tuple(
        (_cost_against(one, other), other.cost_ns)
        for one, other in zip(candidate, baseline, strict=False)
        if one.valid and other.valid and one.cost_ns and other.cost_ns
    )


def _cost_against(one: Launch, other: Launch) -> float:
    """Return what ``one`` cost as seen next to ``other``, in ns: by the midmean of their turns' log-ratios.

    The mean of the middle half of the turns: neither a disturbed turn moves it nor a machine that is slow for a while.
    """
    if not one.burst_ns or len(one.burst_ns) != len(other.burst_ns) or not all((*one.burst_ns, *other.burst_ns)):
        return one.cost_ns
    ratios = sorted(math.log(left / right) for left, right in zip(one.burst_ns, other.burst_ns, strict=True))
    quarter = len(ratios) // 4
    return other.cost_ns * math.exp(stdlib.fmean(ratios[quarter : len(ratios) - quarter]))


def compare(pairs: Sequence[tuple[float, float]], *, look: int = 1, looks: int = 1) -> Comparison | None:
    """Return how the candidate compares with the baseline; ``pairs`` are (candidate, baseline) launch medians.

    ``None`` below two pairs: nothing can be said.

    Better or worse: the 95 % interval of the mean paired log-ratio excludes 0 and the effect is beyond 1 %. Else
    equivalent: the 90 % interval lies within ± 2 %. Else inconclusive. Where further looks may pool further launches,
    each says how many there may be (``looks``) and they share the 5 % and the 10 %, so that all together err no more
    often than one.
    ``low``/``high`` are the bounds of the first of these intervals.
    Source: paired t-test; two one-sided tests for equivalence (Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657).
    """
    if look > looks:
        raise ValueError(f"look {look} of {looks}")
    if len(pairs) < 2:
        return None
    ratios = [math.log(candidate / baseline) for candidate, baseline in pairs]
    effect = stdlib.fmean(ratios)
    spread = stdlib.stdev(ratios)
    error, degrees = spread / math.sqrt(len(ratios)), len(ratios) - 1
    half = t_quantile((1 + _level(looks)) / 2, degrees) * error
    half_equivalent = t_quantile(_level(looks), degrees) * error
    outcome: Literal["better", "worse", "equivalent", "inconclusive"] = "inconclusive"
    if abs(effect) > half and abs(effect) > PRACTICAL_EFFECT:
        outcome = "better" if effect < 0 else "worse"
    elif abs(effect) + half_equivalent <= EQUIVALENCE:
        outcome = "equivalent"
    return Comparison(
        outcome=outcome,
        effect=effect,
        low=effect - half,
        high=effect + half,
        pairs=len(ratios),
        look=look,
        resolution=resolution(spread, len(ratios), looks=looks),
    )


def _level(looks: int) -> float:
    return 1 - 0.05 / looks


def power(effect: float, spread: float, n: int, *, looks: int = 1) -> float:
    """Return the probability that ``compare`` calls a true effect of that size and sign better or worse.

    ``spread`` is the standard deviation of the paired log-ratios, ``n`` >= 2 the number of pairs. It asks for both the
    paired t-test and an observed effect beyond 1 %. The estimated spread is integrated over its chi distribution.
    """
    import numpy as np

    if spread == 0:
        return float(abs(effect) > PRACTICAL_EFFECT)
    error = spread / math.sqrt(n)
    estimated = np.sqrt(chi_squared_spread(n - 1, 400) / (n - 1)) * error
    threshold = np.maximum(PRACTICAL_EFFECT, t_quantile((1 + _level(looks)) / 2, n - 1) * estimated)
    return float(normal_below((abs(effect) - threshold) / error).mean())


def resolution(spread: float, n: int, wanted: float = 0.9, *, looks: int = 1) -> float:
    """Return the smallest effect that ``n`` >= 2 pairs find with probability ``wanted``; infinite below 2 pairs."""
    if n < 2:
        return math.inf
    low, high = PRACTICAL_EFFECT, PRACTICAL_EFFECT * 2
    while power(high, spread, n, looks=looks) < wanted:
        low, high = high, high * 2
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, spread, n, looks=looks) >= wanted else (middle, high)
    return high


def launches_needed(effect: float, spread: float, wanted: float = 0.9, *, looks: int = 1) -> int | None:
    """Return the number of pairs that find ``effect`` with probability ``wanted``.

    ``None`` where the effect is too small to be called a difference (1 %) or more than 1,000 pairs would be needed.
    """
    if abs(effect) <= PRACTICAL_EFFECT or power(effect, spread, MAX_LAUNCHES, looks=looks) < wanted:
        return None
    low, high = 1, MAX_LAUNCHES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, spread, middle, looks=looks) >= wanted else (middle, high)
    return high


def order(arms: Sequence[str], rounds: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Return the order of launches: ``rounds`` rounds, each holding every arm once; the same for the same seed.

    Two arms: blocks AB BA or BA AB by a coin, so that linear drift cancels. More: the rows of a Williams design with
    arms and rows shuffled, a fresh one as often as needed; within the rounds of one whole design every arm directly
    follows every other equally often.
    Source: Williams, Australian Journal of Scientific Research A 2 (1949) 149-168.
    """
    coin = random.Random(seed)  # noqa: S311 - an order of launches, no secret
    result: list[tuple[str, ...]] = []
    while len(result) < rounds:
        shuffled = coin.sample(list(arms), len(arms))
        rows = [tuple(shuffled[i] for i in row) for row in williams(len(arms))]
        result += rows if len(arms) < 3 else coin.sample(rows, len(rows))
    return tuple(result[:rounds])


def williams(k: int) -> tuple[tuple[int, ...], ...]:
    """Return the rows of a Williams design of ``k`` arms: k rows for even k, 2k for odd k (a square and its mirror)."""
    first = [i // 2 if i % 2 == 0 else k - (i + 1) // 2 for i in range(k)]
    square = tuple(tuple((arm + shift) % k for arm in first) for shift in range(k))
    return square if k % 2 == 0 or k == 1 else square + tuple(row[::-1] for row in square)
