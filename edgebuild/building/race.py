"""Measures the candidates: screen everything that may win, then certify the finalists beside the reference artifact."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from edgebuild.building import emulated
from edgebuild.building.candidates import crash_notes
from edgebuild.core.measurement import LatencySummary, ThroughputSummary
from edgebuild.core.verdict import Outcome
from edgebuild.devices.hold import clocks_as_asked, hold_device
from edgebuild.devices.probe import require_alive
from edgebuild.errors import RunnerFailed
from edgebuild.measuring import session, side, statistics
from edgebuild.measuring.anchor import anchor_arm
from edgebuild.measuring.protocols import MAX_FINALISTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from edgebuild.building.candidates import Built
    from edgebuild.building.emulated import Emulated
    from edgebuild.building.prepare import Prepared
    from edgebuild.building.world import World
    from edgebuild.core.artifact import Artifact, Setting
    from edgebuild.core.measurement import Comparison, Energy, Launch, Layer, Memory
    from edgebuild.measuring.protocols import Protocol
    from edgebuild.measuring.session import Arm, Bench, SessionResult

#: Screening can't tell arms apart that are closer than this; the certify session decides between them.
CLOSE = 1.10
#: Said of a candidate whose throughput can't be more than what one request after the other gives.
ONE_AT_A_TIME = (
    "its throughput was measured with one request in flight: its backend, or the state that it carries, allows no more"
)
#: What a build without a device says of everything that it made.
COMPILED_ONLY = "compiled only (--no-measure): neither its accuracy nor its latency was measured on the target"

Screened: TypeAlias = LatencySummary | ThroughputSummary


@dataclass(frozen=True, kw_only=True)
class Certified:
    """One finalist, measured under the certify protocol; on an emulated device without a latency.

    ``arm`` is candidate and settings.
    """

    arm: str
    built: Built
    artifact: Artifact
    summary: LatencySummary | None
    memory: Memory | None
    energy: Energy | None
    layers: tuple[Layer, ...]
    versus_reference: Comparison | None
    samples_folder: Path
    launches: tuple[Launch, ...]
    throughput: ThroughputSummary | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Race:
    """What measuring found: screening summaries by arm, and the certified finalists, the reference artifact first.

    ``failed`` says of candidates, by id, how their runner crashed or hung. ``unmeasured`` says why nothing was measured
    in a build that can't measure; ``emulated`` is what an emulated device gave instead.
    """

    screened: Mapping[str, tuple[str, Screened]]
    dropped: Mapping[str, str]
    finalists: tuple[Certified, ...]
    anchor_ms: tuple[float, ...]
    sessions: tuple[str, ...]
    resolution: float | None
    comparisons: Mapping[tuple[str, str], Comparison] = field(default_factory=dict)
    settings_notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    unmeasured: str = ""
    emulated: Emulated | None = None


def settings_label(settings: tuple[tuple[str, Setting], ...]) -> str:
    """Return settings as a short text, such as ``spinning=false threads=2``."""
    return " ".join(f"{name}={str(value).lower()}" for name, value in sorted(settings)) or "defaults"


def run_race(built: Sequence[Built], prepared: Prepared, world: World) -> Race:
    """Screen, choose finalists, certify. Holds the device throughout.

    A runner that crashes or hangs is its candidate's result. Raises ``DeviceError`` when the device fails, or the
    baseline on it; whatever was measured until then is on disk and is gone on with.
    """
    nothing = Race(screened={}, dropped={}, finalists=(), anchor_ms=(), sessions=(), resolution=None)
    if not world.measured:
        return replace(nothing, unmeasured=COMPILED_ONLY)
    if world.emulated:
        return replace(nothing, finalists=_unraced(built), emulated=emulated.profile(built, prepared, world))
    baseline = next((b for b in built if b.planned.baseline and b.artifact is not None), None)
    if baseline is None:
        baseline = next((b for b in sorted(built, key=lambda b: bool(b.planned.recipe)) if b.eligible), None)
    if baseline is None:
        return nothing
    what = f"edgebuild {world.project.name}"
    with (
        hold_device(world.client, what, progress=world.progress, check=world.check),
        clocks_as_asked(world.client, world.probe, pin=world.pin_clocks, check=world.check) as probe,
    ):
        world = replace(world, probe=probe)
        bench = make_bench(world)
        arms = {arm.id: (arm, b) for b in built for arm in _arms(b, baseline, prepared) if b.eligible or b is baseline}
        raced = {arm_id: pair for arm_id, pair in arms.items() if pair[1].planned.raced}
        protocol = world.options.screen
        if world.project.build.objective == "throughput":
            protocol = protocol.in_flight()
        screen = session.measure(bench, protocol, [arm for arm, _ in raced.values()], title="Screening")
        crashed = dict(screen.failed)
        disturbed = _disturbed(screen, (arm_id for arm_id in raced if arm_id not in crashed))
        raced = {arm_id: pair for arm_id, pair in raced.items() if arm_id not in {**disturbed, **crashed}}
        batch = prepared.contract.batch
        summarised = flight_summary_of if protocol.mode == "flight" else summary_of
        summaries: dict[str, Screened] = {arm_id: summarised(screen, arm_id, batch) for arm_id in raced}
        best = _best_arms(raced, summaries, world.project.build.objective, bench, screen, crashed)
        names = _finalists(best, arms)
        reference = next(arm_id for arm_id, (_, b) in arms.items() if b is baseline)
        order = [reference, *(name for name in names if name != reference)]
        race = _certify(bench, world, order, arms, batch, screen, summaries, crashed)
        return replace(race, dropped={**race.dropped, **disturbed})


def _unraced(built: Sequence[Built]) -> tuple[Certified, ...]:
    """The finalists of an emulated build: judged like others, measured in nothing that is a board's."""
    return tuple(
        Certified(
            arm=b.planned.id,
            built=b,
            artifact=b.artifact,
            summary=None,
            memory=None,
            energy=None,
            layers=(),
            versus_reference=None,
            samples_folder=b.folder,
            launches=(),
        )
        for b in emulated.finalists_of(built)
        if b.artifact is not None
    )


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


