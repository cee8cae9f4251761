"""Writes a build's record with its evidence, and finds earlier ones.

``<home>/builds/<build id>/``: ``build.json`` (the record, written last), ``artifact/`` (the chosen artifact, ready to
ship), ``samples/<candidate>/`` (raw latencies of every finalist). ``<home>/builds/journal.jsonl`` says in which order
builds were recorded, and ``<home>/builds/latest.json`` names the newest build of each target.
"""

from __future__ import annotations

import json
import resource
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from edgebuild.core.artifact_files import MANIFEST, NOTES, artifact_text
from edgebuild.core.files import read_plain
from edgebuild.core.measurement import Fact
from edgebuild.core.values import Value, canonical_json, digest_json
from edgebuild.core.verdict import BuildRecord
from edgebuild.errors import UsageError
from edgebuild.execution.disk import copy_file
from edgebuild.execution.faults import Failure
from edgebuild.execution.versions import installed_versions
from edgebuild.measuring import journal
from edgebuild.measuring.session_folder import write_atomic, writing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.building.context import BuildContext
    from edgebuild.building.results import CertifiedCandidate, MeasurementResults
    from edgebuild.building.seal import SealedSetAccess
    from edgebuild.core.artifact import Artifact
    from edgebuild.core.verdict import CandidateRecord
    from edgebuild.planning.plan import Plan

#: The key of build.json that holds the digest of all others.
DIGEST = "sha256"
#: A record or a candidate's samples are far smaller.
MAX_RECORD_BYTES = 256 << 20
#: A launch's samples are thinned to this many for drawing; the raw ones stay in the measurements folder.
DRAWN_SAMPLES = 2_000


def write_record(
    context: BuildContext,
    plan: Plan,
    race: MeasurementResults,
    opening: SealedSetAccess | None,
    candidates: tuple[CandidateRecord, ...],
    *,
    names: Mapping[str, CertifiedCandidate],
    baseline: str,
    chosen: str | None,
    kept: str | None,
    shipped: tuple[Path, Artifact] | None,
    outcome: Literal["ok", "missed", "inconclusive"],
    summary: str,
    seconds: float,
) -> BuildRecord:
    """Write the record and return it. ``kept`` names the candidate whose artifact is kept, chosen or merely best."""
    started = datetime.now(UTC) - timedelta(seconds=seconds)
    builds = context.home / "builds"

    def name_of(number: int) -> str:
        identity = {"target": plan.target, "at": started.isoformat(), "code": context.code.digest, "number": number}
        return f"{started.strftime('%Y%m%d-%H%M%S')}-{digest_json(identity)[:8]}"

    with writing(builds):
        builds.mkdir(parents=True, exist_ok=True)
        build_id = journal.begin(builds, name_of).name
        folder = builds / build_id
        folder.mkdir()
    if shipped is not None:
        _ship(*shipped, folder / "artifact")
    unkept = _keep_all_samples(context, names, folder / "samples")
    candidates = tuple(
        c.model_copy(update={"notes": (*c.notes, unkept[c.id])}) if c.id in unkept else c for c in candidates
    )
    record = BuildRecord(
        build_id=build_id,
        project=context.project.name,
        target=plan.target,
        device=context.client.device.id if context.measured else "none",
        started_at=started.isoformat(timespec="seconds"),
        seconds=seconds,
        objective=context.project.build.objective,
        budget_text=context.budget.text,
        outcome=outcome,
        chosen=chosen,
        kept=kept,
        summary=summary,
        baseline=baseline,
        seal=opening.text if opening else None,
        candidates=candidates,
        refused_in_planning=tuple((refusal.what, refusal.reason) for refusal in plan.refused),
        steps=tuple(context.executor.records),
        facts=tuple(Fact(name=name, value=value) for name, value in sorted(context.probe.items())),
        versions=installed_versions(),
        environment=race.finalists[0].launches[0].environment if race.finalists and race.finalists[0].launches else (),
        resolution=race.resolution,
        command=context.options.command,
        anchor_ms=race.anchor_ms,
        host_peak_bytes=_peak_bytes(),
        emulated=race.emulated.text if race.emulated else "",
        notes=tuple(context.said),
    )
    write_atomic(folder / "build.json", sealed_text(record))
    _point_latest(context.home, plan.target, build_id)
    return record


def _peak_bytes() -> int:
    """The host process's own peak; on Linux ru_maxrss of *self* is only wrong right after an exec from a bigger one."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _ship(source: Path, artifact: Artifact, folder: Path) -> None:
    """Copy the artifact with the settings it was measured with; notes are in the record."""
    shutil.copytree(source, folder, copy_function=copy_file, ignore=shutil.ignore_patterns(NOTES))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    write_atomic(folder / MANIFEST, artifact_text(artifact))


def _keep_all_samples(context: BuildContext, names: Mapping[str, CertifiedCandidate], folder: Path) -> dict[str, str]:
    """Keep every finalist's latencies for drawing; return by name why some could not be kept."""
    lost = {}
    for name, finalist in names.items():
        kept = context.guard.attempt(f"the latencies of {name}", partial(_keep_samples, finalist, folder, name))
        if isinstance(kept, Failure):
            lost[name] = f"its latencies can't be drawn: {kept.with_report}"
    return lost


def _keep_samples(finalist: CertifiedCandidate, folder: Path, name: str) -> None:
    """Keep thinned latencies per launch for drawing."""
    import numpy as np

    launches = []
    for launch in finalist.launches:
        if launch.valid:
            raw = np.fromfile(finalist.samples_folder / launch.samples, dtype="<i8")
            launches.append(raw[:: max(1, len(raw) // DRAWN_SAMPLES)].tolist())
    folder.mkdir(exist_ok=True)
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
    """Read a build's record; raises ``UsageError`` when it is damaged."""
    path = folder / "build.json"
    try:
        fields = json.loads(read_plain(path, MAX_RECORD_BYTES))
        if digest_json({k: v for k, v in fields.items() if k != DIGEST}) != fields.pop(DIGEST, ""):
            raise ValueError("another digest")
        return BuildRecord.model_validate_json(json.dumps(fields))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} can't be read: it is damaged or of another version.", hint="Build again, or name another --build."
        ) from error


def load_samples(folder: Path) -> tuple[dict[str, list[list[int]]], tuple[Path, ...]]:
    """Return the thinned latencies of a build's finalists, by candidate id, and the files that are damaged."""
    samples: dict[str, list[list[int]]] = {}
    damaged = []
    for path in sorted((folder / "samples").glob("*.json")):
        try:
            found = _Samples.model_validate_json(read_plain(path, MAX_RECORD_BYTES), strict=True)
            samples[found.id] = [list(launch) for launch in found.launches]
        except (OSError, ValueError):
            damaged.append(path)
    return samples, tuple(damaged)


class _Samples(Value):
    """``samples/*.json``: nanoseconds by launch."""

    id: str
    launches: tuple[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], ...]
