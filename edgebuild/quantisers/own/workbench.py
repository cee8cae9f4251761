"""What every rung works with: the graph, its simulator, the two halves of the frames, and what the float model says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.quantisers.own.arithmetic import Affine, Codes, affine, clipped_scale, encode, weight_scale
from edgebuild.quantisers.own.error import Distance, measure
from edgebuild.quantisers.own.simulator import float_numbers
from edgebuild.quantisers.own.stages import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.padding import Padding
    from edgebuild.quantisers.own.placement import Placement, WeightedOp
    from edgebuild.quantisers.own.samples import Frames
    from edgebuild.quantisers.own.simulator import QuantisationState, Simulator
    from edgebuild.quantisers.own.statistics import Observation

    Arrays = dict[str, NDArray[Any]]
    Inputs = Sequence[NDArray[Any]]

#: Bits left between a bias's int32 code and the end of int32, for an activation scale that shrinks later.
BIAS_REACH = 2.0**28
#: What the frames on their way through the stages may fill, and how many go at least.
WALK_MEMORY, LEAST_WALKERS = 128 * 2**20, 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """``fit`` and ``held`` are halves of the calibration frames; ``seen`` is what the float model made of ``fit``.

    ``held_expected`` holds the float outputs on ``held``, batch by batch. ``macs`` is the cost of one run and
    ``budget_macs`` what a search may spend. ``tick`` is called with the runs that were done, and stops when the user
    does.
    """

    graph: Graph
    placement: Placement
    scheme: Int8Scheme
    simulator: Simulator
    fit: Frames
    held: Frames
    seen: Observation
    held_expected: Sequence[Arrays]
    macs: int
    budget_macs: int
    seed: int
    tick: Callable[[float], None]
    padding: Padding | None = None

    @property
    def original(self) -> QuantisationState:
        """The model's own weights and biases, read again each time: they are as large as the model."""
        return float_numbers(self.graph, self.placement)

    def judge(self, numbers: QuantisationState) -> Distance:
        """Return the distance on the held-out half."""
        return measure(self.simulator, numbers, self.held, self.held_expected, self.tick)

    def trial(self, numbers: QuantisationState, frames: int) -> Distance:
        """Return the distance on the first ``frames`` of the half that is fitted on."""
        return measure(self.simulator, numbers, self.fit.first(frames), self.seen.outputs, self.tick)

    @cached_property
    def walkers(self) -> Frames:
        """The fitted frames that go through the net layer by layer: as many as memory has room for, twice."""
        walk = self._walk(self.fit.first(1), in_eight_bits=False)
        feeds, most = self.simulator.feeds(self.original), 1
        for _ in self.placement.ops:
            walk.step(feeds)
            most = max(most, walk.live_bytes)
        self.tick(1.0)
        return self.fit.first(max(WALK_MEMORY // (2 * most), LEAST_WALKERS))

    def layer_by_layer(
        self,
        numbers: QuantisationState,
        change: Callable[[QuantisationState, WeightedOp, Inputs], QuantisationState],
    ) -> QuantisationState:
        """Return the numbers after ``change(numbers, op, read)`` for every op in graph order.

        ``read`` is what the op reads with all changes before it, in 8 bits if the numbers have ranges: batch by batch,
        and of a sequence only at the places that hold something.
        """
        frames = self.walkers
        fed = [] if self.padding is None else list(frames)
        walk = self._walk(frames, in_eight_bits=bool(numbers.ranges))
        for op in self.placement.ops:
            read = walk.step(self.simulator.feeds(numbers))
            numbers = change(numbers, op, self._live(op, read, fed))
            self.tick(frames.runs / len(self.placement.ops))
        return numbers

    def _live(self, op: WeightedOp, read: Inputs, fed: Sequence[Arrays]) -> Inputs:
        if self.padding is None or op.kind == "Conv":
            return read
        return [self.padding.live(value, feeds) for value, feeds in zip(read, fed, strict=True)]

    def _walk(self, frames: Frames, *, in_eight_bits: bool) -> Walk:
        return Walk(self.simulator.stages(in_eight_bits=in_eight_bits), frames, self.simulator.workers)

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
        return self._encoded(numbers, self.full_scale)

    def clipped(self, numbers: QuantisationState) -> QuantisationState:
        """Return the numbers with each channel's scale at its least squared error."""

        def scale(op: WeightedOp, numbers: QuantisationState) -> NDArray[np.float32]:
            return clipped_scale(numbers.weights[op.name], op.axis, self.scheme, self.full_scale(op, numbers))

        return self._encoded(numbers, scale)

    def _encoded(
        self, numbers: QuantisationState, scale: Callable[[WeightedOp, QuantisationState], NDArray[np.float32]]
    ) -> QuantisationState:
        def encoded(op: WeightedOp) -> Codes:
            return encode(numbers.weights[op.name], scale(op, numbers), op.axis, self.scheme)

        ops = self.placement.ops
        codes = self.simulator.workers.in_order(encoded, ops)
        return replace(numbers, codes=dict(zip((op.name for op in ops), codes, strict=True)))

    def with_ranges(self, numbers: QuantisationState, found: Mapping[str, tuple[float, float]]) -> QuantisationState:
        """Return the numbers with these ranges, low and high by group."""
        return replace(numbers, ranges={g: affine(low, high, self.scheme) for g, (low, high) in found.items()})
