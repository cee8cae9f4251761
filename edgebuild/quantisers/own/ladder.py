"""The rungs from plain 8 bits upwards. Each is kept only if the outputs get better on frames that it never saw."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgebuild.quantisers.own import equalise, ranges
from edgebuild.quantisers.own.reconstruct import affordable, corrected, float_layers, reconstructed
from edgebuild.quantisers.own.statistics import observe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.quantisers.own.arithmetic import Histogram
    from edgebuild.quantisers.own.error import Distance
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.placement import Placement
    from edgebuild.quantisers.own.samples import Frames
    from edgebuild.quantisers.own.simulator import QuantisationState
    from edgebuild.quantisers.own.workbench import Calibration

#: How much of the channels' difference equalisation moves into the next layer's weight; the best on held-out frames.
STRENGTHS = (0.25, 0.5)
#: How firmly reconstruction holds on to the float weights, and which share it makes up of what the 8-bit input leaves
#: missing: the best on held-out frames. Few frames overrate what is missing.
REFITS = ((0.3, 1.0), (1.0, 1.0), (0.3, 0.3))
#: A rung must take this much of the noise away, 0.05 dB: less is as likely the frames' doing.
WORTHWHILE = 10**-0.005


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
        """Keep ``candidate`` if it is better on the held-out half by what is worth a rung."""
        distance = self.bench.judge(candidate)
        kept = distance.total < self.best.total * WORTHWHILE
        self.rungs.append(Rung(name=name, distance=distance, kept=kept))
        if kept:
            self.numbers, self.best = candidate, distance
        return kept


def planned(graph: Graph, placement: Placement, halves: tuple[Frames, Frames], macs: int, budget_macs: int) -> float:
    """Return about how many runs it takes to observe both halves and to climb: what progress is measured against."""
    fit, held = (half.runs for half in halves)
    frames = len(halves[0])
    strengths = len(STRENGTHS) if equalise.pairs(graph, placement) else 0
    observed = fit + held + (fit if strengths else 0)
    judged = held * (4 + strengths + len(REFITS))
    walked = fit * (2 + len(REFITS))
    refitted = affordable(graph, placement.ops, frames, max(budget_macs, frames * macs))
    searched = ranges.planned(placement, frames, macs, budget_macs)
    return observed + judged + walked + searched + len(REFITS) * sum(refitted.values()) / max(macs, 1)


def climb(bench: Calibration) -> Ladder:
    """Return the best numbers found, never worse on held-out frames than min/max ranges and nearest codes."""
    found = bench.seen.histograms
    start = bench.nearest(bench.with_ranges(bench.original, _ends(found)))
    distance = bench.judge(start)
    ladder = Ladder(bench, start, distance, [Rung(name="min/max ranges", distance=distance, kept=True)])
    ladder.choices = minmax_choices(found)
    found = _equalised(ladder, found)
    chosen, choices = ranges.choose(bench, ladder.numbers, found)
    if ladder.offer("ranges by output error", bench.nearest(chosen)):
        ladder.choices = choices
    ladder.offer("clipped weights", bench.clipped(ladder.numbers))
    if bench.simulator.stages(in_eight_bits=True).only_tensors:
        right = float_layers(bench, ladder.numbers)
        ladder.offer("bias correction", corrected(bench, ladder.numbers, right))
        flat = replace(ladder.numbers, biases=ladder.numbers.float_biases)
        for ridge, share in REFITS:
            name = f"reconstruction, ridge {ridge:g}" + (f", {share:.0%} of what is missing" if share < 1 else "")
            ladder.offer(name, reconstructed(bench, flat, right, ridge, share))
    return ladder


def minmax_choices(found: Mapping[str, Histogram]) -> dict[str, ranges.Choice]:
    """Return each tensor's whole range as the choice."""
    return {g: ranges.Choice(rule="minmax", low=h.low, high=h.high, tried=1) for g, h in found.items()}


def _ends(found: Mapping[str, Histogram]) -> dict[str, tuple[float, float]]:
    return {group: (h.low, h.high) for group, h in found.items()}


def _equalised(ladder: Ladder, found: Mapping[str, Histogram]) -> Mapping[str, Histogram]:
    """Offer both strengths; return what the tensors hold with the weights that were kept.

    How far a scaled tensor reaches follows from its channels: only its histogram takes another pass.
    """
    bench = ladder.bench
    pairs = equalise.pairs(bench.graph, bench.placement)
    between = tuple(pair.between for pair in pairs)
    kept = False
    for strength in STRENGTHS if pairs else ():
        equal, factors = equalise.equalised(
            bench.original, pairs, bench.seen.channels, strength, per_channel=bench.scheme.per_channel
        )
        ends = _ends(found)
        for name, factor in factors.items():
            low, high = bench.seen.channels[name]
            ends[name] = float((low / factor).min()), float((high / factor).max())
        kept |= ladder.offer(f"cross-layer equalisation {strength:g}", bench.nearest(bench.with_ranges(equal, ends)))
    if not kept:
        return found
    seen = observe(
        bench.simulator, bench.base(ladder.numbers), bench.fit, bench.tick, tensors=between, padding=bench.padding
    )
    found = {**found, **seen.histograms}
    ladder.choices = minmax_choices(found)
    return found
