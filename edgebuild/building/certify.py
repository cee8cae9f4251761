"""Measures the finalists under the certify protocol, beside the reference artifact, in one session each."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.results import (
    CertifiedCandidate,
    MeasurementResults,
    disturbed,
    figure_of,
    flight_summary_of,
    settings_label,
    summary_of,
)
from edgebuild.execution.faults import Failure
from edgebuild.judging.screening import lost_candidates
from edgebuild.measuring import session, side

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Evaluation
    from edgebuild.building.results import Screened
    from edgebuild.core.measurement import Energy, Layer
    from edgebuild.measuring.protocols import Protocol
    from edgebuild.measuring.session import Arm, MeasurementContext, SessionResult

#: Said of a candidate whose throughput can't be more than what one request after the other gives.
ONE_AT_A_TIME = (
    "its throughput was measured with one request in flight: its backend, or the state that it carries, allows no more"
)


def certify(
    bench: MeasurementContext,
    context: BuildContext,
    order: Sequence[str],
    arms: Mapping[str, tuple[Arm, Evaluation]],
    batch: int,
    screen: SessionResult,
    summaries: Mapping[str, Screened],
    crashed: dict[str, Failure],
) -> MeasurementResults:
    """Measure the reference artifact, which is the first of ``order``, beside the others."""
    lost: dict[str, str] = {}
    sessions = {"single": _certified_session(bench, context.options.certify, order, arms, crashed, lost)}
    if wants_throughput(context):
        left = [name for name in order if name not in lost and name not in crashed]
        sessions["flight"] = _certified_session(bench, context.options.certify.in_flight(), left, arms, crashed, lost)
    finalists = []
    for name in order:
        arm, built = arms[name]
        if name not in lost and name not in crashed:
            done = bench.attempt(arm, partial(_certified, bench, sessions, arm, built, order[0], batch))
            if isinstance(done, Failure):
                crashed[arm.id] = done
            else:
                finalists.append(done)
    passed_over = tuple(each.folder.note for each in (screen, *sessions.values()) if each.folder.note)
    if finalists and passed_over:
        finalists[0] = replace(finalists[0], notes=(*finalists[0].notes, *passed_over))
    final = [finalist.arm for finalist in finalists]
    resolutions = [c.versus_reference.resolution for c in finalists if c.versus_reference is not None]
    decisive = sessions["flight" if context.objective.concurrent else "single"]
    return MeasurementResults(
        screened={name: (built.planned.id, summaries[name]) for name, (_, built) in arms.items() if name in summaries},
        dropped={**screen.dropped, **lost},
        finalists=tuple(finalists),
        anchor_ms=tuple(ms for result in (screen, *sessions.values()) for ms in result.anchor_ms),
        sessions=tuple(result.folder.path.name for result in (screen, *sessions.values())),
        resolution=max((r for r in resolutions if r is not None), default=None),
        comparisons={
            (a, b): found
            for a in final
            for b in final
            if a != b and (found := session.compare_arms(decisive, a, b)) is not None
        },
        settings_notes=_settings_notes(arms, summaries, screen.dropped, crashed),
        failed=lost_candidates(
            {name: built.planned.id for name, (_, built) in arms.items()},
            {name: failure.sentence for name, failure in crashed.items()},
            screened=summaries,
            certified=final,
        ),
    )


def wants_throughput(context: BuildContext) -> bool:
    """Whether anything asks how much several requests in flight get done."""
    return context.objective.concurrent or context.project.limits.throughput_per_s is not None


def _certified_session(
    bench: MeasurementContext,
    protocol: Protocol,
    order: Sequence[str],
    arms: Mapping[str, tuple[Arm, Evaluation]],
    crashed: dict[str, Failure],
    lost: dict[str, str],
) -> SessionResult:
    """Measure under ``protocol``; adds to ``crashed``, and to ``lost`` the arms of which no launch counts."""
    title = "Certifying" if protocol.mode == "single" else "Certifying throughput"
    result = session.measure(bench, protocol, [arms[name][0] for name in order], title=title)
    crashed.update(result.failed)
    lost.update(disturbed(result, (name for name in order[1:] if name not in crashed)))
    return result


def _certified(
    bench: MeasurementContext,
    sessions: Mapping[str, SessionResult],
    arm: Arm,
    built: Evaluation,
    reference: str,
    batch: int,
) -> CertifiedCandidate:
    result, flight = sessions["single"], sessions.get("flight")
    layers, unread = _layers(bench, result, arm)
    energy, unmeasured = _energy(bench, result, arm)
    notes = (*unread, *unmeasured)
    throughput = None if flight is None else flight_summary_of(flight, arm.id, batch)
    if throughput is not None and not throughput.concurrent:
        notes = (*notes, ONE_AT_A_TIME)
    return CertifiedCandidate(
        arm=arm.id,
        built=built,
        artifact=arm.artifact,
        summary=summary_of(result, arm.id, batch),
        memory=side.measure_memory(bench, result.folder, arm),
        energy=energy,
        layers=layers,
        versus_reference=None if arm.id == reference else session.compare_arms(result, arm.id, reference),
        samples_folder=result.folder.path,
        launches=result.measurements[arm.id].launches,
        throughput=throughput,
        notes=notes,
    )


def _layers(bench: MeasurementContext, result: SessionResult, arm: Arm) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return the layers as they run, or why they aren't known: a profiler that crashes doesn't ship."""
    evidence = replace(arm, keep=False)
    found = bench.attempt(evidence, lambda: side.read_layers(bench, result.folder, arm))
    if isinstance(found, Failure):
        return (), (f"what its layers run in is unknown: {found.sentence}", *found.notes)
    return found, ()


def _energy(bench: MeasurementContext, result: SessionResult, arm: Arm) -> tuple[Energy | None, tuple[str, ...]]:
    """Return the energy of an inference where the device has a sensor, or why it isn't known."""
    evidence = replace(arm, keep=False)
    found = bench.attempt(evidence, lambda: side.measure_energy(bench, result.folder, arm))
    if isinstance(found, Failure):
        return None, (f"its energy is unknown: {found.sentence}", *found.notes)
    return found, ()


def _settings_notes(
    arms: Mapping[str, tuple[Arm, Evaluation]],
    summaries: Mapping[str, Screened],
    dropped: Mapping[str, str],
    crashed: Mapping[str, Failure],
) -> dict[str, tuple[str, ...]]:
    """Say per candidate what each raced setting gave."""
    notes: dict[str, list[str]] = {}
    for name, error in crashed.items():
        arm, built = arms[name]
        label = settings_label(arm.artifact.settings)
        notes.setdefault(built.planned.id, []).append(f"with {label}: {error.sentence}")
        notes[built.planned.id] += error.notes
    for name, summary in summaries.items():
        arm, built = arms[name]
        early = " (dropped early)" if name in dropped else ""
        text = f"{settings_label(arm.artifact.settings)}: {figure_of(summary)}{early}"
        notes.setdefault(built.planned.id, []).append(f"screened with {text}")
    return {candidate: tuple(lines) for candidate, lines in notes.items()}
