"""The end of a build: open the sealed test set once, check limits, choose, and write the record with its evidence."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgebuild.building.candidates import evaluate, judge
from edgebuild.building.data import materialise
from edgebuild.building.early import described
from edgebuild.building.emulated import NO_SPEED, sampled, without_speed
from edgebuild.building.evaluation import Evaluation
from edgebuild.building.prepare import run_reference
from edgebuild.building.record import write_record
from edgebuild.building.results import cost_of, figure_of
from edgebuild.building.seal import SealedSetAccess, record_test_access
from edgebuild.core.measurement import LatencySummary
from edgebuild.core.verdict import CandidateRecord, Outcome, Verdict
from edgebuild.execution.faults import Failure
from edgebuild.judging.intervals import level_for_opening
from edgebuild.judging.limits import Measured, check_limits
from edgebuild.judging.screening import CLOSE
from edgebuild.judging.selection import Option, missed_share, select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgebuild.building.context import BuildContext
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.results import CertifiedCandidate, MeasurementResults, Screened
    from edgebuild.core.artifact import Artifact
    from edgebuild.core.measurement import Memory
    from edgebuild.core.objective import Objective
    from edgebuild.core.verdict import BuildRecord, Closeness, Emulation
    from edgebuild.execution.executor import StepResult
    from edgebuild.judging.selection import Selection
    from edgebuild.planning.plan import Plan

#: What the test set said of the finalists of one target, by artifact digest.
Scored: TypeAlias = "Mapping[str, tuple[Verdict, Closeness]]"
Status = Literal["chosen", "finalist", "screened", "unraced", "dominated", "refused", "inconclusive", "failed"]


@dataclass(frozen=True, kw_only=True)
class SealedSetScores:
    """What the sealed test set said about the finalists, by target and artifact digest.

    ``failed`` says who failed on it and how, ``samples`` by target how much of the set an emulated device was given.
    """

    opening: SealedSetAccess | None
    verdicts: Mapping[tuple[str, str], tuple[Verdict, Closeness]]
    failed: Mapping[tuple[str, str], Failure] = field(default_factory=dict)
    samples: Mapping[str, str] = field(default_factory=dict)


def open_test_set(
    races: Sequence[MeasurementResults], prepared: ModelInputs, worlds: Sequence[BuildContext]
) -> SealedSetScores:
    """Score every finalist of every target on the test set, in one opening that is on record before it happens.

    Each is run where its target is; the reference is run once. Raises ``DeviceError`` when a device fails, or a
    baseline on it.
    """
    places = tuple(zip(races, worlds, strict=True))
    finalists = {(at.target, c.artifact.digest()): (c, at) for race, at in places for c in race.finalists}
    if not finalists:
        return SealedSetScores(opening=None, verdicts={})
    context = worlds[0]
    test = materialise(context, "test")
    opening = record_test_access(
        context.home / "seal.jsonl",
        project=context.project.name,
        test_digest=described(context, "test").identity,
        # What older lines name the set by: the digest of the files that it is kept in, in that order of samples.
        also=(test.entry.digest,),
        artifacts=dict.fromkeys(digest for _, digest in finalists),
    )
    for note in opening.notes:
        context.say(note)
    reference = run_reference(context, prepared.imported, prepared.given, test, "test")
    baselines = {(at.target, race.finalists[0].artifact.digest()) for race, at in places if race.finalists}
    verdicts, failed, samples = {}, {}, {}
    for key, (finalist, at) in finalists.items():
        who, compiled = finalist.built.planned.id, finalist.built.compiled
        if compiled is None:
            continue
        data, wanted = test, reference
        if at.emulated:
            part = sampled(test, "test", prepared, at, reference)
            data, wanted = part.data, part.reference
            samples[at.target] = part.text
        scored = partial(_scored, at, finalist, compiled, data, wanted, level_for_opening(opening.number))
        verdict = scored() if key in baselines else at.guard.attempt(f"{who} on the test set", scored)
        if isinstance(verdict, Failure):
            failed[key] = verdict
        else:
            verdicts[key] = verdict
    return SealedSetScores(opening=opening, verdicts=verdicts, failed=failed, samples=samples)


def _scored(
    at: BuildContext,
    finalist: CertifiedCandidate,
    compiled: StepResult,
    data: StepResult,
    reference: StepResult,
    level: float,
) -> tuple[Verdict, Closeness]:
    who = finalist.built.planned.id
    outputs = evaluate(at, finalist.artifact, compiled, data, "test", who)
    return judge(at, who, reference, outputs, data, "test", level=level)


def _survived(race: MeasurementResults, opened: SealedSetScores, target: str) -> MeasurementResults:
    """The race without the finalists that failed on the test set."""
    lost = {
        f.built.planned.id: opened.failed[key]
        for f in race.finalists
        if (key := (target, f.artifact.digest())) in opened.failed
    }
    return replace(
        race,
        finalists=tuple(f for f in race.finalists if (target, f.artifact.digest()) not in opened.failed),
        failed={**race.failed, **{who: failure.with_report for who, failure in lost.items()}},
    )


def conclude(
    plan: Plan, built: Sequence[Evaluation], race: MeasurementResults, opened: SealedSetScores, context: BuildContext
) -> BuildRecord:
    """Check limits, choose among the finalists, give every loser its reason, and write the record."""
    race = _survived(race, opened, context.target)
    if race.emulated and context.target in opened.samples:
        looked_at = f"{race.emulated.samples} and {opened.samples[context.target]} test frames"
        race = replace(race, emulated=replace(race.emulated, samples=looked_at))
    names = _names(race)
    limits = {name: value for name, value in context.project.limits.model_dump().items() if value is not None}
    scored = {digest: each for (target, digest), each in opened.verdicts.items() if target == context.target}
    verdicts = {name: _verdict(finalist, scored, limits, race) for name, finalist in names.items()}
    objective = context.objective
    # What an emulated device says of accuracy stands; it decides nothing about speed.
    standing = {name: without_speed(v, objective) for name, v in verdicts.items()} if race.emulated else verdicts
    comparisons = {
        (left, right): race.comparisons[one.arm, other.arm]
        for left, one in names.items()
        for right, other in names.items()
        if (one.arm, other.arm) in race.comparisons
    }
    plain = {
        f.built.planned.profile: name
        for name, f in names.items()
        if f.built.planned.precision.kind == "fp32" and not f.built.planned.recipe
    }
    options = [_option(name, finalist, standing[name], objective, plain) for name, finalist in names.items()]
    selection = select(options, objective, comparisons if objective.timed else None)
    finalists = [_finalist_record(name, f, verdicts[name], scored, selection, race) for name, f in names.items()]
    measured = {finalist.built.planned.id for finalist in names.values()}
    others = [_other_record(b, race, context) for b in built if b.planned.id not in measured]
    unproven = race.unmeasured and any(b.artifact for b in built)
    outcome = "inconclusive" if unproven else _outcome(selection, standing)
    kept = selection.chosen or selection.nearest
    smallest = min((b for b in built if b.artifact), key=_size, default=None) if race.unmeasured else None
    return write_record(
        context,
        plan,
        race,
        opened.opening,
        (*finalists, *others),
        names=names,
        baseline=next(iter(names), ""),
        chosen=selection.chosen,
        kept=smallest.planned.id if smallest else kept,
        shipped=_shipped(names[kept] if kept else smallest),
        outcome=outcome,
        summary=_summary(selection, standing, outcome, built, race),
        seconds=time.monotonic() - context.started,
    )


def _size(built: Evaluation) -> tuple[int, str]:
    return built.artifact.size_bytes if built.artifact else 0, built.planned.id


def _shipped(kept: CertifiedCandidate | Evaluation | None) -> tuple[Path, Artifact] | None:
    """Where the artifact that is kept lies, and the artifact with the settings that it is kept with."""
    if kept is None or kept.artifact is None:
        return None
    return (kept.folder if isinstance(kept, Evaluation) else kept.built.folder), kept.artifact


def _names(race: MeasurementResults) -> dict[str, CertifiedCandidate]:
    """Name finalists after their candidate; two settings of one candidate are told apart by their settings."""
    ids = [finalist.built.planned.id for finalist in race.finalists]
    return {
        finalist.built.planned.id if ids.count(finalist.built.planned.id) == 1 else finalist.arm: finalist
        for finalist in race.finalists
    }


def _verdict(
    finalist: CertifiedCandidate, scored: Scored, limits: Mapping[str, float], race: MeasurementResults
) -> Verdict:
    verdict, _ = scored[finalist.artifact.digest()]
    measured = Measured(
        latency=finalist.summary,
        throughput=finalist.throughput,
        memory=finalist.memory,
        size_bytes=finalist.artifact.size_bytes,
    )
    if race.emulated:
        measured = replace(measured, why=NO_SPEED)
    return check_limits(verdict, limits, measured)


def _option(
    name: str, finalist: CertifiedCandidate, verdict: Verdict, objective: Objective, plain: Mapping[str, str]
) -> Option:
    figure = objective.figure(
        size_bytes=finalist.artifact.size_bytes,
        latency=finalist.summary,
        throughput=finalist.throughput,
        memory=finalist.memory,
    )
    own = plain.get(finalist.built.planned.profile)
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
        gap=finalist.built.crosscheck.explanation if finalist.built.crosscheck and finalist.built.gapped else None,
    )


def _finalist_record(
    name: str,
    finalist: CertifiedCandidate,
    verdict: Verdict,
    scored: Scored,
    selection: Selection,
    race: MeasurementResults,
) -> CandidateRecord:
    status: Status = "finalist"
    if name == selection.chosen:
        status = "chosen"
    elif verdict.outcome is Outcome.REFUSED:
        status = "refused"
    elif verdict.outcome is Outcome.INCONCLUSIVE:
        status = "inconclusive"
    elif race.emulated and selection.chosen is None:
        status = "unraced"
    elif name not in selection.front:
        status = "dominated"
    built = finalist.built
    screened = race.screened.get(finalist.arm)
    return CandidateRecord(
        **_common(built),
        id=name,
        settings=finalist.artifact.settings,
        artifact_digest=finalist.artifact.digest(),
        size_bytes=finalist.artifact.size_bytes,
        contract=finalist.artifact.contract,
        status=status,
        reason=selection.reasons[name],
        notes=(*built.notes, *race.settings_notes.get(built.planned.id, ()), *finalist.notes),
        validation=built.verdict,
        test=verdict,
        closeness=scored[finalist.artifact.digest()][1],
        **_screened(screened and screened[1]),
        certify=finalist.summary,
        throughput=finalist.throughput,
        memory=_memory(finalist.built, race) or finalist.memory,
        emulation=_emulation(finalist.built, race),
        energy=finalist.energy,
        versus_reference=finalist.versus_reference,
        layers=finalist.layers,
        measurements=race.sessions,
        on_front=name in selection.front,
    )


def _other_record(built: Evaluation, race: MeasurementResults, context: BuildContext) -> CandidateRecord:
    """A candidate that was not certified, with the reason why not."""
    own = {arm: summary for arm, (candidate, summary) in race.screened.items() if candidate == built.planned.id}
    best = min(own, key=lambda arm: (cost_of(own[arm]), arm), default=None)
    status: Status = "screened"
    if race.unmeasured and built.failure is None:
        status, reason = "unraced", race.unmeasured
    elif built.failure is not None or built.verdict is None:
        status, reason = "failed", built.failure or "was not judged"
    elif built.verdict.outcome is Outcome.REFUSED:
        status, reason = "refused", "; ".join(built.verdict.reasons)
    elif built.planned.id in race.failed:
        status, reason = "failed", race.failed[built.planned.id]
    elif best is not None and best in race.dropped:
        reason = f"dropped in screening: {race.dropped[best]}"
    elif best is not None:
        reason = f"screened at {figure_of(own[best])}, more than {CLOSE - 1:.0%} behind the fastest of its kind"
    else:
        status, reason = "unraced", _not_raced(built, race, context)
    return CandidateRecord(
        **_common(built),
        id=built.planned.id,
        settings=built.artifact.settings if built.artifact else (),
        artifact_digest=built.artifact.digest() if built.artifact else None,
        size_bytes=built.artifact.size_bytes if built.artifact else None,
        contract=built.artifact.contract if built.artifact else None,
        status=status,
        reason=reason,
        notes=(*built.notes, *race.settings_notes.get(built.planned.id, ())),
        validation=built.verdict,
        closeness=built.closeness,
        **_screened(own[best] if best else None),
        memory=_memory(built, race),
        emulation=_emulation(built, race),
    )


def _screened(found: Screened | None) -> dict[str, Any]:
    return {"screen" if isinstance(found, LatencySummary) else "throughput_screen": found}


def _memory(built: Evaluation, race: MeasurementResults) -> Memory | None:
    return race.emulated.memories.get(built.planned.id) if race.emulated else None


def _emulation(built: Evaluation, race: MeasurementResults) -> Emulation | None:
    return race.emulated.emulations.get(built.planned.id) if race.emulated else None


def _not_raced(built: Evaluation, race: MeasurementResults, context: BuildContext) -> str:
    if race.emulated:
        return f"not scored on the test set: {len(race.finalists)} others came first; {NO_SPEED}"
    disturbed = [why for arm, why in race.dropped.items() if arm.startswith(f"{built.planned.id} (")]
    if disturbed:
        return disturbed[0]
    if built.planned.precision.kind == "fp16":
        return (
            "fp16 is storage on this profile: it computes in fp32, so it is judged on size and memory and "
            f"not raced for {context.objective.name}"
        )
    return "not measured"


def _common(built: Evaluation) -> dict[str, Any]:
    planned = built.planned
    return {
        "profile": planned.profile,
        "backend": planned.backend,
        "precision": planned.precision,
        "crosscheck": built.crosscheck,
        "recipe": planned.recipe,
    }


def _outcome(selection: Selection, verdicts: Mapping[str, Verdict]) -> Literal["ok", "missed", "inconclusive"]:
    if selection.chosen is not None:
        return "ok"
    undecided = any(verdict.outcome is Outcome.INCONCLUSIVE for verdict in verdicts.values())
    return "inconclusive" if undecided else "missed"


def _summary(
    selection: Selection,
    verdicts: Mapping[str, Verdict],
    outcome: str,
    built: Sequence[Evaluation],
    race: MeasurementResults,
) -> str:
    """One sentence: what was chosen and why, or how close the best came."""
    if race.unmeasured and any(b.artifact for b in built):
        return f"Nothing is proven: {race.unmeasured}"
    if selection.chosen is not None:
        return f"{selection.chosen}: {selection.reasons[selection.chosen]}"
    if selection.nearest is None:
        reasons = "; ".join(f"{b.planned.id}: {b.failure or 'refused on validation'}" for b in built)
        return f"Nothing could be {'compiled' if race.unmeasured else 'measured'}: {reasons}"
    verdict = verdicts[selection.nearest]
    what = "No candidate could be certified" if outcome == "inconclusive" else "No candidate stays inside the budget"
    return f"{what}; the nearest is {selection.nearest}: {'; '.join(verdict.reasons)}"
