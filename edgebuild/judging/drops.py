"""The paired drop of a metric from reference to artifact, with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.core.chunks import let_go
from edgebuild.errors import DataError
from edgebuild.judging.intervals import (
    Interval,
    group_codes,
    hull,
    needed_pairs,
    needed_samples,
    paired_proportion,
)
from edgebuild.judging.pace import Pace
from edgebuild.judging.resampling import MAX_DRAWS, bootstrap, bootstrap_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.judging.arrays import Floats, Ints, Labels, Outputs
    from edgebuild.judging.metrics import Metric, Scorer

#: Below this many samples (or groups, where there are some) nothing is certified.
MIN_UNITS = 10


@dataclass(frozen=True, kw_only=True)
class PairedDrop:
    """A drop in the metric's units, positive where the artifact is worse, and what its interval rests on.

    ``lost``/``gained`` count the samples that only the reference/artifact gets right, where the metric is a proportion.
    """

    samples: int
    groups: int | None
    reference: float
    artifact: float
    drop: float
    interval: Interval
    level: float
    lost: int | None = None
    gained: int | None = None

    @property
    def units(self) -> int:
        """What was resampled: groups where there are some, else samples."""
        return self.samples if self.groups is None else self.groups

    def more_samples(self, budget: float) -> int | None:
        """Return about how many more samples would certify ``budget`` if the drop stayed as it is; else ``None``."""
        if self.groups is None and self.lost is not None and self.gained is not None:
            return needed_pairs(
                lost=self.lost, gained=self.gained, samples=self.samples, budget=budget, level=self.level
            )
        if self.interval.unseen is not None and self.drop < budget:
            return self.interval.unseen.needed(room=budget - self.drop, level=self.level)
        return needed_samples(drop=self.drop, high=self.interval.high, budget=budget, samples=self.samples)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Outputs of reference and artifact on identical samples, with targets and (some samples') groups."""

    reference: Outputs
    artifact: Outputs
    targets: NDArray[Any]
    groups: Labels | None = None

    def part(self, rows: NDArray[np.intp]) -> Pair:
        """Return the same of some samples only."""
        reference, artifact = _rows(self.reference, rows), _rows(self.artifact, rows)
        return Pair(
            reference=reference,
            artifact=artifact,
            targets=self.targets[rows],
            groups=None if self.groups is None else [self.groups[row] for row in rows],
        )


def _rows(outputs: Outputs, rows: NDArray[np.intp]) -> Outputs:
    found = {name: array[rows] for name, array in outputs.items()}
    let_go(*outputs.values())
    return found


def paired_drop(pair: Pair, metric: Metric, *, level: float, seed: int, pace: Pace | None = None) -> PairedDrop:
    """Return the drop of ``metric`` and its interval.

    A proportion without groups: Tango's score interval. A mean of per-sample scores: paired bootstrap through the sums
    of the groups; for a proportion never narrower than Tango's. Any other metric: paired bootstrap of the metric
    itself, at ``pace``. None is narrower than samples of which hardly any changes allow (``judging/unseen.py``).
    Raises ``DataError`` where the metric can't be computed on all samples.
    """
    reference = metric.per_sample(pair.reference, pair.targets)
    artifact = metric.per_sample(pair.artifact, pair.targets)
    if reference is None or artifact is None:
        return _whole(pair, metric, level, seed, pace)
    return score_drop(
        reference,
        artifact,
        pair.groups,
        sign=1 if metric.direction == "maximise" else -1,
        span=metric.span(float(reference.mean()), float(artifact.mean())),
        level=level,
        seed=seed,
    )


def score_drop(
    reference: Floats, artifact: Floats, groups: Labels | None, *, sign: int, level: float, seed: int, span: float = 1.0
) -> PairedDrop:
    """Return the drop of the mean of per-sample scores; ``sign`` is 1 where more is better, else -1.

    ``span`` is how far a sample may move it. Default: 1, that of a share.
    """
    codes = group_codes(groups)
    drops = sign * (reference - artifact)
    lost = gained = None
    if _zero_or_one(reference) and _zero_or_one(artifact):
        lost, gained = int((drops > 0).sum()), int((drops < 0).sum())
    interval = None if lost is None or gained is None else paired_proportion(lost, gained, len(drops), level)
    if interval is None or codes is not None:
        resampled = bootstrap_mean(drops, codes, level=level, seed=seed, span=span)
        interval = resampled if interval is None else hull(resampled, interval)
    return PairedDrop(
        samples=len(drops),
        groups=_count(codes),
        reference=float(reference.mean()),
        artifact=float(artifact.mean()),
        drop=float(drops.mean()),
        interval=interval,
        level=level,
        lost=lost,
        gained=gained,
    )


def _whole(pair: Pair, metric: Metric, level: float, seed: int, pace: Pace | None) -> PairedDrop:
    score_reference = metric.prepared(pair.reference, pair.targets)
    score_artifact = metric.prepared(pair.artifact, pair.targets)
    reference = metric.defined(score_reference(None), len(pair.targets))
    pace, own = pace or Pace(), metric.most_draws < MAX_DRAWS
    clock = pace.clock if own else pace.computing
    started = clock()
    artifact = metric.defined(score_artifact(None), len(pair.targets))
    # Of two calls, the later says what both take again: the first may load what the code needs.
    call_s = 2 * (clock() - started)
    codes = group_codes(pair.groups)
    interval = bootstrap(
        lambda counts: metric.drop(score_reference(counts), score_artifact(counts)),
        len(pair.targets),
        codes,
        estimate=metric.drop(reference, artifact),
        level=level,
        seed=seed,
        span=metric.span(reference, artifact),
        widest=math.inf if metric.scale is None else metric.scale[1] - metric.scale[0],
        most=metric.most_draws,
        call_s=call_s,
        batches=own
        and (metric.scale is not None or (pace.too_slow(call_s) and not _grows(score_reference, reference, pair))),
        pace=pace,
        title=f"Judging by {metric.name}",
    )
    return PairedDrop(
        samples=len(pair.targets),
        groups=_count(codes),
        reference=reference,
        artifact=artifact,
        drop=metric.drop(reference, artifact),
        interval=interval,
        level=level,
    )


def _grows(score: Scorer, whole: float, pair: Pair) -> bool:
    """Whether a metric is rather a sum than a mean: half of the samples have less of it, so batches say nothing."""
    try:
        half = score((np.arange(len(pair.targets)) % 2).astype(np.int64))
    except DataError:
        return True
    return not abs(half - whole) < abs(half - whole / 2)


def _zero_or_one(scores: Floats) -> bool:
    return bool(((scores == 0) | (scores == 1)).all())


def _count(codes: Ints | None) -> int | None:
    return None if codes is None else int(codes.max()) + 1
