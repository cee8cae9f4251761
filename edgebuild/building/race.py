"""Measures the candidates: screen everything that may win, then certify the finalists beside the reference artifact."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgebuild.core.verdict import Outcome
from edgebuild.devices.hold import hold_device
from edgebuild.measuring import session, statistics
from edgebuild.measuring.anchor import anchor_arm
from edgebuild.measuring.protocols import MAX_FINALISTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from edgebuild.building.candidates import Built
    from edgebuild.building.prepare import Prepared
    from edgebuild.building.world import World
    from edgebuild.core.artifact import Artifact, Setting
    from edgebuild.core.measurement import Comparison, Energy, LatencySummary, Launch, Layer, Memory
    from edgebuild.measuring.protocols import Protocol
    from edgebuild.measuring.session import Arm, Bench, SessionResult

#: Screening can't tell arms apart that are closer than this; the certify session decides between them.
CLOSE = 1.10
#: What a build without a device says of everything that it made.
COMPILED_ONLY = "compiled only (--no-measure): neither its accuracy nor its latency was measured on the target"


@dataclass(frozen=True, kw_only=True)
class Certified:
    """One finalist, measured under the certify protocol. ``arm`` is candidate and settings."""

    arm: str
    built: Built
    artifact: Artifact
    summary: LatencySummary
    memory: Memory | None
    energy: Energy | None
    layers: tuple[Layer, ...]
    versus_reference: Comparison | None
    samples_folder: Path
    launches: tuple[Launch, ...]


@dataclass(frozen=True, kw_only=True)
class Race:
    """What measuring found: screening summaries by arm, and the certified finalists, the reference artifact first.

    ``unmeasured`` says why nothing was measured in a build that can't measure.
    """

    screened: Mapping[str, tuple[str, LatencySummary]]
    dropped: Mapping[str, str]
    finalists: tuple[Certified, ...]
    anchor_ms: tuple[float, ...]
    sessions: tuple[str, ...]
    resolution: float | None
    comparisons: Mapping[tuple[str, str], Comparison] = field(default_factory=dict)
    settings_notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unmeasured: str = ""


def settings_label(settings: tuple[tuple[str, Setting], ...]) -> str:
    """Return settings as a short text, such as ``spinning=false threads=2``."""
    return " ".join(f"{name}={str(value).lower()}" for name, value in sorted(settings)) or "defaults"


def run_race(built: Sequence[Built], prepared: Prepared, world: World) -> Race:
    """Screen, choose finalists, certify. Holds the device throughout.

    Raises ``DeviceError`` when the device fails; whatever was measured until then is on disk and is gone on with.
    """
    nothing = Race(screened={}, dropped={}, finalists=(), anchor_ms=(), sessions=(), resolution=None)
    if not world.measured:
        return replace(nothing, unmeasured=COMPILED_ONLY)
    baseline = next((b for b in built if b.planned.baseline and b.artifact is not None), None)
    if baseline is None:
        baseline = next((b for b in sorted(built, key=lambda b: bool(b.planned.recipe)) if b.eligible), None)
    if baseline is None:
        return nothing
    with hold_device(world.client, f"edgebuild {world.project.name}", progress=world.progress, check=world.check):
        bench = make_bench(world)
        arms = {arm.id: (arm, b) for b in built for arm in _arms(b, baseline, prepared) if b.eligible or b is baseline}
        raced = {arm_id: pair for arm_id, pair in arms.items() if pair[1].planned.raced}
        screen = session.measure(bench, world.options.screen, [arm for arm, _ in raced.values()], title="Screening")
        disturbed = _disturbed(screen, raced)
        raced = {arm_id: pair for arm_id, pair in raced.items() if arm_id not in disturbed}
        summaries = {arm_id: summary_of(screen, arm_id, prepared.contract.batch) for arm_id in raced}
        best = _best_arms(raced, summaries, world.project.build.objective, bench, screen)
        names = _finalists(best, arms)
        reference = next(arm_id for arm_id, (_, b) in arms.items() if b is baseline)
        race = _certify(bench, world.options.certify, reference, names, arms, prepared, screen, summaries)
        return replace(race, dropped={**race.dropped, **disturbed})


def _disturbed(screen: SessionResult, names: Iterable[str]) -> dict[str, str]:
    """Return the arms of which no launch counts, with the reason: they can't be ranked, and don't end the build."""
    found = {}
    for name in names:
        launches = screen.measurements[name].launches
        if launches and not any(launch.valid for launch in launches):
            reasons = sorted({reason for launch in launches for reason in launch.invalid})
            found[name] = f"none of its {len(launches)} launches counts: {'; '.join(reasons)}"
    return found


def make_bench(world: World) -> Bench:
    """Return the bench of this build's device."""
    return session.Bench(
        client=world.client,
        root=world.home / "measurements",
        progress=world.progress,
        check=world.check,
        configuration=world.configuration,
        seed=world.project.build.seed,
        remeasure=world.options.remeasure,
        deadline_s=float("inf") if world.options.time_s is None else world.started + world.options.time_s,
        anchor=anchor_arm(world.backends, world.client, world.executor),
    )