def flight_summary_of(result: SessionResult, arm_id: str, batch: int) -> ThroughputSummary:
    """Return the summary of one arm of a session with several requests in flight."""
    return statistics.summarise_throughput(
        result.measurements[arm_id].launches, session.samples_reader(result.folder.path), batch=batch
    )


def cost_of(screened: Screened) -> float:
    """Return what screening ranks by, less is better: ms, or ms per sample completed."""
    return screened.point_ms if isinstance(screened, LatencySummary) else 1e3 / screened.per_s


def figure_of(screened: Screened) -> str:
    """Return a screening figure in words."""
    if isinstance(screened, LatencySummary):
        return f"{screened.point_ms:.4g} ms"
    return f"{screened.per_s:.4g} a second with {screened.requests} in flight"


def _best_arms(
    raced: Mapping[str, tuple[Arm, Built]],
    summaries: Mapping[str, Screened],
    objective: str,
    bench: Bench,
    screen: SessionResult,
    crashed: dict[str, RunnerFailed],
) -> dict[str, float]:
    """Return the best arm of each candidate with its screening cost (lower is better); adds to ``crashed``."""
    cost = {}
    for arm_id, (arm, _) in raced.items():
        if objective == "memory":
            with _noting(bench, arm, crashed):
                cost[arm_id] = float(side.measure_memory(bench, screen.folder, arm).peak_bytes)
        elif objective == "size":
            cost[arm_id] = float(arm.artifact.size_bytes)
        else:
            cost[arm_id] = cost_of(summaries[arm_id])
    best: dict[str, str] = {}
    for arm_id, (_, built) in ((arm_id, raced[arm_id]) for arm_id in cost):
        current = best.get(built.planned.id)
        if current is None or (cost[arm_id], arm_id) < (cost[current], current):
            best[built.planned.id] = arm_id
    return {arm_id: cost[arm_id] for arm_id in best.values()}


def _finalists(
    best: Mapping[str, float],
    arms: Mapping[str, tuple[Arm, Built]],
) -> list[str]:
    """The best arm of every profile, then whatever screening can't tell from the best of all.

    Accepted ones come first, and before those whose kernels leave the graph.
    """

    def rank(arm_id: str) -> tuple[bool, bool, float, str]:
        built = arms[arm_id][1]
        accepted = built.verdict is not None and built.verdict.outcome is Outcome.ACCEPTED
        return not accepted, built.gapped, best[arm_id], arm_id

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
    world: World,
    order: Sequence[str],
    arms: Mapping[str, tuple[Arm, Built]],
    batch: int,
    screen: SessionResult,
    summaries: Mapping[str, Screened],
    crashed: dict[str, RunnerFailed],
) -> Race:
    """Measure the reference artifact, which is the first of ``order``, beside the others."""
    lost: dict[str, str] = {}
    sessions = {"single": _certified_session(bench, world.options.certify, order, arms, crashed, lost)}
    if wants_throughput(world):
        left = [name for name in order if name not in lost and name not in crashed]
        sessions["flight"] = _certified_session(bench, world.options.certify.in_flight(), left, arms, crashed, lost)
    finalists = []
    for name in order:
        arm, built = arms[name]
        if name not in lost and name not in crashed:
            with _noting(bench, arm, crashed):
                finalists.append(_certified(bench, sessions, arm, built, order[0], batch))
    final = [finalist.arm for finalist in finalists]
    resolutions = [c.versus_reference.resolution for c in finalists if c.versus_reference is not None]
    decisive = sessions["flight" if world.project.build.objective == "throughput" else "single"]
    return Race(
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
        failed=_failed(arms, summaries, crashed, final),
    )


