"""Writes a build's record with its evidence, and finds earlier ones.

``<home>/builds/<build id>/``: ``build.json`` (the record, written last), ``artifact/`` (the chosen artifact, ready to
ship), ``samples/`` (latencies of every finalist), and of a chosen one what a release needs (``building/golden.py``).
``<home>/builds/journal.jsonl`` says in which order builds were recorded, and ``<home>/builds/latest.json`` names the
newest build of each target.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.core.artifact_files import MANIFEST, NOTES, artifact_text
from edgebuild.core.evidence import KEPT, SAMPLES, evidence_of
from edgebuild.core.files import read_plain
from edgebuild.core.measurement import Fact
from edgebuild.core.record import BuildRecord, KeptSamples, Note
from edgebuild.core.values import canonical_json, digest_json
from edgebuild.errors import UsageError
from edgebuild.execution.disk import copy_file
from edgebuild.execution.faults import Failure
from edgebuild.execution.versions import installed_versions
from edgebuild.measuring import journal
from edgebuild.measuring.session_folder import write_atomic, writing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from edgebuild.building.context import BuildContext
    from edgebuild.building.results import CertifiedCandidate, MeasurementResults
    from edgebuild.building.runs import Total
    from edgebuild.building.scoring import SealedSetScores
    from edgebuild.building.target_build import TargetBuild
    from edgebuild.core.artifact import Artifact
    from edgebuild.core.record import BuildOutcome, CandidateRecord, EmulatedDevice, Evidence
    from edgebuild.core.verdict import SealedSetAccess

#: The key of build.json that holds the digest of all others.
DIGEST = "sha256"
#: A record or a candidate's samples are far smaller.
MAX_RECORD_BYTES = 256 << 20
SCHEMA_VERSION = BuildRecord.model_fields["schema_version"].default
#: A launch's samples are thinned to this many for drawing; the raw ones stay in the measurements folder.
DRAWN_SAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What a build for one target came to. ``kept`` names the candidate whose artifact is kept, chosen or nearest."""

    candidates: tuple[CandidateRecord, ...]
    baseline: str
    chosen: str | None
    kept: str | None
    outcome: BuildOutcome
    summary: str
    test_set: SealedSetAccess | None
    emulated: EmulatedDevice | None
    took: Total


def write_record(
    target: TargetBuild,
    race: MeasurementResults,
    conclusion: Conclusion,
    *,
    names: Mapping[str, CertifiedCandidate],
    shipped: tuple[Path, Artifact] | None,
    scores: SealedSetScores,
) -> BuildRecord:
    """Write the record, the samples of what ``names`` names and the artifact that is kept; return the record."""
    context, plan, took = target.context, target.plan, conclusion.took
    started = datetime.now(UTC) - timedelta(seconds=time.monotonic() - context.started)
    folder = _begin(context, plan.target, started)
    if shipped is not None:
        _ship(*shipped, folder / "artifact")
    if conclusion.chosen is not None:
        _keep_for_release(target, names[conclusion.chosen], folder, scores)
    unkept = _keep_all_samples(context, names, folder / SAMPLES)
    launches = next((finalist.launches for finalist in race.finalists), ())
    record = BuildRecord(
        candidates=tuple(_noted(row, unkept) for row in conclusion.candidates),
        baseline=conclusion.baseline,
        chosen=conclusion.chosen,
        kept=conclusion.kept,
        outcome=conclusion.outcome,
        summary=conclusion.summary,
        test_set=conclusion.test_set,
        emulated=conclusion.emulated,
        seconds=took.seconds,
        build_id=folder.name,
        project=context.project.name,
        target=plan.target,
        device=context.device_name,
        started_at=started.isoformat(timespec="seconds"),
        objective=context.project.build.objective,
        budget=context.budget,
        refused_in_planning=plan.refused,
        steps=tuple(context.executor.records),
        facts=tuple(Fact(name=name, value=value) for name, value in sorted(context.probe.items())),
        versions=installed_versions(),
        environment=launches[0].environment if launches else (),
        resolution=race.resolution,
        command=context.options.command,
        anchor_ms=race.anchor_ms,
        host_peak_bytes=took.peak_bytes,
        runs=took.runs,
        evidence=_evidence(context, (*race.sessions, *(folder / name for name in KEPT if (folder / name).is_dir()))),
        notes=tuple(context.said),
    )
    write_atomic(folder / "build.json", sealed_text(record))
    _point_latest(context.home, plan.target, record.build_id)
    return record


def _keep_for_release(target: TargetBuild, chosen: CertifiedCandidate, folder: Path, scores: SealedSetScores) -> None:
    from edgebuild.building.golden import keep_for_release  # imports numpy, which who reads a record doesn't need

    tested = scores.verdicts[chosen.artifact.digest()]
    keep = partial(keep_for_release, target, chosen.evaluation, folder, tested, scores.identity)
    kept = target.context.guard.attempt("what a release needs", keep)
    if isinstance(kept, Failure):
        target.context.say("evidence", f"a release can't be made of this build: {kept.with_report}")


def _noted(row: CandidateRecord, unkept: Mapping[str, Note]) -> CandidateRecord:
    return row.model_copy(update={"notes": (*row.notes, unkept[row.id])}) if row.id in unkept else row


