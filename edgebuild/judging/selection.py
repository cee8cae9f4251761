"""The choice among judged candidates: limits and budget, Pareto front, best objective; every loser gets its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgebuild.core.verdict import Outcome
from edgebuild.judging.outcomes import severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgebuild.core.measurement import Comparison
    from edgebuild.core.objective import Objective
    from edgebuild.core.verdict import Verdict

#: Estimates closer than this count as equal: the band that calls two latencies equivalent.
NEAR = 0.02


@dataclass(frozen=True, kw_only=True)
class Option:
    """A candidate as the choice sees it.

    ``value`` is what the objective names: latency in ms, throughput per second, size or memory in bytes; ``low`` and
    ``high`` are its 95 % interval where one is known. ``drop`` is the metric's drop (positive: worse). ``missed`` is by
    how much the budget or limit that is missed most is missed, as ``missed_share`` gives it. ``plain`` is the id of the
    fp32 candidate of the same profile, for options that have one. ``gap`` says what the cross-check found where a layer
    does something else on the target than in the unoptimised graph.
    """

    id: str
    value: float
    drop: float
    size_bytes: int
    outcome: Outcome
    low: float | None = None
    high: float | None = None
    reasons: tuple[str, ...] = ()
    missed: float = 0.0
    plain: str | None = None
    gap: str | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """``chosen`` is ``None`` when no option is accepted; ``nearest`` then came closest (``None`` without options).

    ``front`` holds the ids of accepted options that no accepted option dominates, best objective first. ``reasons``
    says of every option why it was or wasn't chosen.
    """

    chosen: str | None
    nearest: str | None
    front: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)


def missed_share(verdict: Verdict) -> float:
    """Return by which share the worst missed budget or limit is missed: 0.5 is half as much again; 0 when none is.

    A drop counts by its estimate. What is unknown or non-finite counts as missed without bound.
    """
    if verdict.drop is None:
        return float("inf")
    shares = [_over(verdict.drop.drop, verdict.drop.budget)]
    shares += [_over(one.drop, one.limit) for one in verdict.slices if one.limit is not None]
    for check in verdict.limits:
        if check.measured is None:
            shares.append(float("inf"))
        elif check.name == "throughput_per_s":
            shares.append(_over(check.limit, check.measured))
        else:
            shares.append(_over(check.measured, check.limit))
    return max(0.0, *shares)


def _over(value: float, limit: float) -> float:
    if value <= limit:
        return 0.0
    return (value - limit) / abs(limit) if limit else float("inf")


def select(
    options: Iterable[Option], objective: Objective, comparisons: Mapping[tuple[str, str], Comparison] | None = None
) -> Selection:
    """Return the choice; it depends on the set of options only, not on their order.

    Accepted options with a ``gap`` count only where there is no accepted one without. Accepted options make the front:
    those that none dominates in objective, drop and size (nowhere worse, somewhere better). The best objective is
    chosen; of those that are as good (statistically tied with it, and estimated within 2 % of it) the one with the
    smallest drop, then the smallest, then the best objective, then the first by id. Two options are tied when their
    comparison, ``comparisons[candidate, baseline]``, is equivalent or inconclusive; without one, when their intervals
    overlap; without intervals, when their values are equal. Raises ``ValueError`` when two options share an id.
    """
    ranked = sorted(
        options, key=lambda option: (objective.cost(option.value), option.drop, option.size_bytes, option.id)
    )
    if len({option.id for option in ranked}) < len(ranked):
        raise ValueError("two options share an id")
    accepted = [option for option in ranked if option.outcome is Outcome.ACCEPTED]
    accepted = [option for option in accepted if option.gap is None] or accepted
    front = [one for one in accepted if not any(_dominates(other, one, objective) for other in accepted)]
    choice = _Choice(objective=objective, comparisons=comparisons or {})
    if not front:
        nearest = min(
            ranked,
            key=lambda option: (severity(option.outcome), option.missed, option.drop, option.size_bytes, option.id),
            default=None,
        )
        return Selection(
            chosen=None,
            nearest=nearest.id if nearest else None,
            front=(),
            reasons={option.id: choice.not_accepted(option) for option in ranked},
        )
    tied = [option for option in front if choice.as_good(option, front[0])]
    chosen = min(tied, key=lambda option: (option.drop, option.size_bytes, objective.cost(option.value), option.id))
    by_id = {option.id: option for option in ranked}
    return Selection(
        chosen=chosen.id,
        nearest=chosen.id,
        front=tuple(option.id for option in front),
        reasons={
            option.id: choice.won(chosen, front[0])
            if option is chosen
            else choice.lost(option, chosen, by_id.get(option.plain or ""))
            for option in ranked
        },
    )


def _dominates(one: Option, other: Option, objective: Objective) -> bool:
    left = (objective.cost(one.value), one.drop, one.size_bytes)
    right = (objective.cost(other.value), other.drop, other.size_bytes)
    return left != right and all(a <= b for a, b in zip(left, right, strict=True))


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """One choice's rules of comparing, and its sentences."""

    objective: Objective
    comparisons: Mapping[tuple[str, str], Comparison]

    def tied(self, one: Option, other: Option) -> bool:
        if one is other:
            return True
        comparison = self._comparison(one, other)
        if comparison is not None:
            return comparison.outcome in ("equivalent", "inconclusive")
        if one.low is None or one.high is None or other.low is None or other.high is None:
            return one.value == other.value
        return one.low <= other.high and other.low <= one.high

    def as_good(self, one: Option, other: Option) -> bool:
        """Whether nothing measured speaks for either: not distinguished, and no estimate that a user would act on."""
        if not self.tied(one, other):
            return False
        comparison = self._comparison(one, other)
        if comparison is not None:
            return abs(comparison.effect) <= NEAR
        return math.isclose(one.value, other.value, rel_tol=NEAR)

    def _comparison(self, one: Option, other: Option) -> Comparison | None:
        return self.comparisons.get((one.id, other.id)) or self.comparisons.get((other.id, one.id))

    def not_accepted(self, option: Option) -> str:
        return "; ".join(option.reasons) or "no reason recorded"

    def won(self, chosen: Option, best: Option) -> str:
        if chosen is best:
            return f"{self.objective.best} of the accepted candidates"
        better = "the smaller drop" if chosen.drop < best.drop else "the smaller size"
        return f"statistically tied with the best objective, {best.id}, and has {better}"

    def lost(self, option: Option, chosen: Option, plain: Option | None) -> str:
        if option.outcome is not Outcome.ACCEPTED:
            return self.not_accepted(option)
        if option.gap is not None and chosen.gap is None:
            return f"ranked behind every accepted candidate without a gap: {option.gap}"
        sentence = self._against(option, chosen)
        if plain is not None and option.size_bytes > plain.size_bytes and self._no_better(option, plain):
            sentence += f"; it made the file larger than {plain.id}'s and {self.objective.no_gain}"
        return sentence

    def _no_better(self, option: Option, plain: Option) -> bool:
        return self.tied(option, plain) or self.objective.cost(option.value) >= self.objective.cost(plain.value)

    def _against(self, option: Option, chosen: Option) -> str:
        if self.tied(option, chosen):
            advantage = self._advantage(chosen, option) if self.as_good(option, chosen) else "the better estimate"
            interval = self._interval(option, chosen)
            return f"statistically tied with {chosen.id} in {self.objective.name}{interval}, which has {advantage}"
        ratio = self._ratio(option, chosen)
        if ratio <= 1:
            advantage = self._advantage(chosen, option)
            best = f"the best {self.objective.name}"
            return f"passed over for {chosen.id}, which is statistically tied with {best} and has {advantage}"
        return f"{ratio:.2f}x {self.objective.worse} the chosen one{self._interval(option, chosen)}"

    def _advantage(self, chosen: Option, option: Option) -> str:
        if chosen.drop < option.drop:
            return "the smaller drop"
        if chosen.size_bytes < option.size_bytes:
            return "the smaller size"
        return "the better estimate" if chosen.value != option.value else "the first id"

    def _ratio(self, option: Option, chosen: Option) -> float:
        """How much worse the option is: by the paired comparison whose interval is given with it, if there is one."""
        there = self.comparisons.get((option.id, chosen.id))
        back = self.comparisons.get((chosen.id, option.id))
        if there is not None:
            return math.exp(there.effect)
        if back is not None:
            return math.exp(-back.effect)
        return self.objective.ratio(option.value, chosen.value)

    def _interval(self, option: Option, chosen: Option) -> str:
        """The 95 % interval of the ratio, where the two were compared."""
        there = self.comparisons.get((option.id, chosen.id))
        back = self.comparisons.get((chosen.id, option.id))
        if there is not None:
            low, high = there.low, there.high
        elif back is not None:
            low, high = -back.high, -back.low
        else:
            return ""
        return f" (95 % CI {math.exp(low):.2f}x to {math.exp(high):.2f}x)"
