"""What the tensors hold: extremes and histograms in one pass over the calibration frames, in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.quantisers.own.arithmetic import BINS, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from edgebuild.quantisers.own.padding import Padding
    from edgebuild.quantisers.own.samples import Frames
    from edgebuild.quantisers.own.simulator import QuantisationState, Simulator

    Arrays = dict[str, NDArray[Any]]
    Ends = tuple[NDArray[Any], NDArray[Any]]

#: Of one tensor in one run, no more values than this are counted; the extremes are of all.
COUNTED = 65536
#: The narrowest bins are 2**LEAST_EXPONENT wide; those of a constant, 2**FINE of it.
LEAST_EXPONENT, FINE = -200, -40


@dataclass(frozen=True, eq=False)
class Spread:
    """The extremes of some values, and how many lie in each bin: bin i begins at (first + i) * 2**exponent.

    Bins begin at multiples of a power of two, and how wide they are follows from the extremes alone. So the sum of two
    spreads is exactly the spread of all their values, in any order.
    """

    low: float
    high: float
    exponent: int
    first: int
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[Any], turn: int = 0) -> Spread | None:
        """Count values, of more than ``COUNTED`` every n-th, others every ``turn``. None where one isn't finite."""
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return None
        exponent = _exponent(low, high)
        first = _bin(low, exponent)
        apart = -(-values.size // COUNTED)
        some = values.reshape(-1)[turn % apart :: apart].astype(np.float64)
        places = np.floor(some * 2.0**-exponent).astype(np.int64) - first
        return cls(low, high, exponent, first, np.bincount(places, minlength=_bin(high, exponent) - first + 1))

    def __add__(self, other: Spread) -> Spread:
        low, high = min(self.low, other.low), max(self.high, other.high)
        exponent = _exponent(low, high)
        first = _bin(low, exponent)
        counts = np.zeros(_bin(high, exponent) - first + 1, np.int64)
        for each in (self, other):
            places = ((each.first + np.arange(len(each.counts))) >> (exponent - each.exponent)) - first
            np.add.at(counts, places, each.counts)
        return Spread(low, high, exponent, first, counts)

    @property
    def histogram(self) -> Histogram:
        """The same as a histogram."""
        width = 2.0**self.exponent
        edges = (self.first * width, (self.first + len(self.counts)) * width)
        return Histogram(low=self.low, high=self.high, counts=self.counts, edges=edges)


def _exponent(low: float, high: float) -> int:
    """Return the least one with which no more than 2 * ``BINS`` bins hold ``low`` and ``high``."""
    reach = max(abs(low), abs(high))
    if reach == 0:
        return LEAST_EXPONENT
    if low == high:
        return max(math.frexp(reach)[1] + FINE, LEAST_EXPONENT)
    exponent = max(math.ceil(math.log2((high - low) / (2 * BINS))), LEAST_EXPONENT)
    while _bin(high, exponent) - _bin(low, exponent) >= 2 * BINS:
        exponent += 1
    return exponent


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """What the model made of some frames.

    ``outputs`` holds the model's outputs batch by batch. ``ill`` names tensors with NaN or infinity, which have no
    range (a mask of -inf is one); ``channels`` the least and the greatest value of every channel of a tensor.
    """

    outputs: tuple[Arrays, ...]
    histograms: Mapping[str, Histogram]
    ill: frozenset[str]
    channels: Mapping[str, Ends]


@dataclass(frozen=True, eq=False)
class _Run:
    outputs: Arrays
    spreads: dict[str, Spread]
    ill: set[str]
    channels: dict[str, Ends]


def observe(
    simulator: Simulator,
    numbers: QuantisationState,
    frames: Frames,
    tick: Callable[[float], None],
    *,
    tensors: tuple[str, ...],
    channels: tuple[str, ...] = (),
    padding: Padding | None = None,
) -> Observation:
    """Run every batch once and reduce what ``tensors`` and ``channels`` hold at once.

    A tensor without elements has the range of zero, and of what has places only those that hold something count.
    ``channels`` have their channels on axis 1, in two dimensions on the last.
    """

    def reduce(turn: int, values: Arrays) -> _Run:
        made = {name: values[name] for name in outputs}
        if padding is not None:
            values = values | {name: padding.live(values[name], values) for name in tensors}
        return _reduced(made, values, turn, tensors, channels)

    masks = () if padding is None else (padding.mask,)

    outputs = simulator.outputs
    made: list[Arrays] = []
    spreads: dict[str, Spread] = {}
    ends: dict[str, Ends] = {}
    ill: set[str] = set()
    for run in simulator.each(numbers, frames, reduce, (*outputs, *tensors, *channels, *masks)):
        tick(1.0)
        made.append(run.outputs)
        ill |= run.ill
        for name, spread in run.spreads.items():
            spreads[name] = spreads[name] + spread if name in spreads else spread
        for name, (low, high) in run.channels.items():
            before = ends.get(name, (low, high))
            ends[name] = np.minimum(before[0], low), np.maximum(before[1], high)
    empty = Histogram(low=0.0, high=0.0, counts=np.zeros(BINS, np.int64))
    found = {name: spreads[name].histogram if name in spreads else empty for name in tensors if name not in ill}
    return Observation(outputs=tuple(made), histograms=found, ill=frozenset(ill), channels=ends)


def _reduced(outputs: Arrays, values: Arrays, turn: int, tensors: tuple[str, ...], channels: tuple[str, ...]) -> _Run:
    run = _Run(outputs, {}, set(), {})
    for name in tensors:
        if not values[name].size:
            continue
        spread = Spread.of(values[name], turn)
        if spread is None:
            run.ill.add(name)
        else:
            run.spreads[name] = spread
    for name in channels:
        value = values[name]
        axis = value.ndim - 1 if value.ndim == 2 else 1
        others = tuple(i for i in range(value.ndim) if i != axis)
        run.channels[name] = value.min(axis=others), value.max(axis=others)
    return run
