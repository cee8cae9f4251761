"""How outcomes add up: the worst counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from edgebuild.core.capabilities import Capabilities
    from edgebuild.core.objective import Objective

_SEVERITY = {Outcome.ACCEPTED: 0, Outcome.INCONCLUSIVE: 1, Outcome.REFUSED: 2}


def severity(outcome: Outcome) -> int:
    """Return 0 for accepted, 1 for inconclusive, 2 for refused."""
    return _SEVERITY[outcome]


def as_emulated(verdict: Verdict) -> Verdict:
    """Return the verdict marked as one on the outputs of an emulated CPU, in every sentence of it."""
    reasons = tuple(f"emulated: {reason}" for reason in verdict.reasons)
    return verdict.model_copy(update={"emulated": True, "reasons": reasons})


def standing(verdict: Verdict, objective: Objective, can: Capabilities) -> Verdict:
    """Return what a verdict is worth for the choice: nothing decides what the device can't be asked for."""
    if can.decides(objective) or verdict.outcome is Outcome.REFUSED:
        return verdict
    return with_reason(verdict, f"the best {objective.name} is unknown: {can.why}", Outcome.INCONCLUSIVE)


def with_reason(verdict: Verdict, reason: str, outcome: Outcome = Outcome.ACCEPTED) -> Verdict:
    """Return the verdict with one more reason; its outcome becomes the worse of its own and ``outcome``."""
    worse = max(verdict.outcome, outcome, key=severity)
    return verdict.model_copy(update={"outcome": worse, "reasons": (*verdict.reasons, reason)})
