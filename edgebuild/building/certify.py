"""Measures the finalists under the certify protocol, alongside the reference artifact, in one session each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.results import (
    CertifiedCandidate,
    MeasurementResults,
    disturbed,
    figure_of,
    summarised,
)
from edgebuild.core.candidate import settings_label
from edgebuild.core.measurement import Measurements
from edgebuild.core.record import Note, notes_on
from edgebuild.execution.faults import Failure
from edgebuild.judging.screening import lost_candidates
from edgebuild.measuring import session, side

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Evaluation
    from edgebuild.core.candidate import Variant
    from edgebuild.core.measurement import Comparison, Energy, Layer
    from edgebuild.measuring.protocols import Protocol
    from edgebuild.measuring.session import Arm, MeasurementContext, SessionResult

#: Said of a candidate whose throughput can't be more than what one request after the other gives.
ONE_AT_A_TIME = (
    "its throughput was measured with one request in flight: its backend, or the state that it carries, allows no more"
)


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A variant of a candidate in the race, and the arm that it is measured as."""

    variant: Variant
    evaluation: Evaluation
    arm: Arm


@dataclass(frozen=True)
class Screening:
    """The screening session, what it found by arm, and the arms of which no launch counts; nothing where none was."""

    session: SessionResult | None = None
    found: Mapping[str, Measurements] = field(default_factory=dict)
    disturbed: Mapping[str, str] = field(default_factory=dict)

    @property
    def sessions(self) -> tuple[SessionResult, ...]:
        """The session, if there was one."""
        return () if self.session is None else (self.session,)

    @property
    def dropped(self) -> dict[str, str]:
        """Which arms it dropped, and why."""
        return {name: why for each in self.sessions for name, why in each.dropped.items()}


def certify(
    bench: MeasurementContext,
    context: BuildContext,
    order: Sequence[str],
    entrants: Mapping[str, Entrant],
    batch: int,
    screening: Screening,
    crashed: dict[str, Failure],
) -> MeasurementResults:
    """Measure the reference artifact, which is the first of ``order``, alongside the others."""
    lost: dict[str, str] = {}
    sessions = {"single": _certified_session(bench, context.options.certify, order, entrants, crashed, lost)}
    busy = disturbed(sessions["single"], order[:1])
    screened = {entrants[name].variant: found for name, found in screening.found.items()}
    if busy:
        return MeasurementResults(
            screened=screened,
            notes=_settings_notes(entrants, screening, crashed),
            sessions=tuple(each.folder.path for each in (*screening.sessions, sessions["single"])),
            unproven=f"disturbed: of the reference artifact {busy[order[0]]}",
        )
    if wants_throughput(context):
        left = [name for name in order if name not in lost and name not in crashed]
        in_flight = context.options.certify.in_flight()
        sessions["flight"] = _certified_session(bench, in_flight, left, entrants, crashed, lost)
    finalists = _certified_finalists(bench, sessions, order, entrants, batch, lost, crashed)
    every = (*screening.sessions, *sessions.values())
    passed_over = [each.folder.note for each in every if each.folder.note]
    short = [cut for each in sessions.values() if (cut := cut_short(each))]
    if finalists:
        finalists[0] = replace(finalists[0], notes=(*finalists[0].notes, *notes_on("evidence", [*passed_over, *short])))
    resolutions = [f.measured.versus_reference.resolution for f in finalists if f.measured.versus_reference]
    dropped = {**screening.dropped, **lost, **screening.disturbed}
    return MeasurementResults(
        finalists=tuple(finalists),
        screened=screened,
        dropped={entrants[name].variant: why for name, why in dropped.items()},
        failed=lost_candidates(
            {name: entrant.variant.candidate for name, entrant in entrants.items()},
            {name: failure.sentence for name, failure in crashed.items()},
            screened=screening.found,
            certified=[finalist.variant.id for finalist in finalists],
        ),
        comparisons=_comparisons(sessions["flight" if context.objective.concurrent else "single"], finalists),
        notes=_settings_notes(entrants, screening, crashed),
        sessions=tuple(each.folder.path for each in every),
        anchor_ms=tuple(ms for each in every for ms in each.anchor_ms),
        resolution=max((r for r in resolutions if r is not None), default=None),
    )


def cut_short(result: SessionResult) -> str:
    """Say of a session that the time box ended it before its protocol would have; nothing of others."""
    if not result.cut_short:
        return ""
    most = max(len(measured.launches) for measured in result.measurements.values())
    planned = next((count for count in result.protocol.looks if count > most), result.protocol.max_launches)
    return (
        f"certifying was cut short by the time box after {most} of {planned} launches: what it says is as sure as its "
        f"intervals, and a build with more time goes on"
    )


