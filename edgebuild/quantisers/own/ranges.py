"""Choosing each tensor's range by the error at the model's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.quantisers.own.arithmetic import Affine, affine, candidate_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.quantisers.own.arithmetic import Histogram
    from edgebuild.quantisers.own.simulator import QuantisationState
    from edgebuild.quantisers.own.workbench import Calibration

LEAST_FRAMES, MOST_FRAMES = 8, 64


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The range chosen for one tensor, by which rule, out of how many."""

    rule: str
    low: float
    high: float
    tried: int


def choose(
    bench: Calibration, numbers: QuantisationState, found: Mapping[str, Histogram]
) -> tuple[QuantisationState, dict[str, Choice]]:
    """Return ``numbers`` with a range per tensor, chosen one after another in graph order.

    The frames per trial, and then the tensors tried, are cut until the work fits ``bench.budget_macs``; a tensor left
    out keeps the range with the least squared error. Those with the most rules to choose from are tried first.
    """
    options = {group: candidate_ranges(histogram, bench.scheme) for group, histogram in found.items()}
    frames, tried = _affordable(bench, {group: len(rules) for group, rules in options.items()})
    choices: dict[str, Choice] = {}
    for group, rules in options.items():
        rule = "minmax" if group in tried or "mse" not in rules else "mse"
        numbers = numbers.with_range(group, affine(*rules[rule], bench.scheme))
        choices[group] = Choice(rule=rule, low=rules[rule][0], high=rules[rule][1], tried=1)
    least = bench.trial(numbers, frames)
    for group in (g for g in options if g in tried):
        best: tuple[str, Affine] | None = None
        for rule, bounds in options[group].items():
            parameters = affine(*bounds, bench.scheme)
            if rule == choices[group].rule:
                continue
            distance = bench.trial(numbers.with_range(group, parameters), frames)
            if distance.surely_below(least):
                least, best = distance, (rule, parameters)
        rule = choices[group].rule if best is None else best[0]
        if best is not None:
            numbers = numbers.with_range(group, best[1])
        low, high = options[group][rule]
        choices[group] = Choice(rule=rule, low=low, high=high, tried=len(options[group]))
    return numbers, choices


def _affordable(bench: Calibration, options: Mapping[str, int]) -> tuple[int, frozenset[str]]:
    """Return how many frames a trial takes, and which tensors are tried: those with the most rules first."""
    per_run = max(bench.macs, 1)
    trials = sum(options.values()) + 1
    most = min(MOST_FRAMES, len(bench.fit))
    frames = max(min(bench.budget_macs // (per_run * trials), most), min(LEAST_FRAMES, most))
    affordable = bench.budget_macs // (per_run * frames)
    tried: list[str] = []
    for group in sorted(options, key=lambda g: -options[g]):
        affordable -= options[group]
        if affordable >= 0:
            tried.append(group)
    return frames, frozenset(tried)
