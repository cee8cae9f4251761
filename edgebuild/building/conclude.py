"""The end of a build: open the sealed test set once, check limits, choose, and write the record with its evidence."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgebuild.building.candidates import Built, evaluate, judge
from edgebuild.building.prepare import materialise, run_reference
from edgebuild.building.race import CLOSE
from edgebuild.building.record import write_record
from edgebuild.building.seal import Opening, open_seal
from edgebuild.core.verdict import CandidateRecord, Outcome, Verdict
from edgebuild.judging.intervals import level_for_opening
from edgebuild.judging.limits import Measured, check_limits
from edgebuild.judging.selection import Option, missed_share, select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgebuild.building.prepare import Prepared
    from edgebuild.building.race import Certified, Race
    from edgebuild.building.world import World
    from edgebuild.core.artifact import Artifact
    from edgebuild.core.verdict import BuildRecord, Closeness
    from edgebuild.judging.selection import Objective, Selection
    from edgebuild.planning.plan import Plan

Status = Literal["chosen", "finalist", "screened", "unraced", "dominated", "refused", "inconclusive", "failed"]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What the sealed test set said about the finalists, by artifact digest."""

    opening: Opening | None
    verdicts: Mapping[str, tuple[Verdict, Closeness]]


def open_test_set(races: Sequence[Race], prepared: Prepared, worlds: Sequence[World]) -> Opened:
    """Score every finalist of every target on the test set, in one opening that is on record before it happens.

    Each is run where its target is; the reference is run once.
    """
    finalists = {c.artifact.digest(): (c, at) for race, at in zip(races, worlds, strict=True) for c in race.finalists}
    if not finalists:
        return Opened(opening=None, verdicts={})
    world = worlds[0]
    test = materialise(world, "test")
    opening = open_seal(
        world.home / "seal.jsonl",
        project=world.project.name,
        test_digest=test.entry.digest,
        artifacts=finalists,
    )
    reference = run_reference(world, prepared.imported, prepared.given, test, "test")
    verdicts = {}
    for digest, (finalist, at) in finalists.items():
        who, compiled = finalist.built.planned.id, finalist.built.compiled
        if compiled is None:
            continue
        outputs = evaluate(at, finalist.artifact, compiled, test, "test", who)
        level = level_for_opening(opening.number)
        verdicts[digest] = judge(at, who, reference, outputs, test, "test", level=level)
    return Opened(opening=opening, verdicts=verdicts)


def conclude(plan: Plan, built: Sequence[Built], race: Race, opened: Opened, world: World) -> BuildRecord:
    """Check limits, choose among the finalists, give every loser its reason, and write the record."""
    names = _names(race)
    limits = {name: value for name, value in world.project.limits.model_dump().items() if value is not None}
    verdicts = {name: _verdict(finalist, opened, limits) for name, finalist in names.items()}
    objective = world.project.build.objective
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
    options = [_option(name, finalist, verdicts[name], objective, plain) for name, finalist in names.items()]
    selection = select(options, objective, comparisons if objective in {"latency", "throughput"} else None)
    finalists = [_finalist_record(name, f, verdicts[name], opened, selection, race) for name, f in names.items()]
    measured = {finalist.built.planned.id for finalist in names.values()}
    others = [_other_record(b, race, world) for b in built if b.planned.id not in measured]
    outcome = "inconclusive" if race.unmeasured else _outcome(selection, verdicts)
    kept = selection.chosen or selection.nearest
    smallest = min((b for b in built if b.artifact), key=_size, default=None) if race.unmeasured else None
    return write_record(
        world,
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
        summary=_summary(selection, verdicts, outcome, built, race),
        seconds=time.monotonic() - world.started,
    )


def _size(built: Built) -> tuple[int, str]:
    return built.artifact.size_bytes if built.artifact else 0, built.planned.id


def _shipped(kept: Certified | Built | None) -> tuple[Path, Artifact] | None:
    """Where the artifact that is kept lies, and the artifact with the settings that it is kept with."""
    if kept is None or kept.artifact is None:
        return None
    return (kept.folder if isinstance(kept, Built) else kept.built.folder), kept.artifact


def _names(race: Race) -> dict[str, Certified]:
    """Name finalists after their candidate; two settings of one candidate are told apart by their settings."""
    ids = [finalist.built.planned.id for finalist in race.finalists]
    return {
        finalist.built.planned.id if ids.count(finalist.built.planned.id) == 1 else finalist.arm: finalist
        for finalist in race.finalists
    }


