"""The end of a build: check limits, choose among the finalists, give every loser its reason, write the record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgebuild.building.evaluation import FailedCandidate, evaluations
from edgebuild.building.record import Conclusion, write_record
from edgebuild.building.rows import finalist_record, other_record
from edgebuild.core.record import EmulatedDevice
from edgebuild.judging.endings import outcome_of, summary_of
from edgebuild.judging.limits import check_limits
from edgebuild.judging.outcomes import standing
from edgebuild.judging.selection import Option, missed_share, select

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import TypeAlias

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Evaluation
    from edgebuild.building.results import CertifiedCandidate, MeasurementResults
    from edgebuild.building.scoring import SealedSetScores
    from edgebuild.building.target_build import TargetBuild
    from edgebuild.core.artifact import Artifact
    from edgebuild.core.objective import Objective
    from edgebuild.core.record import BuildRecord
    from edgebuild.core.verdict import Verdict
    from edgebuild.judging.selection import Selection

    #: Where an artifact lies, and the artifact with the settings that it is kept with.
    Shipped: TypeAlias = tuple[Path, Artifact]


def conclude(target: TargetBuild, scores: SealedSetScores) -> BuildRecord:
    """Choose, and write the record of one target's build."""
    context, built, race = target.context, target.built, _survived(target.race, scores)
    names, objective = _names(race), context.objective
    verdicts = {name: _verdict(finalist, scores, context) for name, finalist in names.items()}
    standing_verdicts = {name: standing(verdict, objective, context.can) for name, verdict in verdicts.items()}
    plain = {
        f.planned.profile: name
        for name, f in names.items()
        if f.planned.precision.kind == "fp32" and not f.planned.recipe
    }
    options = [_option(name, f, standing_verdicts[name], objective, plain) for name, f in names.items()]
    selection = select(options, objective, race.compared(names) if objective.timed else None)
    decidable = context.can.decides(objective)
    finalists = [
        finalist_record(
            name, f, verdicts[name], scores.verdicts[f.artifact.digest()], selection, race, decidable=decidable
        )
        for name, f in names.items()
    ]
    certified = {finalist.planned.id for finalist in names.values()}
    others = [other_record(each, race, objective) for each in built if each.planned.id not in certified]
    made = evaluations(built)
    outcome = outcome_of(selection, standing_verdicts.values(), unproven=bool(race.unproven and made))
    kept, shipped = _kept(selection, names, made if race.unproven else ())
    samples = tuple(sample for sample in (target.validation.sample, scores.sample) if sample is not None)
    conclusion = Conclusion(
        candidates=(*finalists, *others),
        baseline=next(iter(names), ""),
        chosen=selection.chosen,
        kept=kept,
        outcome=outcome,
        summary=summary_of(
            selection,
            standing_verdicts,
            outcome,
            failures={e.planned.id: e.reason if isinstance(e, FailedCandidate) else None for e in built},
            unproven=race.unproven,
        ),
        test_set=scores.access,
        emulated=EmulatedDevice(cpu=context.probe.get("cpu", "unknown"), samples=samples) if samples else None,
        took=context.runs.total(),
    )
    record = write_record(target, race, conclusion, names=names, shipped=shipped, scores=scores)
    if outcome != "inconclusive":  # what is open goes on when it is asked for again
        context.decisions.keep(target.plan, (each.planned for each in built), race.sessions)
    return record


def _kept(
    selection: Selection, names: Mapping[str, CertifiedCandidate], unproven: Iterable[Evaluation]
) -> tuple[str | None, Shipped | None]:
    """Return whose artifact is kept, and that artifact: the chosen one, the nearest, or the smallest unproven one."""
    smallest = min(unproven, key=lambda each: (each.artifact.size_bytes, each.planned.id), default=None)
    if smallest is not None:
        return smallest.planned.id, (smallest.folder, smallest.artifact)
    kept = selection.chosen or selection.nearest
    return kept, (names[kept].evaluation.folder, names[kept].artifact) if kept is not None else None


def _survived(race: MeasurementResults, scores: SealedSetScores) -> MeasurementResults:
    """The race without the finalists that failed on the test set."""
    lost = {
        finalist.planned.id: scores.failed[digest].with_report
        for finalist in race.finalists
        if (digest := finalist.artifact.digest()) in scores.failed
    }
    left = tuple(finalist for finalist in race.finalists if finalist.artifact.digest() not in scores.failed)
    return replace(race, finalists=left, failed={**race.failed, **lost})


def _names(race: MeasurementResults) -> dict[str, CertifiedCandidate]:
    """Name finalists after their candidate; two variants of one candidate are distinguished by their settings."""
    ids = [finalist.planned.id for finalist in race.finalists]
    return {
        finalist.planned.id if ids.count(finalist.planned.id) == 1 else finalist.variant.id: finalist
        for finalist in race.finalists
    }


def _verdict(finalist: CertifiedCandidate, scores: SealedSetScores, context: BuildContext) -> Verdict:
    limits = {name: value for name, value in context.project.limits.model_dump().items() if value is not None}
    verdict = scores.verdicts[finalist.artifact.digest()].verdict
    size_bytes, why = finalist.artifact.size_bytes, context.can.why
    return check_limits(verdict, limits, size_bytes=size_bytes, measured=finalist.measured, why=why)


def _option(
    name: str, finalist: CertifiedCandidate, verdict: Verdict, objective: Objective, plain: Mapping[str, str]
) -> Option:
    figure = objective.figure(finalist.measured, finalist.artifact.size_bytes)
    own = plain.get(finalist.planned.profile)
    return Option(
        id=name,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        drop=verdict.drop.drop if verdict.drop else float("inf"),
        size_bytes=finalist.artifact.size_bytes,
        outcome=verdict.outcome,
        reasons=verdict.reasons,
        missed=missed_share(verdict),
        plain=own if own != name else None,
        gap=finalist.evaluation.gap,
    )
