"""Choosing each tensor's range by the error at the model's outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgebuild.quantisers.own.arithmetic import PERCENTILES, affine, candidate_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.quantisers.own.arithmetic import Histogram
    from edgebuild.quantisers.own.placement import Placement
    from edgebuild.quantisers.own.simulator import QuantisationState
    from edgebuild.quantisers.own.workbench import Calibration

LEAST_FRAMES, MOST_FRAMES = 8, 64
#: What ``candidate_ranges`` offers.
RULES = ("minmax", "mse", "entropy", *(f"p{p:g}" for p in PERCENTILES))


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

    The frames per trial, and then the tensors tried, are cut until the work fits ``bench.budget_macs``; those with the
    most rules to choose from are tried first. The tensors left out share one rule, the best for all of them.
    """
    options = {group: candidate_ranges(histogram, bench.scheme) for group, histogram in found.items()}
    rules_of = {group: len(rules) for group, rules in options.items()}
    frames, tried = _affordable(rules_of, len(bench.fit), bench.macs, bench.budget_macs)
    rest = [group for group in options if group not in tried]
    rules = dict.fromkeys(options, "minmax")
    for group, bounds in options.items():
        numbers = numbers.with_range(group, affine(*bounds["minmax"], bench.scheme))
    least = bench.trial(numbers, frames)
    for rule in (rule for rule in RULES[1:] if any(rule in options[group] for group in rest)):
        shared = {group: affine(*options[group][rule], bench.scheme) for group in rest if rule in options[group]}
        trial = replace(numbers, ranges={**numbers.ranges, **shared})
        distance = bench.trial(trial, frames)
        if distance.surely_below(least):
            least, numbers, rules = distance, trial, {**rules, **dict.fromkeys(shared, rule)}
    for group in (group for group in options if group in tried):
        for rule in (rule for rule in options[group] if rule != "minmax"):
            trial = numbers.with_range(group, affine(*options[group][rule], bench.scheme))
            distance = bench.trial(trial, frames)
            if distance.surely_below(least):
                least, numbers, rules[group] = distance, trial, rule
    choices: dict[str, Choice] = {}
    for group, rule in rules.items():
        low, high = options[group][rule]
        choices[group] = Choice(rule=rule, low=low, high=high, tried=len(options[group]) if group in tried else 1)
    return numbers, choices


def planned(placement: Placement, fit: int, macs: int, budget_macs: int) -> float:
    """Return about how many runs ``choose`` takes, and no fewer."""
    rules = dict.fromkeys(placement.groups, len(RULES))
    frames, tried = _affordable(rules, fit, macs, budget_macs)
    return float(frames * len(RULES) * (len(tried) + (len(tried) < len(rules))))


def _affordable(options: Mapping[str, int], fit: int, macs: int, budget_macs: int) -> tuple[int, frozenset[str]]:
    """Return how many frames a trial takes, and which tensors are tried: those with the most rules first."""
    per_run = max(macs, 1)
    trials = sum(options.values()) + 1
    most = min(MOST_FRAMES, fit)
    frames = max(min(budget_macs // (per_run * trials), most), min(LEAST_FRAMES, most))
    affordable = budget_macs // (per_run * frames)
    tried: list[str] = []
    for group in sorted(options, key=lambda g: -options[g]):
        affordable -= options[group]
        if affordable >= 0:
            tried.append(group)
    return frames, frozenset(tried)
