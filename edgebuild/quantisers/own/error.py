"""How far 8-bit outputs are from the float ones: one number per trial, zero is perfect."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from edgebuild.quantisers.own.samples import Frames
    from edgebuild.quantisers.own.simulator import QuantisationState, Simulator

    Arrays = dict[str, NDArray[Any]]

#: Rows that add up to one within this are probabilities.
PROBABILITY_TOLERANCE = 1e-3
#: A gain below 0.2 % is no reason to prefer anything.
WORTHWHILE = 0.998


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Noise-to-signal power ratio averaged over the outputs, and mean KL in nats where one is a probability.

    ``per_run`` holds the sum of both for every run of the model.
    """

    noise: float
    kl: float | None = None
    per_run: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        """What choices minimise. Both terms are quadratic in a small error, and zero for none."""
        return self.noise + (self.kl or 0.0)

    def surely_below(self, other: Distance) -> bool:
        """Whether this is lower than ``other`` on the same runs by more than the runs' own scatter explains.

        One standard error of the paired differences: a choice that helps only a few odd samples is not taken.
        """
        difference = np.array(other.per_run) - np.array(self.per_run)
        scatter = float(difference.std()) / math.sqrt(max(len(difference), 1))
        return self.total < other.total * WORTHWHILE and float(difference.mean()) > scatter

    @property
    def sqnr_db(self) -> float:
        """The noise as signal-to-quantisation-noise ratio in dB; infinite without noise."""
        return math.inf if self.noise == 0 else -10 * math.log10(self.noise)


def measure(
    simulator: Simulator,
    numbers: QuantisationState,
    frames: Frames,
    expected: Sequence[Arrays],
    tick: Callable[[float], None],
) -> Distance:
    """Run ``frames`` with ``numbers`` and return how far the outputs are from ``expected``."""
    tally = Tally()
    for run in simulator.each(numbers, frames, lambda index, outputs: compared(expected[index], outputs)):
        tick(1.0)
        tally.add(run)
    return tally.distance()


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far one output is from what is right, in one run. ``kl`` is None unless both are probabilities."""

    signal: float
    noise: float
    kl: float | None


def compared(right: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> dict[str, Gap]:
    """Return the gap of every output of one run; outputs that aren't numbers (strings) are left out."""
    gaps: dict[str, Gap] = {}
    for name, expected in right.items():
        if expected.dtype.kind not in "fiub" or expected.size == 0:
            continue
        r, g = expected.astype(np.float64), got[name].astype(np.float64)
        g = np.where(np.isfinite(g), g, np.finfo(np.float32).max)
        # What is infinite in float (a masked place) has no distance.
        said = np.isfinite(r)
        r, g = np.where(said, r, 0.0), np.where(said, g, 0.0)
        kl = _kl(r, g) if _are_probabilities(r) else None
        gaps[name] = Gap(signal=float(np.sum(r**2)), noise=float(np.sum((g - r) ** 2)), kl=kl)
    return gaps


class Tally:
    """Adds up noise, signal and KL over runs."""

    def __init__(self) -> None:
        self._gaps: dict[str, list[Gap]] = {}

    def add(self, run: Mapping[str, Gap]) -> None:
        """Count one run."""
        for name, gap in run.items():
            self._gaps.setdefault(name, []).append(gap)

    def distance(self) -> Distance:
        """Return the mean over what was counted."""
        noises: list[NDArray[np.float64]] = []
        kls: list[NDArray[np.float64]] = []
        for gaps in self._gaps.values():
            signal = sum(gap.signal for gap in gaps)
            noises.append(np.array([gap.noise for gap in gaps]) * len(gaps) / max(signal, 1e-30))
            said = [gap.kl for gap in gaps if gap.kl is not None]
            if len(said) == len(gaps):
                kls.append(np.array(said))
        if not noises:
            return Distance(noise=0.0)
        noise = np.mean(noises, axis=0)
        kl = np.mean(kls, axis=0) if kls else np.zeros_like(noise)
        return Distance(
            noise=float(noise.mean()),
            kl=float(kl.mean()) if kls else None,
            per_run=tuple(float(x) for x in noise + kl),
        )


def _are_probabilities(x: NDArray[Any]) -> bool:
    return bool(
        x.ndim >= 2 and x.shape[-1] > 1 and x.min() >= 0 and np.abs(x.sum(axis=-1) - 1).max() < PROBABILITY_TOLERANCE
    )


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Return the mean KL of the rows, in nats."""
    tiny = 1e-12
    terms = np.where(p > 0, p * np.log(np.maximum(p, tiny) / np.maximum(q, tiny)), 0.0)
    rows: int = p.size // p.shape[-1]
    return float(terms.sum()) / rows
