"""How far 8-bit outputs are from the float ones: one number per trial, zero is perfect."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from edgebuild.techniques.quantise.samples import Frames
    from edgebuild.techniques.quantise.simulator import Numbers, Simulator

    Arrays = dict[str, NDArray[Any]]

#: Rows that add up to one within this are probabilities.
PROBABILITY_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Noise-to-signal power ratio averaged over the outputs, and the mean KL in nats where an output is a probability."""

    noise: float
    kl: float | None = None

    @property
    def total(self) -> float:
        """What choices minimise. Both terms are quadratic in a small error, and zero for none."""
        return self.noise + (self.kl or 0.0)

    @property
    def sqnr_db(self) -> float:
        """The noise as signal-to-quantisation-noise ratio in dB; infinite without noise."""
        return math.inf if self.noise == 0 else -10 * math.log10(self.noise)


def reference(simulator: Simulator, numbers: Numbers, frames: Frames, check: Callable[[], None]) -> list[Arrays]:
    """Return the outputs of the float model for every batch of ``frames``."""
    fixed = simulator.feeds(numbers)
    outputs: list[Arrays] = []
    for feeds in frames:
        check()
        outputs.append(simulator.run({**fixed, **feeds}))
    return outputs


def measure(
    simulator: Simulator, numbers: Numbers, frames: Frames, expected: Sequence[Arrays], check: Callable[[], None]
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
        self._noise: dict[str, float] = {}
        self._signal: dict[str, float] = {}
        self._kl: dict[str, float] = {}
        self._rows: dict[str, int] = {}

    def add(self, right: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> None:
        """Count one batch; outputs that aren't numbers of a kind with a distance (strings) are left out."""
        for name, expected in right.items():
            if expected.dtype.kind not in "fiub" or expected.size == 0:
                continue
            r, g = expected.astype(np.float64), got[name].astype(np.float64)
            if not np.isfinite(g).all():
                g = np.where(np.isfinite(g), g, np.finfo(np.float32).max)
            self._noise[name] = self._noise.get(name, 0.0) + float(np.sum((g - r) ** 2))
            self._signal[name] = self._signal.get(name, 0.0) + float(np.sum(r**2))
            if _are_probabilities(r):
                self._kl[name] = self._kl.get(name, 0.0) + _kl(r, g)
                self._rows[name] = self._rows.get(name, 0) + r.size // r.shape[-1]

    def distance(self) -> Distance:
        """Return the mean over what was counted."""
        ratios = [noise / max(self._signal[name], 1e-30) for name, noise in self._noise.items()]
        kls = [kl / self._rows[name] for name, kl in self._kl.items()]
        return Distance(noise=float(np.mean(ratios)) if ratios else 0.0, kl=float(np.mean(kls)) if kls else None)


def _are_probabilities(x: NDArray[Any]) -> bool:
    return bool(
        x.ndim >= 2 and x.shape[-1] > 1 and x.min() >= 0 and np.abs(x.sum(axis=-1) - 1).max() < PROBABILITY_TOLERANCE
    )


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    tiny = 1e-12
    q = np.maximum(q, tiny)
    return float(np.sum(np.where(p > 0, p * np.log(np.maximum(p, tiny) / q), 0.0)))