def _certified_finalists(
    bench: MeasurementContext,
    sessions: Mapping[str, SessionResult],
    order: Sequence[str],
    entrants: Mapping[str, Entrant],
    batch: int,
    lost: Mapping[str, str],
    crashed: dict[str, Failure],
) -> list[CertifiedCandidate]:
    finalists: list[CertifiedCandidate] = []
    for name in order:
        if name not in lost and name not in crashed:
            entrant = entrants[name]
            done = bench.attempt(entrant.arm, partial(_certified, bench, sessions, entrant, order[0], batch))
            if isinstance(done, Failure):
                crashed[name] = done
            else:
                finalists.append(done)
    return finalists


def _comparisons(
    decisive: SessionResult, finalists: Sequence[CertifiedCandidate]
) -> dict[tuple[Variant, Variant], Comparison]:
    variants = [finalist.variant for finalist in finalists]
    pairs = [(one, other) for one in variants for other in variants if one != other]
    found = {(one, other): session.compare_arms(decisive, one.id, other.id) for one, other in pairs}
    return {pair: comparison for pair, comparison in found.items() if comparison is not None}


def wants_throughput(context: BuildContext) -> bool:
    """Whether anything asks how much several requests in flight get done."""
    return context.objective.concurrent or context.project.limits.throughput_per_s is not None


def _certified_session(
    bench: MeasurementContext,
    protocol: Protocol,
    order: Sequence[str],
    entrants: Mapping[str, Entrant],
    crashed: dict[str, Failure],
    lost: dict[str, str],
) -> SessionResult:
    """Measure under ``protocol``; adds to ``crashed``, and to ``lost`` the arms of which no launch counts."""
    title = "Certifying" if protocol.mode == "single" else "Certifying throughput"
    result = session.measure(bench, protocol, [entrants[name].arm for name in order], title=title)
    crashed.update(result.failed)
    lost.update(disturbed(result, (name for name in order[1:] if name not in crashed)))
    return result


def _certified(
    bench: MeasurementContext, sessions: Mapping[str, SessionResult], entrant: Entrant, reference: str, batch: int
) -> CertifiedCandidate:
    result, flight, arm = sessions["single"], sessions.get("flight"), entrant.arm
    layers, unread = _layers(bench, result, arm)
    energy, unmeasured = _energy(bench, result, arm)
    notes = (*unread, *unmeasured)
    throughput = summarised(flight, arm.id, batch).throughput if flight else None
    if throughput is not None and not throughput.concurrent:
        notes = (*notes, Note(topic="throughput", text=ONE_AT_A_TIME))
    return CertifiedCandidate(
        variant=entrant.variant,
        evaluation=entrant.evaluation,
        artifact=arm.artifact,
        measured=Measurements(
            latency=summarised(result, arm.id, batch).latency,
            throughput=throughput,
            memory=side.measure_memory(bench, result.folder, arm),
            energy=energy,
            versus_reference=None if arm.id == reference else session.compare_arms(result, arm.id, reference),
            layers=layers,
        ),
        samples_folder=result.folder.path,
        launches=result.measurements[arm.id].launches,
        notes=notes,
    )


def _layers(bench: MeasurementContext, result: SessionResult, arm: Arm) -> tuple[tuple[Layer, ...], tuple[Note, ...]]:
    """Return the layers as they run, or why they aren't known: a profiler that crashes doesn't ship."""
    evidence = replace(arm, keep=False)
    found = bench.attempt(evidence, lambda: side.read_layers(bench, result.folder, arm))
    if isinstance(found, Failure):
        return (), notes_on("layers", (f"what its layers run in is unknown: {found.sentence}", *found.notes))
    return found, ()


def _energy(bench: MeasurementContext, result: SessionResult, arm: Arm) -> tuple[Energy | None, tuple[Note, ...]]:
    """Return the energy of an inference where the device has a sensor, or why it isn't known."""
    evidence = replace(arm, keep=False)
    found = bench.attempt(evidence, lambda: side.measure_energy(bench, result.folder, arm))
    if isinstance(found, Failure):
        return None, notes_on("energy", (f"its energy is unknown: {found.sentence}", *found.notes))
    return found, ()


def _settings_notes(
    entrants: Mapping[str, Entrant], screening: Screening, crashed: Mapping[str, Failure]
) -> dict[str, tuple[Note, ...]]:
    """Say per candidate what each raced setting gave."""
    said: dict[str, list[Note]] = {}
    for name, error in crashed.items():
        variant = entrants[name].variant
        notes = said.setdefault(variant.candidate, [])
        notes.append(Note(topic="settings", text=f"with {settings_label(variant.settings)}: {error.sentence}"))
        notes += notes_on("bug", error.notes)
    for name, found in screening.found.items():
        variant = entrants[name].variant
        early = " (dropped early)" if name in screening.dropped else ""
        text = f"screened with {settings_label(variant.settings)}: {figure_of(found)}{early}"
        said.setdefault(variant.candidate, []).append(Note(topic="settings", text=text))
    return {candidate: tuple(notes) for candidate, notes in said.items()}
