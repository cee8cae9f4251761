"""Which settings of which candidates are worth certifying, and who was lost on the way. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

#: Screening can't tell apart what is closer than this; the certify session decides between them.
CLOSE = 1.10


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A candidate with one runtime setting (an arm), as screening left it.

    ``cost`` is the objective's figure, less is better. ``accepted`` is the verdict on validation; ``mismatched`` says
    that a layer does something else on the target than in the unoptimised graph.
    """

    arm: str
    candidate: str
    profile: str
    cost: float
    accepted: bool = True
    mismatched: bool = False


def best_settings(contenders: Iterable[Contender]) -> tuple[Contender, ...]:
    """Return the cheapest arm of each candidate, the first by name where two cost the same."""
    best: dict[str, Contender] = {}
    for each in contenders:
        current = best.get(each.candidate)
        if current is None or (each.cost, each.arm) < (current.cost, current.arm):
            best[each.candidate] = each
    return tuple(best.values())


def finalists(contenders: Iterable[Contender], most: int) -> tuple[str, ...]:
    """Return at most ``most`` arms to certify: the best of every profile, then those close to the best of all.

    Accepted ones come first, and of those the ones without a mismatch. The order of ``contenders`` doesn't matter.
    """
    ordered = sorted(contenders, key=lambda each: (not each.accepted, each.mismatched, each.cost, each.arm))
    chosen: list[str] = []
    profiles: set[str] = set()
    for each in ordered:
        if each.profile not in profiles:
            profiles.add(each.profile)
            chosen.append(each.arm)
    lowest = min((each.cost for each in ordered), default=0.0)
    chosen += [each.arm for each in ordered if each.arm not in chosen and each.cost <= CLOSE * lowest]
    return tuple(chosen[:most])


def lost_candidates(
    candidate_of: Mapping[str, str],
    failures: Mapping[str, str],
    *,
    screened: Collection[str],
    certified: Collection[str],
) -> dict[str, str]:
    """Return the candidates that failures of their arms took out, with the reason.

    Those of which no screened arm is left, and those whose arm failed after it was screened; none that was certified.
    ``candidate_of`` names the candidate of every arm, ``failures`` why an arm failed.
    """
    found = {candidate_of[arm]: why for arm, why in failures.items()}
    left = {candidate_of[arm] for arm in screened if arm not in failures}
    later = {candidate_of[arm] for arm in failures if arm in screened}
    final = {candidate_of[arm] for arm in certified}
    return {who: why for who, why in found.items() if who not in final and (who not in left or who in later)}
