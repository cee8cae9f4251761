"""Layers that were trained on grids: their codes and ranges are taken as they are, and only the rest is calibrated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from edgebuild.models import trained_grids
from edgebuild.quantisers.own import ranges
from edgebuild.quantisers.own.arithmetic import Affine, Codes, affine, codes_of, weight_levels
from edgebuild.quantisers.own.ladder import Ladder, Rung, minmax_choices
from edgebuild.quantisers.own.layers import as_rows, from_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.placement import Placement
    from edgebuild.quantisers.own.simulator import QuantisationState
    from edgebuild.quantisers.own.workbench import Calibration


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What training settled: codes by op, 8-bit parameters by group. Empty for a model that wasn't trained so."""

    codes: Mapping[str, Codes] = field(default_factory=dict)
    ranges: Mapping[str, Affine] = field(default_factory=dict)

    def settle(self, numbers: QuantisationState) -> QuantisationState:
        """Return the numbers with what was settled in its place."""
        return replace(numbers, codes={**numbers.codes, **self.codes}, ranges={**numbers.ranges, **self.ranges})


def find_trained(graph: Graph, placement: Placement, scheme: Int8Scheme) -> Trained:
    """Find again, in a graph, the layers whose grids the file carries.

    A layer whose codes the scheme can't hold (trained in 8 bits where weights have 7, or a scale per channel where
    there is one for all) has its weights quantised again, and keeps its range.
    """
    settled = trained_grids.read(graph.model)
    if not settled:
        return Trained()
    groups = {(node, slot): point.group for point in placement.points for node, slot in point.readers}
    codes: dict[str, Codes] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for op in placement.ops:
        weight = graph.constant(op.weight)
        found = None if weight is None else trained_grids.row_codes(as_rows(op, weight).reshape(op.channels, -1))
        if weight is None or found is None or (name := trained_grids.digest(found[0])) not in settled:
            continue
        if np.abs(found[0]).max() <= weight_levels(scheme) and scheme.per_channel:
            codes[op.name] = codes_of(from_rows(op, found[0], weight.shape).astype(np.int16), found[1], scheme)
        own, group = settled[name], groups.get((op.node, 0))
        if own is not None and group is not None:
            low, high = bounds.get(group, own)
            bounds[group] = min(low, own[0]), max(high, own[1])
    return Trained(codes=codes, ranges={group: affine(*found, scheme) for group, found in bounds.items()})


def calibrate_rest(bench: Calibration, trained: Trained) -> Ladder:
    """Return the 8-bit numbers with what was trained as it is, and ranges for all else chosen by output error."""
    found = bench.seen.histograms
    ends = {group: (histogram.low, histogram.high) for group, histogram in found.items()}
    start = trained.settle(bench.nearest(trained.settle(bench.with_ranges(bench.original, ends))))
    distance = bench.judge(start)
    ladder = Ladder(bench, start, distance, [Rung(name="as trained, min/max elsewhere", distance=distance, kept=True)])
    left = {group: histogram for group, histogram in found.items() if group not in trained.ranges}
    ladder.choices = {
        group: ranges.Choice(rule="trained", low=chosen.reals[0], high=chosen.reals[1], tried=1)
        for group, chosen in trained.ranges.items()
    } | minmax_choices(left)
    if left:
        chosen, choices = ranges.choose(bench, start, left)
        if ladder.offer("other ranges by output error", chosen):
            ladder.choices |= choices
    return ladder