def _evidence(context: BuildContext, folders: Iterable[Path]) -> tuple[Evidence, ...]:
    """Name the folders by the digest of their files; one that can't be read is said, and not named."""
    found = []
    for folder in folders:
        try:
            found.append(evidence_of(context.home, folder))
        except (OSError, ValueError) as error:
            context.say("evidence", f"{folder.name} can't be named by its digest: {error}")
    return tuple(found)


def _begin(context: BuildContext, target: str, started: datetime) -> Path:
    """Make the folder of a build, whose name sorts by time and says nothing else."""
    builds = context.home / "builds"

    def name_of(number: int) -> str:
        identity = {"target": target, "at": started.isoformat(), "code": context.code.digest, "number": number}
        return f"{started.strftime('%Y%m%d-%H%M%S')}-{digest_json(identity)[:8]}"

    with writing(builds):
        builds.mkdir(parents=True, exist_ok=True)
        folder = builds / journal.begin(builds, name_of).name
        folder.mkdir()
    return folder


def _ship(source: Path, artifact: Artifact, folder: Path) -> None:
    """Copy the artifact with the settings it was measured with; notes are in the record."""
    shutil.copytree(source, folder, copy_function=copy_file, ignore=shutil.ignore_patterns(NOTES))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    write_atomic(folder / MANIFEST, artifact_text(artifact))


def _keep_all_samples(context: BuildContext, names: Mapping[str, CertifiedCandidate], folder: Path) -> dict[str, Note]:
    """Keep every finalist's latencies for drawing; return by name why some could not be kept."""
    lost = {}
    folder.mkdir()
    for name, finalist in names.items():
        kept = context.guard.attempt(f"the latencies of {name}", partial(_keep_samples, finalist, folder, name))
        if isinstance(kept, Failure):
            lost[name] = Note(topic="evidence", text=f"its latencies can't be drawn: {kept.with_report}")
    return lost


def _keep_samples(finalist: CertifiedCandidate, folder: Path, name: str) -> None:
    """Keep thinned latencies per launch for drawing."""
    import numpy as np

    launches = []
    for launch in finalist.launches:
        if launch.valid:
            raw = np.fromfile(finalist.samples_folder / launch.samples, dtype="<i8")
            launches.append(raw[:: max(1, len(raw) // DRAWN_SAMPLES)].tolist())
    write_atomic(folder / f"{digest_json(name)[:16]}.json", canonical_json({"id": name, "launches": launches}))


def _point_latest(home: Path, target: str, build_id: str) -> None:
    path = home / "builds" / "latest.json"
    latest = _read_latest(home)
    write_atomic(path, canonical_json({**latest, target: build_id}))


def _read_latest(home: Path) -> dict[str, str]:
    try:
        found = json.loads((home / "builds" / "latest.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def find_build(home: Path, which: str | None = None, *, target: str | None = None) -> Path:
    """Return a build's folder by id or a prefix of it; without one, the newest (of ``target``), as the journal says.

    Raises ``UsageError`` when there is none.
    """
    root = home / "builds"
    if which == "":
        raise UsageError("An empty text names no build.", hint="Name its id or the start of it.")
    order = {line.name: line.number for line in journal.read(root)}
    builds = sorted(
        (path.parent for path in root.glob("*/build.json")), key=lambda path: (order.get(path.name, 0), path.name)
    )
    if which is not None:
        builds = [path for path in builds if path.name.startswith(which)]
        if len(builds) > 1:
            raise UsageError(
                f"{which!r} fits {len(builds)} builds.", hint=f"They are {', '.join(b.name for b in builds)}."
            )
    elif target is not None:
        latest = _read_latest(home).get(target)
        builds = [path for path in builds if path.name == latest]
    if not builds:
        what = f"build {which!r}" if which else "build"
        raise UsageError(f"There is no {what} in {root}.", hint="`edgebuild build` makes one.")
    return builds[-1]


def sealed_text(record: BuildRecord) -> str:
    """Return what build.json holds: the record, and the digest of it by which damage is found."""
    fields = record.model_dump(mode="json")
    return canonical_json({**fields, DIGEST: digest_json(fields)})


def load_record(folder: Path) -> BuildRecord:
    """Read a build's record; raises ``UsageError`` when it is damaged or of another version."""
    path = folder / "build.json"
    try:
        fields = json.loads(read_plain(path, MAX_RECORD_BYTES))
        if digest_json({k: v for k, v in fields.items() if k != DIGEST}) != fields.pop(DIGEST, ""):
            raise ValueError("another digest")
        if (version := fields["schema_version"]) != SCHEMA_VERSION:
            which = f"version {version}" if type(version) is int and 0 < version < SCHEMA_VERSION else "another version"
            raise UsageError(
                f"{path} is of {which}, and this edgebuild reads version {SCHEMA_VERSION}.",
                hint="Build again; what is in the store is used again.",
            )
        return BuildRecord.model_validate_json(json.dumps(fields))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} can't be read: it is damaged.", hint="Build again, or name another --build."
        ) from error


def load_samples(folder: Path) -> tuple[dict[str, list[list[int]]], tuple[Path, ...]]:
    """Return the thinned latencies of a build's finalists, by candidate id, and the files that are damaged."""
    samples: dict[str, list[list[int]]] = {}
    damaged = []
    for path in sorted((folder / SAMPLES).glob("*.json")):
        try:
            found = KeptSamples.model_validate_json(read_plain(path, MAX_RECORD_BYTES), strict=True)
            samples[found.id] = [list(launch) for launch in found.launches]
        except (OSError, ValueError):
            damaged.append(path)
    return samples, tuple(damaged)
