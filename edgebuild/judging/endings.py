"""How each candidate of a build ends, and the build itself: status, reason, outcome, and one sentence. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.verdict import Outcome
from edgebuild.judging.screening import CLOSE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgebuild.core.record import BuildOutcome, Status
    from edgebuild.core.verdict import Verdict
    from edgebuild.judging.selection import Selection


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What became of a candidate, and why."""

    status: Status
    reason: str


@dataclass(frozen=True, kw_only=True)
class Course:
    """How far a candidate came that was not certified.

    ``failure`` says why it could not be built, ``lost`` how it failed while it was measured. ``screened`` is the figure
    of its best setting in words, ``dropped`` why screening ended early for that one. ``passed_over`` says why it was
    not measured although it could have been, ``unproven`` why nothing was measured in this build.
    """

    failure: str | None = None
    verdict: Verdict | None = None
    lost: str | None = None
    screened: str | None = None
    dropped: str | None = None
    passed_over: str = "not measured"
    unproven: str = ""


def ending_of(course: Course) -> Ending:
    """Return how a candidate ends that was not certified: the first of its misfortunes counts."""
    if course.failure is not None:
        return Ending(status="failed", reason=course.failure)
    if course.unproven:
        return Ending(status="unraced", reason=course.unproven)
    if course.verdict is None:
        return Ending(status="failed", reason="was not judged")
    if course.verdict.outcome is Outcome.REFUSED:
        return Ending(status="refused", reason="; ".join(course.verdict.reasons))
    if course.lost is not None:
        return Ending(status="failed", reason=course.lost)
    if course.screened is None:
        return Ending(status="unraced", reason=course.passed_over)
    if course.dropped is not None:
        return Ending(status="screened", reason=f"dropped in screening: {course.dropped}")
    reason = (
        f"screened at {course.screened}, behind the finalists: the fastest of each profile, and what is within "
        f"{CLOSE - 1:.0%} of the fastest, as many as fit"
    )
    return Ending(status="screened", reason=reason)


def finalist_ending(name: str, verdict: Verdict, selection: Selection, *, decidable: bool) -> Ending:
    """Return how a finalist ends. ``decidable`` says that the device can be asked for the objective at all."""
    status: Status = "finalist"
    if name == selection.chosen:
        status = "chosen"
    elif verdict.outcome is Outcome.REFUSED:
        status = "refused"
    elif verdict.outcome is Outcome.INCONCLUSIVE:
        status = "inconclusive"
    elif selection.chosen is None and not decidable:
        status = "unraced"
    elif name not in selection.front:
        status = "dominated"
    return Ending(status=status, reason=selection.reasons[name])


def outcome_of(selection: Selection, verdicts: Iterable[Verdict], *, unproven: bool) -> BuildOutcome:
    """Return the outcome of a build: where nothing was chosen, whether anything might still have been."""
    if unproven:
        return "inconclusive"
    if selection.chosen is not None:
        return "ok"
    undecided = any(verdict.outcome is Outcome.INCONCLUSIVE for verdict in verdicts)
    return "inconclusive" if undecided else "missed"


def summary_of(
    selection: Selection,
    verdicts: Mapping[str, Verdict],
    outcome: BuildOutcome,
    *,
    failures: Mapping[str, str | None],
    unproven: str,
) -> str:
    """Return one sentence: what was chosen and why, or how close the best came.

    ``failures`` says of every candidate why it could not be built, if so. ``unproven`` says why nothing is proven.
    """
    if unproven and any(failure is None for failure in failures.values()):
        return f"Nothing is proven: {unproven}"
    if selection.chosen is not None:
        return f"{selection.chosen}: {selection.reasons[selection.chosen]}"
    if selection.nearest is None:
        reasons = "; ".join(f"{who}: {failure or 'refused on validation'}" for who, failure in failures.items())
        return f"Nothing could be {'compiled' if unproven else 'measured'}: {reasons}"
    what = "No candidate could be certified" if outcome == "inconclusive" else "No candidate stays inside the budget"
    return f"{what}; the nearest is {selection.nearest}: {'; '.join(verdicts[selection.nearest].reasons)}"