def wants_throughput(world: World) -> bool:
    """Whether anything asks how much several requests in flight get done."""
    return world.project.build.objective == "throughput" or world.project.limits.throughput_per_s is not None


def _certified_session(
    bench: Bench,
    protocol: Protocol,
    order: Sequence[str],
    arms: Mapping[str, tuple[Arm, Built]],
    crashed: dict[str, RunnerFailed],
    lost: dict[str, str],
) -> SessionResult:
    """Measure under ``protocol``; adds to ``crashed``, and to ``lost`` the arms of which no launch counts."""
    title = "Certifying" if protocol.mode == "single" else "Certifying throughput"
    result = session.measure(bench, protocol, [arms[name][0] for name in order], title=title)
    crashed.update(result.failed)
    lost.update(_disturbed(result, (name for name in order[1:] if name not in crashed)))
    return result


def _certified(
    bench: Bench, sessions: Mapping[str, SessionResult], arm: Arm, built: Built, reference: str, batch: int
) -> Certified:
    result, flight = sessions["single"], sessions.get("flight")
    layers, notes = _layers(bench, result, arm)
    throughput = None if flight is None else flight_summary_of(flight, arm.id, batch)
    if throughput is not None and not throughput.concurrent:
        notes = (*notes, ONE_AT_A_TIME)
    return Certified(
        arm=arm.id,
        built=built,
        artifact=arm.artifact,
        summary=summary_of(result, arm.id, batch),
        memory=side.measure_memory(bench, result.folder, arm),
        energy=side.measure_energy(bench, result.folder, arm),
        layers=layers,
        versus_reference=None if arm.id == reference else session.compare_arms(result, arm.id, reference),
        samples_folder=result.folder.path,
        launches=result.measurements[arm.id].launches,
        throughput=throughput,
        notes=notes,
    )


def _layers(bench: Bench, result: SessionResult, arm: Arm) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return the layers as they run, or why they aren't known: a profiler that crashes doesn't ship."""
    try:
        return side.read_layers(bench, result.folder, arm), ()
    except RunnerFailed as error:
        require_alive(bench.client)
        return (), (f"what its layers run in is unknown: {error.sentence}", *crash_notes(error))


@contextlib.contextmanager
def _noting(bench: Bench, arm: Arm, crashed: dict[str, RunnerFailed]) -> Iterator[None]:
    """Note in ``crashed`` that an arm's runner failed; where the arm is to be kept or its device is gone, raise."""
    try:
        yield
    except RunnerFailed as error:
        if arm.keep:
            raise
        require_alive(bench.client)
        crashed[arm.id] = error


def _failed(
    arms: Mapping[str, tuple[Arm, Built]],
    summaries: Mapping[str, Screened],
    crashed: Mapping[str, RunnerFailed],
    finalists: Sequence[str],
) -> dict[str, str]:
    """Return the candidates that a crash took out: no arm of theirs is left, or the one that was to be certified."""
    found = {arms[name][1].planned.id: error.sentence for name, error in crashed.items()}
    left = {arms[name][1].planned.id for name in summaries if name not in crashed}
    final = {arms[name][1].planned.id for name in finalists}
    certifying = {arms[name][1].planned.id for name in crashed if name in summaries}
    return {who: why for who, why in found.items() if who not in final and (who not in left or who in certifying)}


def _settings_notes(
    arms: Mapping[str, tuple[Arm, Built]],
    summaries: Mapping[str, Screened],
    dropped: Mapping[str, str],
    crashed: Mapping[str, RunnerFailed],
) -> dict[str, tuple[str, ...]]:
    """Say per candidate what each raced setting gave."""
    notes: dict[str, list[str]] = {}
    for name, error in crashed.items():
        arm, built = arms[name]
        label = settings_label(arm.artifact.settings)
        notes.setdefault(built.planned.id, []).append(f"with {label}: {error.sentence}")
        notes[built.planned.id] += crash_notes(error)
    for name, summary in summaries.items():
        arm, built = arms[name]
        early = " (dropped early)" if name in dropped else ""
        text = f"{settings_label(arm.artifact.settings)}: {figure_of(summary)}{early}"
        notes.setdefault(built.planned.id, []).append(f"screened with {text}")
    return {candidate: tuple(lines) for candidate, lines in notes.items()}