def _verdict(finalist: Certified, opened: Opened, limits: Mapping[str, float]) -> Verdict:
    verdict, _ = opened.verdicts[finalist.artifact.digest()]
    measured = Measured(latency=finalist.summary, memory=finalist.memory, size_bytes=finalist.artifact.size_bytes)
    return check_limits(verdict, limits, measured)


def _option(name: str, finalist: Certified, verdict: Verdict, objective: Objective, plain: Mapping[str, str]) -> Option:
    summary = finalist.summary
    low: float | None = None
    high: float | None = None
    if objective == "size":
        value = float(finalist.artifact.size_bytes)
    elif objective == "memory":
        value = float(finalist.memory.peak_bytes) if finalist.memory else float("inf")
    elif objective == "throughput":
        value = summary.throughput_per_s
    else:
        value, low, high = summary.point_ms, summary.low_ms, summary.high_ms
    own = plain.get(finalist.built.planned.profile)
    return Option(
        id=name,
        value=value,
        low=low,
        high=high,
        drop=verdict.drop.drop if verdict.drop else float("inf"),
        size_bytes=finalist.artifact.size_bytes,
        outcome=verdict.outcome,
        reasons=verdict.reasons,
        missed=missed_share(verdict),
        plain=own if own != name else None,
    )


def _finalist_record(
    name: str, finalist: Certified, verdict: Verdict, opened: Opened, selection: Selection, race: Race
) -> CandidateRecord:
    status: Status = "finalist"
    if name == selection.chosen:
        status = "chosen"
    elif verdict.outcome is Outcome.REFUSED:
        status = "refused"
    elif verdict.outcome is Outcome.INCONCLUSIVE:
        status = "inconclusive"
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
        notes=(*built.notes, *race.settings_notes.get(built.planned.id, ())),
        validation=built.verdict,
        test=verdict,
        closeness=opened.verdicts[finalist.artifact.digest()][1],
        screen=screened[1] if screened else None,
        certify=finalist.summary,
        memory=finalist.memory,
        energy=finalist.energy,
        versus_reference=finalist.versus_reference,
        layers=finalist.layers,
        measurements=race.sessions,
        on_front=name in selection.front,
    )


def _other_record(built: Built, race: Race, world: World) -> CandidateRecord:
    """A candidate that was not certified, with the reason why not."""
    own = {arm: summary for arm, (candidate, summary) in race.screened.items() if candidate == built.planned.id}
    best = min(own, key=lambda arm: (own[arm].point_ms, arm), default=None)
    status: Status = "screened"
    if race.unmeasured and built.failure is None:
        status, reason = "unraced", race.unmeasured
    elif built.failure is not None or built.verdict is None:
        status, reason = "failed", built.failure or "was not judged"
    elif built.verdict.outcome is Outcome.REFUSED:
        status, reason = "refused", "; ".join(built.verdict.reasons)
    elif best is not None and best in race.dropped:
        reason = f"dropped in screening: {race.dropped[best]}"
    elif best is not None:
        reason = f"screened at {own[best].point_ms:.3g} ms, more than {CLOSE - 1:.0%} behind the fastest of its kind"
    else:
        status, reason = "unraced", _not_raced(built, race, world)
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
        screen=own[best] if best else None,
    )


def _not_raced(built: Built, race: Race, world: World) -> str:
    disturbed = [why for arm, why in race.dropped.items() if arm.startswith(f"{built.planned.id} (")]
    if disturbed:
        return disturbed[0]
    if built.planned.precision.kind == "fp16":
        return (
            "fp16 is storage on this profile: it computes in fp32, so it is judged on size and memory and "
            f"not raced for {world.project.build.objective}"
        )
    return "not measured"


def _common(built: Built) -> dict[str, Any]:
    planned = built.planned
    return {
        "profile": planned.profile,
        "backend": planned.backend,
        "precision": planned.precision,
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
    built: Sequence[Built],
    race: Race,
) -> str:
    """One sentence: what was chosen and why, or how close the best came."""
    if race.unmeasured:
        return f"Nothing is proven: {race.unmeasured}"
    if selection.chosen is not None:
        return f"{selection.chosen}: {selection.reasons[selection.chosen]}"
    if selection.nearest is None:
        reasons = "; ".join(f"{b.planned.id}: {b.failure or 'refused on validation'}" for b in built)
        return f"Nothing could be measured: {reasons}"
    verdict = verdicts[selection.nearest]
    what = "No candidate could be certified" if outcome == "inconclusive" else "No candidate stays inside the budget"
    return f"{what}; the nearest is {selection.nearest}: {'; '.join(verdict.reasons)}"