def _arms(built: Built, baseline: Built, prepared: Prepared) -> list[Arm]:
    """One arm per runtime setting; the first of the baseline is the reference artifact and always kept."""
    if built.artifact is None:
        return []
    arms = []
    for index, settings in enumerate(built.planned.settings or ((),)):
        arms.append(
            session.Arm(
                id=f"{built.planned.id} ({settings_label(settings)})",
                artifact=built.artifact.with_settings(settings),
                folder=built.folder,
                inputs=prepared.validation.path,
                inputs_digest=prepared.validation.entry.digest,
                contest=built.planned.profile,
                keep=built is baseline and index == 0,
            )
        )
    return arms


def summary_of(result: SessionResult, arm_id: str, batch: int) -> LatencySummary:
    """Return the summary of one arm of a session."""
    return statistics.summarise(
        result.measurements[arm_id].launches, session.samples_reader(result.folder.path), batch=batch
    )


def _best_arms(
    raced: Mapping[str, tuple[Arm, Built]],
    summaries: Mapping[str, LatencySummary],
    objective: str,
    bench: Bench,
    screen: SessionResult,
) -> dict[str, float]:
    """Return the best arm of each candidate with its screening cost (lower is better)."""
    cost = {}
    for arm_id, (arm, _) in raced.items():
        if objective == "memory":
            cost[arm_id] = float(session.measure_memory(bench, screen.folder, arm).peak_bytes)
        elif objective == "size":
            cost[arm_id] = float(arm.artifact.size_bytes)
        else:
            cost[arm_id] = summaries[arm_id].point_ms
    best: dict[str, str] = {}
    for arm_id, (_, built) in raced.items():
        current = best.get(built.planned.id)
        if current is None or (cost[arm_id], arm_id) < (cost[current], current):
            best[built.planned.id] = arm_id
    return {arm_id: cost[arm_id] for arm_id in best.values()}


def _finalists(
    best: Mapping[str, float],
    arms: Mapping[str, tuple[Arm, Built]],
) -> list[str]:
    """The best arm of every profile, then whatever screening can't tell from the best of all; accepted ones first."""

    def rank(arm_id: str) -> tuple[bool, float, str]:
        verdict = arms[arm_id][1].verdict
        return verdict is None or verdict.outcome is not Outcome.ACCEPTED, best[arm_id], arm_id

    ordered = sorted((a for a in best if arms[a][1].eligible), key=rank)
    chosen: list[str] = []
    profiles: set[str] = set()
    for arm_id in ordered:
        profile = arms[arm_id][1].planned.profile
        if profile not in profiles:
            profiles.add(profile)
            chosen.append(arm_id)
    lowest = min((best[a] for a in ordered), default=0.0)
    chosen += [a for a in ordered if a not in chosen and best[a] <= CLOSE * lowest]
    return chosen[:MAX_FINALISTS]


def _certify(
    bench: Bench,
    certify: Protocol,
    reference: str,
    names: Sequence[str],
    arms: Mapping[str, tuple[Arm, Built]],
    prepared: Prepared,
    screen: SessionResult,
    summaries: Mapping[str, LatencySummary],
) -> Race:
    order = [reference, *(name for name in names if name != reference)]
    result = session.measure(bench, certify, [arms[name][0] for name in order], title="Certifying")
    lost = _disturbed(result, order[1:])
    order = [name for name in order if name not in lost]
    finalists = []
    for name in order:
        arm, built = arms[name]
        finalists.append(
            Certified(
                arm=name,
                built=built,
                artifact=arm.artifact,
                summary=summary_of(result, name, prepared.contract.batch),
                memory=session.measure_memory(bench, result.folder, arm),
                energy=session.measure_energy(bench, result.folder, arm),
                layers=session.read_layers(bench, result.folder, arm),
                versus_reference=None if name == reference else session.compare_arms(result, name, reference),
                samples_folder=result.folder.path,
                launches=result.measurements[name].launches,
            )
        )
    resolutions = [c.versus_reference.resolution for c in finalists if c.versus_reference is not None]
    return Race(
        screened={name: (built.planned.id, summaries[name]) for name, (_, built) in arms.items() if name in summaries},
        dropped={**screen.dropped, **lost},
        finalists=tuple(finalists),
        anchor_ms=(*screen.anchor_ms, *result.anchor_ms),
        sessions=(screen.folder.path.name, result.folder.path.name),
        resolution=max((r for r in resolutions if r is not None), default=None),
        comparisons={
            (a, b): found
            for a in order
            for b in order
            if a != b and (found := session.compare_arms(result, a, b)) is not None
        },
        settings_notes=_settings_notes(arms, summaries, screen.dropped),
    )


def _settings_notes(
    arms: Mapping[str, tuple[Arm, Built]], summaries: Mapping[str, LatencySummary], dropped: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Say per candidate what each raced setting gave."""
    notes: dict[str, list[str]] = {}
    for name, summary in summaries.items():
        arm, built = arms[name]
        early = " (dropped early)" if name in dropped else ""
        text = f"{settings_label(arm.artifact.settings)}: {summary.point_ms:.4g} ms{early}"
        notes.setdefault(built.planned.id, []).append(text)
    return {candidate: tuple(f"screened with {line}" for line in lines) for candidate, lines in notes.items()}
