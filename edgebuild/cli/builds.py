"""What `build`, `report` and `explain` say of a build with ``--json``: verdicts and figures, not the whole record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.measurement import Comparison, LatencySummary, ThroughputSummary
from edgebuild.core.objective import ObjectiveName
from edgebuild.core.record import BuildOutcome, CandidateRecord, EmulatedDevice, Note, Refusal, Status, StepRecord
from edgebuild.core.values import Value
from edgebuild.core.verdict import Drop, LimitCheck, Outcome
from edgebuild.reporting.sentences import drop_of, latency_of, ordered, reasons_of, verdict_of
from edgebuild.reporting.terminal import steps_of

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.record import BuildRecord


class CandidateFigures(Value):
    """How a candidate ended, and the figures that decided it; None is not known.

    ``verdict``, ``drop`` and ``limits`` are those on the test set where it was opened for the candidate, else on
    validation. Where ``certified`` is false, ``latency`` and ``throughput`` rank candidates and are no result.
    ``energy_j`` is net, of one inference; ``versus_reference`` compares with the baseline.
    """

    id: str
    status: Status
    reasons: tuple[str, ...]
    verdict: Outcome | None
    drop: Drop | None
    limits: tuple[LimitCheck, ...]
    latency: LatencySummary | None
    certified: bool
    throughput: ThroughputSummary | None
    versus_reference: Comparison | None
    size_bytes: int | None
    peak_memory_bytes: int | None
    energy_j: float | None


class Built(Value):
    """What a build for one target came to. Candidates are in the order of the report; paths are absolute.

    ``kept`` is the candidate whose artifact lies in ``artifact``: the chosen one, else the nearest. ``record`` holds
    everything; ``report`` is None where it couldn't be written. ``emulated`` is set where no real device answered.
    """

    project: str
    target: str
    device: str
    build_id: str
    started_at: str
    seconds: float
    objective: ObjectiveName
    outcome: BuildOutcome
    summary: str
    chosen: str | None
    kept: str | None
    baseline: str
    emulated: EmulatedDevice | None
    candidates: tuple[CandidateFigures, ...]
    refused_in_planning: tuple[Refusal, ...]
    notes: tuple[Note, ...]
    record: str
    report: str | None
    artifact: str | None


class Explained(Value):
    """A candidate's whole story in one build, and the steps that made it or served all."""

    build_id: str
    target: str
    baseline: str
    candidate: CandidateRecord
    steps: tuple[StepRecord, ...]


def built(record: BuildRecord, folder: Path, report: Path | None) -> Built:
    """Return what is told of a build whose record lies in ``folder``."""
    artifact = folder / "artifact"
    return Built(
        project=record.project,
        target=record.target,
        device=record.device,
        build_id=record.build_id,
        started_at=record.started_at,
        seconds=record.seconds,
        objective=record.objective,
        outcome=record.outcome,
        summary=record.summary,
        chosen=record.chosen,
        kept=record.kept,
        baseline=record.baseline,
        emulated=record.emulated,
        candidates=tuple(map(_figures, ordered(record))),
        refused_in_planning=record.refused_in_planning,
        notes=record.notes,
        record=str((folder / "build.json").absolute()),
        report=None if report is None else str(report.absolute()),
        artifact=str(artifact.absolute()) if artifact.is_dir() else None,
    )


def explained(record: BuildRecord, candidate: CandidateRecord) -> Explained:
    """Return what is told of a candidate."""
    return Explained(
        build_id=record.build_id,
        target=record.target,
        baseline=record.baseline,
        candidate=candidate,
        steps=steps_of(record, candidate),
    )


def _figures(c: CandidateRecord) -> CandidateFigures:
    verdict, measured = verdict_of(c), c.measured
    return CandidateFigures(
        id=c.id,
        status=c.status,
        reasons=reasons_of(c),
        verdict=None if verdict is None else verdict.outcome,
        drop=drop_of(c),
        limits=() if verdict is None else verdict.limits,
        latency=latency_of(c),
        certified=measured.latency is not None or measured.throughput is not None,
        throughput=measured.throughput or c.screened.throughput,
        versus_reference=measured.versus_reference,
        size_bytes=c.size_bytes,
        peak_memory_bytes=None if measured.memory is None else measured.memory.peak_bytes,
        energy_j=None if measured.energy is None else measured.energy.net_j_per_inference,
    )
