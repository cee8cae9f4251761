"""How outcomes add up: the worst counts."""

from __future__ import annotations

from edgebuild.core.verdict import Outcome, Verdict

_SEVERITY = {Outcome.ACCEPTED: 0, Outcome.INCONCLUSIVE: 1, Outcome.REFUSED: 2}


def severity(outcome: Outcome) -> int:
    """Return 0 for accepted, 1 for inconclusive, 2 for refused."""
    return _SEVERITY[outcome]


def with_reason(verdict: Verdict, reason: str, outcome: Outcome = Outcome.ACCEPTED) -> Verdict:
    """Return the verdict with one more reason; its outcome becomes the worse of its own and ``outcome``."""
    worse = max(verdict.outcome, outcome, key=severity)
    return verdict.model_copy(update={"outcome": worse, "reasons": (*verdict.reasons, reason)})
