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


def reference(
    simulator: Simulator, numbers: QuantisationState, frames: Frames, check: Callable[[], None]
) -> list[Arrays]:
    """Return the outputs of the float model for every batch of ``frames``."""
    fixed = simulator.feeds(numbers)
    outputs: list[Arrays] = []
    for feeds in frames:
        check()
        outputs.append(simulator.run({**fixed, **feeds}))
    return outputs


def measure(
    simulator: Simulator,
    numbers: QuantisationState,
    frames: Frames,
    expected: Sequence[Arrays],
    check: Callable[[], None],
) -> Distance:
    """Run ``frames`` with ``numbers`` and return how far the outputs are from ``expected``."""
    fixed = simulator.feeds(numbers)
    tally = Tally()
    for feeds, right in zip(frames, expected, strict=False):
        check()
        tally.add(right, simulator.run({**fixed, **feeds}))
    return tally.distance()


class Tally:
    """Adds up noise, signal and KL over batches."""

    def __init__(self) -> None:
        self._signal: dict[str, float] = {}
        self._runs: dict[str, list[tuple[float, float]]] = {}
        self._probabilities: dict[str, bool] = {}

    def add(self, right: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> None:
        """Count one batch; outputs that aren't numbers (strings) are left out."""
        for name, expected in right.items():
            if expected.dtype.kind not in "fiub" or expected.size == 0:
                continue
            r, g = expected.astype(np.float64), got[name].astype(np.float64)
            g = np.where(np.isfinite(g), g, np.finfo(np.float32).max)
            # What is infinite in float (a masked place) has no distance.
            said = np.isfinite(r)
            r, g = np.where(said, r, 0.0), np.where(said, g, 0.0)
            probabilities = self._probabilities.get(name, True) and _are_probabilities(r)
            self._probabilities[name] = probabilities
            self._signal[name] = self._signal.get(name, 0.0) + float(np.sum(r**2))
            noise, kl = float(np.sum((g - r) ** 2)), _kl(r, g) if probabilities else 0.0
            self._runs.setdefault(name, []).append((noise, kl))

    def distance(self) -> Distance:
        """Return the mean over what was counted."""
        noises: list[NDArray[np.float64]] = []
        kls: list[NDArray[np.float64]] = []
        for name, runs in self._runs.items():
            table = np.array(runs)
            noises.append(table[:, 0] * len(table) / max(self._signal[name], 1e-30))
            if self._probabilities[name]:
                kls.append(table[:, 1])
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
