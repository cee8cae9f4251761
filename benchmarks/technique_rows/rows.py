"""What a row is: one acceptance sentence, run with fixed seeds, and what is claimed of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgebuild.judging.intervals import paired_proportion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

#: Fixed before anything was run. Nobody changes them after looking at a result.
SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A figure with a bound: ``key`` names it in what ``run`` returns, ``bound`` is in the same unit.

    ``at`` is ``most`` or ``least``. ``unit`` follows the figure on the page.
    """

    key: str
    what: str
    at: Literal["most", "least"]
    bound: float
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row. ``run(seed, scratch)`` does all its work anew and may go on with what it left in ``scratch``.

    It returns figures by key: a number, or ``{"value", "low", "high"}`` with the bounds of a paired interval. Only what
    stands in ``claims`` is judged; other figures are shown as they are. Nothing is chosen by looking at test data.
    """

    name: str
    technique: str
    asked: str
    published: str
    data: str
    claims: tuple[Claim, ...]
    run: Callable[[int, Path], Mapping[str, Any]]
    seeds: Sequence[int] = SEEDS


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim over all seeds: ``met`` by the mean, ``certified`` by the mean of the intervals' worse bounds."""

    claim: Claim
    values: tuple[float, ...]
    met: bool
    certified: bool | None
    low: float | None = None
    high: float | None = None
    mean: float = field(default=0.0)

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def judge(claim: Claim, results: Sequence[Mapping[str, Any]]) -> Finding:
    """Return what the seeds' figures make of a claim."""
    figures = [result[claim.key] for result in results]
    values = tuple(float(f["value"] if isinstance(f, dict) else f) for f in figures)
    mean = statistics.fmean(values)

    def holds(value: float) -> bool:
        return value <= claim.bound if claim.at == "most" else value >= claim.bound

    if not all(isinstance(f, dict) for f in figures):
        return Finding(claim=claim, values=values, mean=mean, met=holds(mean), certified=None)
    low = statistics.fmean(float(f["low"]) for f in figures)
    high = statistics.fmean(float(f["high"]) for f in figures)
    certified = holds(high if claim.at == "most" else low)
    return Finding(claim=claim, values=values, mean=mean, met=holds(mean), certified=certified, low=low, high=high)


def contradicts(claim: Claim, result: Mapping[str, Any]) -> bool:
    """Whether one seed alone speaks against a claim, which is about the mean over all seeds.

    A figure with an interval does where all of it lies beyond the bound: on another CPU the same seed is another draw.
    """
    figure = result[claim.key]
    if not isinstance(figure, dict):
        return not judge(claim, [result]).met
    return bool(figure["low"] > claim.bound if claim.at == "most" else figure["high"] < claim.bound)


def points_lost(reference: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return the accuracy that ``other`` loses against ``reference``, in points, with its paired 95 % interval.

    Both say of the same samples whether they were answered rightly.
    """
    lost = int((reference & ~other).sum())
    gained = int((other & ~reference).sum())
    samples = len(reference)
    interval = paired_proportion(lost, gained, samples, 0.95)
    return {"value": 100 * (lost - gained) / samples, "low": 100 * interval.low, "high": 100 * interval.high}


def points_gained(reference: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return the accuracy that ``other`` has more than ``reference``: ``points_lost`` with its sign turned."""
    lost = points_lost(reference, other)
    return {"value": -lost["value"], "low": -lost["high"], "high": -lost["low"]}
