"""The rows of a record: one for each finalist, and one for each candidate that was not certified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.building.evaluation import Evaluation
from edgebuild.building.results import cost_of, figure_of
from edgebuild.core.measurement import Measurements
from edgebuild.core.record import CandidateRecord
from edgebuild.judging.endings import Course, ending_of, finalist_ending

if TYPE_CHECKING:
    from edgebuild.building.evaluation import Built
    from edgebuild.building.judge import Judged
    from edgebuild.building.results import CertifiedCandidate, MeasurementResults
    from edgebuild.core.objective import Objective
    from edgebuild.core.verdict import Verdict
    from edgebuild.judging.selection import Selection


def finalist_record(
    name: str,
    finalist: CertifiedCandidate,
    verdict: Verdict,
    judged: Judged,
    selection: Selection,
    race: MeasurementResults,
    *,
    decidable: bool,
) -> CandidateRecord:
    """Return the row of a finalist; ``verdict`` is the one that limits were checked in."""
    ending = finalist_ending(name, verdict, selection, decidable=decidable)
    common = _common(finalist.evaluation, race)
    return CandidateRecord(
        **{**common, "notes": (*common["notes"], *finalist.notes), "closeness": judged.closeness},
        id=name,
        settings=finalist.artifact.settings,
        artifact_digest=finalist.artifact.digest(),
        status=ending.status,
        reason=ending.reason,
        test=verdict,
        screened=race.screened.get(finalist.variant, Measurements()),
        measured=race.profiled.get(finalist.planned.id, finalist.measured),
        on_front=name in selection.front,
    )


def other_record(built: Built, race: MeasurementResults, objective: Objective) -> CandidateRecord:
    """Return the row of a candidate that was not certified, with the reason why not."""
    who = built.planned.id
    own = {variant: found for variant, found in race.screened.items() if variant.candidate == who}
    best = min(own, key=lambda variant: (cost_of(own[variant]), variant.id), default=None)
    made = built if isinstance(built, Evaluation) else None
    ending = ending_of(
        Course(
            failure=None if isinstance(built, Evaluation) else built.reason,
            verdict=made.verdict if made else None,
            lost=race.failed.get(who),
            screened=figure_of(own[best]) if best else None,
            dropped=race.dropped.get(best) if best else None,
            passed_over=_passed_over(built, race, objective),
            unproven=race.unproven,
        )
    )
    return CandidateRecord(
        **_common(built, race),
        id=who,
        settings=made.artifact.settings if made else (),
        artifact_digest=made.artifact.digest() if made else None,
        status=ending.status,
        reason=ending.reason,
        screened=own[best] if best else Measurements(),
        measured=race.profiled.get(who, Measurements()),
    )


def _common(built: Built, race: MeasurementResults) -> dict[str, Any]:
    notes = (*built.notes, *race.notes.get(built.planned.id, ()))
    common: dict[str, Any] = {"spec": built.planned.spec, "notes": notes}
    if not isinstance(built, Evaluation):
        return common
    return {
        **common,
        "size_bytes": built.artifact.size_bytes,
        "contract": built.artifact.contract,
        "validation": built.verdict,
        "closeness": built.closeness,
        "crosscheck": built.crosscheck,
    }


def _passed_over(built: Built, race: MeasurementResults, objective: Objective) -> str:
    """Return why a candidate was not measured that could have been."""
    if race.passed_over:
        return race.passed_over
    disturbed = [why for variant, why in race.dropped.items() if variant.candidate == built.planned.id]
    if disturbed:
        return disturbed[0]
    if not built.planned.raced:
        return (
            f"{built.planned.precision.label} computes in fp32, so it is judged on size and memory and "
            f"not raced for {objective.name}"
        )
    return "not measured"
