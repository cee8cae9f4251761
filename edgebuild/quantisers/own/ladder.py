"""The rungs from plain 8 bits upwards. Each is kept only if the outputs get better on frames that it never saw."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.quantisers.own import equalise, ranges
from edgebuild.quantisers.own.arithmetic import clipped_scale, encode
from edgebuild.quantisers.own.reconstruct import reconstructed
from edgebuild.quantisers.own.statistics import histograms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.quantisers.own.error import Distance
    from edgebuild.quantisers.own.placement import WeightedOp
    from edgebuild.quantisers.own.simulator import QuantisationState
    from edgebuild.quantisers.own.workbench import Calibration

#: How much of the channels' difference equalisation moves into the next layer's weight; the best on held-out frames.
STRENGTHS = (0.25, 0.5)
#: How firmly reconstruction holds on to the float weights: the best on held-out frames.
RIDGES = (0.3, 1.0)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung: how far the outputs are on held-out frames with it, and whether it was kept."""

    name: str
    distance: Distance
    kept: bool


@dataclass
class Ladder:
    """The state while climbing. ``numbers`` are the best so far."""

    bench: Calibration
    numbers: QuantisationState
    best: Distance
    rungs: list[Rung] = field(default_factory=list)
    choices: dict[str, ranges.Choice] = field(default_factory=dict)

    def offer(self, name: str, candidate: QuantisationState) -> bool:
        """Keep ``candidate`` if it is better on the held-out half."""
        distance = self.bench.judge(candidate)
        kept = distance.total < self.best.total
        self.rungs.append(Rung(name=name, distance=distance, kept=kept))
        if kept:
            self.numbers, self.best = candidate, distance
        return kept


def climb(bench: Calibration) -> Ladder:
    """Return the best numbers found, never worse on held-out frames than min/max ranges and nearest codes."""
    found = histograms(bench.simulator, bench.original, bench.placement.groups, bench.fit, bench.check)
    start = bench.nearest(bench.with_minmax(bench.original, found))
    distance = bench.judge(start)
    ladder = Ladder(bench, start, distance, [Rung(name="min/max ranges", distance=distance, kept=True)])
    ladder.choices = {g: ranges.Choice(rule="minmax", low=h.low, high=h.high, tried=1) for g, h in found.items()}
    for strength in STRENGTHS if (pairs := equalise.pairs(bench.graph, bench.placement)) else ():
        equal = equalise.equalised(
            bench.original, pairs, _reach(bench, pairs), strength, per_channel=bench.scheme.per_channel
        )
        seen = histograms(bench.simulator, equal, bench.placement.groups, bench.fit, bench.check)
        if ladder.offer(f"cross-layer equalisation {strength:g}", bench.nearest(bench.with_minmax(equal, seen))):
            found = seen
            ladder.choices = {
                g: ranges.Choice(rule="minmax", low=h.low, high=h.high, tried=1) for g, h in found.items()
            }
    chosen, choices = ranges.choose(bench, ladder.numbers, found)
    if ladder.offer("ranges by output error", bench.nearest(chosen)):
        ladder.choices = choices
    ladder.offer("clipped weights", _clipped(bench, ladder.numbers))
    ladder.offer("bias correction", _corrected(bench, ladder.numbers))
    flat = replace(ladder.numbers, biases=ladder.numbers.float_biases)
    for ridge in RIDGES:
        ladder.offer(f"reconstruction, ridge {ridge:g}", reconstructed(bench, flat, ridge))
    return ladder


def _reach(bench: Calibration, pairs: tuple[equalise.Pair, ...]) -> dict[str, NDArray[Any]]:
    """Return the largest magnitude of every channel between the layers of each pair, over the fitted half."""
    names = tuple(pair.between for pair in pairs)
    reach: dict[str, NDArray[Any]] = {}
    fixed = bench.simulator.feeds(bench.original)
    for feeds in bench.fit:
        bench.check()
        for name, value in bench.simulator.run({**fixed, **feeds}, names).items():
            axis = value.ndim - 1 if value.ndim == 2 else 1
            seen = np.abs(value).max(axis=tuple(i for i in range(value.ndim) if i != axis))
            reach[name] = np.maximum(reach.get(name, seen), seen)
    return reach


def _clipped(bench: Calibration, numbers: QuantisationState) -> QuantisationState:
    """Return the numbers with each channel's scale at its least squared error."""
    codes = dict(numbers.codes)
    for op in bench.placement.ops:
        weight, full = numbers.weights[op.name], bench.full_scale(op, numbers)
        codes[op.name] = encode(weight, clipped_scale(weight, op.axis, bench.scheme, full), op.axis, bench.scheme)
    return replace(numbers, codes=codes)


def _corrected(bench: Calibration, numbers: QuantisationState) -> QuantisationState:
    """Return the numbers with biases that take each channel's mean error out, one layer after another."""
    frames = bench.fit.first(bench.layer_frames)
    ops = tuple(op for op in bench.placement.ops if op.bias_slot is not None)
    right = _means(bench, bench.base(numbers), ops, frames)
    for op in ops:
        error = right[op.name] - _means(bench, numbers, (op,), frames)[op.name]
        bias = numbers.biases[op.name]
        numbers = replace(
            numbers, biases={**numbers.biases, op.name: (bias + error.reshape(bias.shape)).astype(np.float32)}
        )
    return numbers


def _means(
    bench: Calibration, numbers: QuantisationState, ops: tuple[WeightedOp, ...], frames: Any
) -> dict[str, NDArray[Any]]:
    """Return the mean of every output channel of ``ops``."""
    fixed, names = bench.simulator.feeds(numbers), tuple(op.output for op in ops)
    totals = {op.name: np.zeros(op.channels) for op in ops}
    counts = dict.fromkeys(totals, 0)
    for feeds in frames:
        bench.check()
        values = bench.simulator.run({**fixed, **feeds}, names)
        for op in ops:
            value = values[op.output]
            axis = 1 if op.kind == "Conv" else value.ndim - 1
            totals[op.name] += value.sum(axis=tuple(i for i in range(value.ndim) if i != axis), dtype=np.float64)
            counts[op.name] += value.size // op.channels
    return {name: total / counts[name] for name, total in totals.items()}
