"""What every rung works with: the graph, its simulator, the two halves of the frames, and what the float model says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.quantisers.own.arithmetic import Affine, Histogram, affine, encode, weight_scale
from edgebuild.quantisers.own.error import Distance, measure
from edgebuild.quantisers.own.layers import moments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.layers import Moments
    from edgebuild.quantisers.own.placement import Placement, WeightedOp
    from edgebuild.quantisers.own.samples import Frames
    from edgebuild.quantisers.own.simulator import QuantisationState, Simulator

    Arrays = dict[str, NDArray[Any]]

#: Bits left between a bias's int32 code and the end of int32, for an activation scale that shrinks later.
BIAS_REACH = 2.0**28
LEAST_LAYER_FRAMES = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """``fit`` and ``held`` are halves of the calibration frames; ``*_expected`` the float outputs, batch by batch.

    ``macs`` is the cost of one run and ``budget_macs`` what a search may spend.
    """

    graph: Graph
    placement: Placement
    scheme: Int8Scheme
    simulator: Simulator
    original: QuantisationState
    fit: Frames
    held: Frames
    fit_expected: Sequence[Arrays]
    held_expected: Sequence[Arrays]
    macs: int
    budget_macs: int
    seed: int
    check: Callable[[], None]

    @property
    def layer_frames(self) -> int:
        """Frames for what is done layer by layer: each layer costs two runs a frame."""
        runs = self.budget_macs // (max(self.macs, 1) * 2 * len(self.placement.ops))
        return max(min(runs, len(self.fit)), min(LEAST_LAYER_FRAMES, len(self.fit)))

    def judge(self, numbers: QuantisationState) -> Distance:
        """Return the distance on the held-out half."""
        return measure(self.simulator, numbers, self.held, self.held_expected, self.check)

    def trial(self, numbers: QuantisationState, frames: int) -> Distance:
        """Return the distance on the first ``frames`` of the half that is fitted on."""
        return measure(self.simulator, numbers, self.fit.first(frames), self.fit_expected, self.check)

    def reads(self, op: WeightedOp, numbers: QuantisationState, frames: Frames) -> Iterator[NDArray[Any]]:
        """Yield what ``op`` reads with ``numbers``, batch by batch."""
        fixed, name = self.simulator.feeds(numbers), self.simulator.raw_input(op)
        for feeds in frames:
            self.check()
            yield self.simulator.run({**fixed, **feeds}, (name,))[name]

    def moments(self, op: WeightedOp, numbers: QuantisationState, frames: int) -> Moments:
        """Return the moments of what ``op`` reads, in 8 bits and in float, over the first ``frames`` fitted frames."""
        some = self.fit.first(frames)
        pairs = zip(self.reads(op, numbers, some), self.reads(op, self.base(numbers), some), strict=True)
        return moments(self.graph, op, pairs, self.seed)

    def base(self, numbers: QuantisationState) -> QuantisationState:
        """Return the float model that ``numbers`` is the 8-bit version of: equalised alike, nothing rounded."""
        return replace(numbers, ranges={}, codes={}, biases=numbers.float_biases)

    def input_range(self, op: WeightedOp, numbers: QuantisationState) -> Affine | None:
        """Return the 8-bit parameters of what ``op`` reads; None while it is float."""
        for point in self.placement.points:
            if (op.node, 0) in point.readers:
                return numbers.ranges.get(point.group)
        return None

    def full_scale(self, op: WeightedOp, numbers: QuantisationState) -> NDArray[np.float32]:
        """Return the weight scales that clip nothing and keep the bias's int32 codes in reach."""
        activation, bias = self.input_range(op, numbers), numbers.biases.get(op.name)
        floor: NDArray[Any] | float = 0.0
        if activation is not None and bias is not None:
            floor = np.abs(bias).reshape(-1) / (activation.scale * BIAS_REACH)
        return weight_scale(numbers.weights[op.name], op.axis, self.scheme, floor)

    def nearest(self, numbers: QuantisationState) -> QuantisationState:
        """Return the numbers with every weight at its nearest codes."""
        codes = {
            op.name: encode(numbers.weights[op.name], self.full_scale(op, numbers), op.axis, self.scheme)
            for op in self.placement.ops
        }
        return replace(numbers, codes=codes)

    def with_minmax(self, numbers: QuantisationState, found: Mapping[str, Histogram]) -> QuantisationState:
        """Return the numbers with every range as wide as what was seen."""
        return replace(numbers, ranges={g: affine(h.low, h.high, self.scheme) for g, h in found.items()})
