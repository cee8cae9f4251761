"""Measures arms on one device: fresh processes in a balanced order, raw samples on disk, resumable.

An *arm* is one artifact with its runtime settings. Every round launches every arm once, in an order that balances what
ran before what; an anchor model at the start and the end (and in the middle of launches that follow each other) shows
whether the device itself drifted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from edgebuild.core.measurement import Comparison, Energy, Fact, Launch, Measurement, Memory
from edgebuild.core.values import digest_json
from edgebuild.devices.probe import read_probe, require_alive
from edgebuild.execution.faults import Failure, Guard
from edgebuild.measuring import looks, statistics
from edgebuild.measuring.launching import fetch_launch, grace_s, launch_request
from edgebuild.measuring.session_folder import SessionFolder, open_session
from edgebuild.measuring.sets import LiveSet, TooLittleRoomError
from edgebuild.measuring.thermal import CoolDown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from edgebuild.core.artifact import Artifact
    from edgebuild.core.steps import Progress, Task
    from edgebuild.core.values import Json
    from edgebuild.devices.client import RunnerClient
    from edgebuild.measuring.protocols import Protocol

T = TypeVar("T")

#: The arm name of the anchor model.
ANCHOR = "anchor"
#: The anchor's launches: only to see drift, so short ones.
ANCHOR_SAMPLE_S = 1.0
#: As many rounds are made whatever the deadline, of fewer there is no interval; one where there are two in all.
LEAST_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One artifact to measure. ``contest`` groups the arms that screening may drop against each other.

    One to ``keep`` is never dropped; when its runner fails, the session ends. ``sets_pace`` is false for one that can't
    be chosen: none is dropped for being slower than it.
    """

    id: str
    artifact: Artifact
    folder: Path
    inputs: Path
    inputs_digest: str
    contest: str = ""
    keep: bool = False
    sets_pace: bool = True


@dataclass(frozen=True, kw_only=True)
class MeasurementContext:
    """What measuring needs of the world. No second look begins after ``deadline_s`` (of ``time.monotonic``).

    ``guard`` turns the failure of one arm into a value, with a bug report where it has a folder for them. With
    ``as_it_was`` a finished build is repeated: sessions that it cut short stay as it judged them.
    """

    client: RunnerClient
    root: Path
    progress: Progress
    check: Callable[[], None]
    configuration: tuple[Fact, ...]
    seed: int = 0
    remeasure: bool = False
    as_it_was: bool = False
    deadline_s: float = float("inf")
    anchor: Arm | None = None
    guard: Guard | None = None

    def attempt(self, arm: Arm, work: Callable[[], T]) -> T | Failure:
        """Return what ``work`` on an arm returns, or how it failed; for an arm to keep, raise that."""
        if arm.keep:
            return work()
        guard = self.guard or Guard(alive=lambda: require_alive(self.client))
        return guard.attempt(arm.id, work)


@dataclass(frozen=True, kw_only=True)
class SessionResult:
    """A session: measurements by arm, in launch order; ``dropped`` says why screening stopped early.

    ``failed`` holds the arms that crashed, hung or met a bug: they are launched again when the session is resumed.
    One that was ``cut_short`` by the deadline holds fewer launches than its question takes, and says no more than they.
    """

    protocol: Protocol
    folder: SessionFolder
    measurements: Mapping[str, Measurement]
    dropped: Mapping[str, str]
    failed: Mapping[str, Failure]
    anchor_ms: tuple[float, ...]
    reused: bool
    cut_short: bool = False

    def medians(self, arm: str) -> dict[int, float]:
        """Return log-free launch medians in ms by round, valid launches only."""
        launches = self.measurements[arm].launches
        return {index: launch.median_ns / 1e6 for index, launch in enumerate(launches) if launch.valid}


@dataclass
class _Run:
    """The state of a session while it runs."""

    bench: MeasurementContext
    protocol: Protocol
    arms: tuple[Arm, ...]
    folder: SessionFolder
    launches: dict[str, list[Launch]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    next_index: int = 0
    cool_down: CoolDown | None = None
    round_s: float = 0.0
    cut_short: bool = False

    def __post_init__(self) -> None:
        self.by_id = {arm.id: arm for arm in self.arms}
        self.labels = {**_labels(self.arms), ANCHOR: ANCHOR}


def session_key(bench: MeasurementContext, protocol: Protocol, arms: Sequence[Arm]) -> str:
    """Return the digest of everything that must match for a session to be reused."""
    return digest_json(
        {
            "protocol": protocol.model_dump(mode="json"),
            "arms": sorted(_identity(arm) for arm in arms),
            "runner": bench.client.runner_digest,
            "device": bench.client.device.id,
            "configuration": [fact.model_dump() for fact in bench.configuration],
            "seed": bench.seed,
        }
    )


def _identity(arm: Arm) -> list[Json]:
    return [arm.artifact.digest(), arm.inputs_digest, arm.contest, arm.keep, arm.sets_pace]


def measure(bench: MeasurementContext, protocol: Protocol, arms: Sequence[Arm], *, title: str) -> SessionResult:
    """Measure all arms under one protocol, or reuse a session that measured exactly them.

    Raises ``DeviceError`` when the device or an arm to keep fails, ``Interrupted`` when stopped; what was measured is
    kept and a second call goes on with it. A session in which an arm failed is never whole.
    """
    device = bench.client.device
    device.capabilities.require_clock(device.id)
    if any(arm.artifact.stages for arm in arms):
        # What a call takes hangs on its input where an artifact ends early: bursts would hold other mixes of inputs.
        protocol = protocol.apart()
    plan: dict[str, Json] = {
        "arms": [arm.id for arm in arms],
        "protocol": protocol.model_dump(mode="json"),
        "title": title,
        # For those who read the folder alone: whose launches are whose, where, and what that was.
        "labels": dict(_labels(arms)),
        "device": device.id,
        "configuration": {fact.name: fact.value for fact in bench.configuration},
    }
    key = session_key(bench, protocol, arms)
    folder = open_session(bench.root, protocol.name, key, plan, remeasure=bench.remeasure, as_it_was=bench.as_it_was)
    run = _Run(
        bench=bench, protocol=protocol, arms=tuple(arms), folder=folder, cut_short=folder.whole and folder.cut_short
    )
    known = {label: arm_id for arm_id, label in run.labels.items()}
    for launch in folder.launches():
        run.launches.setdefault(known.get(launch.arm, launch.arm), []).append(launch)
        run.next_index = max(run.next_index, launch.index + 1)
    if not folder.whole:
        try:
            with bench.progress.task(title, total=_planned_s(run)) as task:
                _run_rounds(run, task)
        except TooLittleRoomError:
            return measure(bench, protocol.apart(), arms, title=title)
        if not run.failed:
            _finish(run)
    else:
        run.dropped.update((folder.extras("result") or {}).get("dropped", {}))
    return SessionResult(
        protocol=protocol,
        folder=folder,
        measurements={arm.id: _measurement(run, arm) for arm in arms},
        dropped=run.dropped,
        failed=run.failed,
        anchor_ms=tuple(launch.median_ns / 1e6 for launch in run.launches.get(ANCHOR, [])),
        reused=folder.whole,
        cut_short=run.cut_short,
    )


def _finish(run: _Run) -> None:
    run.folder.finish(
        {
            "dropped": dict(run.dropped),
            "launches": run.next_index,
            "cut_short": run.cut_short,
            "finished_at": datetime.now(UTC).isoformat(),
            "disturbed": [arm.id for arm in run.arms if arm.keep and _proves_nothing(run, arm)],
        }
    )


def _proves_nothing(run: _Run, arm: Arm) -> bool:
    """Whether no launch of an arm counts; screening proves nothing anyway."""
    return run.protocol.name == "certify" and not any(launch.valid for launch in run.launches.get(arm.id, ()))


def _labels(arms: Sequence[Arm]) -> dict[str, str]:
    """Return by arm what its launches are recorded under: its artifact, numbered where two arms are of the same one."""
    labels: dict[str, str] = {}
    for arm in arms:
        digest = arm.artifact.digest()
        same = sum(label.partition("#")[0] == digest for label in labels.values())
        labels[arm.id] = f"{digest}#{same + 1}" if same else digest
    return labels


def _planned_s(run: _Run) -> float:
    return run.protocol.launch_s * run.protocol.launches * len(run.arms)


def _run_rounds(run: _Run, task: Task) -> None:
    protocol = run.protocol
    order = statistics.order(tuple(arm.id for arm in run.arms), protocol.max_launches, run.bench.seed)
    # What comes between launches that follow each other shows in the middle; a set's arms share their seconds.
    anchor_rounds = {0} if protocol.bursts else {0, protocol.launches // 2}
    settled: frozenset[str] = frozenset()
    for index, names in enumerate(order):
        active = [name for name in names if name not in {*run.dropped, *run.failed, *settled}]
        if active and index in protocol.looks:
            still_open = looks.open_questions(active, run.launches, protocol, index)
            settled |= {name for name in active if name not in still_open}
            active = [name for name in active if name in still_open]
        run.cut_short = bool(active) and _out_of_time(run, index)
        if not active or run.cut_short:
            break
        started = time.monotonic()
        if run.bench.anchor is not None and index in anchor_rounds:
            _launch_if_missing(run, run.bench.anchor, len([r for r in sorted(anchor_rounds) if r < index]), task)
        _run_round(run, [run.by_id[name] for name in active], index, task)
        if protocol.name == "screen":
            left = [arm for arm in run.arms if arm.id not in {*run.dropped, *run.failed}]
            run.dropped.update(looks.hopeless(left, run.launches, protocol, index + 1))
        run.round_s = time.monotonic() - started
    if run.bench.anchor is not None:
        _launch_if_missing(run, run.bench.anchor, len(anchor_rounds), task)


def _out_of_time(run: _Run, index: int) -> bool:
    """Whether another round ends after the deadline, as far as the last one tells."""
    least = min(LEAST_ROUNDS, max(1, run.protocol.launches // 2))
    return index >= least and time.monotonic() + run.round_s > run.bench.deadline_s


def _run_round(run: _Run, arms: Sequence[Arm], index: int, task: Task) -> None:
    if not run.protocol.bursts:
        for arm in arms:
            _launch_if_missing(run, arm, index, task)
        return
    missing = [arm for arm in arms if len(run.launches.get(arm.id, ())) <= index]
    task.advance(run.protocol.launch_s * (len(arms) - len(missing)))
    for attempt in range(run.protocol.attempts if missing else 0):
        _cool_down(run)
        last = attempt + 1 == run.protocol.attempts or time.monotonic() > run.bench.deadline_s
        # What a set takes is planned once: attempts that follow the first are no progress.
        if _take_set(run, missing, index, (lambda *_: None) if attempt else task.advance, last=last):
            break


def _take_set(run: _Run, arms: Sequence[Arm], index: int, done: Callable[[float, str], None], *, last: bool) -> bool:
    """Launch all arms at once; return whether these launches stand.

    One of them disturbed, all are made again: they are worth what they say about each other. An arm that failed among
    the others is tried alone, and raises ``TooLittleRoomError`` where that works.
    """
    with LiveSet(run.bench, run.protocol, arms) as alive:
        done(len(arms) * run.protocol.start_s, "")
        alive.take_bursts(run.bench.seed + index, partial(done, run.protocol.turn_s))
        ended: list[tuple[Arm, Launch]] = []
        for arm in arms:
            number = run.next_index + len(ended)
            launch = alive.end(arm, run.folder.path, index=number, label=run.labels[arm.id])
            if launch is not None:
                ended.append((arm, launch))
    stands = last or all(launch.valid for _, launch in ended)
    for arm, launch in ended:
        _record(run, launch, stands=stands)
        if stands:
            run.launches.setdefault(arm.id, []).append(launch)
    for arm in (run.by_id[name] for name in alive.failed):
        alone = run.bench.attempt(arm, partial(_launch_until_valid, run, arm))
        if not isinstance(alone, Failure):
            raise TooLittleRoomError
        run.failed[arm.id] = alone
    return stands


def _cool_down(run: _Run) -> None:
    run.bench.check()
    if run.cool_down is None:
        run.cool_down = CoolDown(lambda: read_probe(run.bench.client, light=True), check=run.bench.check)
    run.cool_down.wait()


def _launch_if_missing(run: _Run, arm: Arm, position: int, task: Task) -> None:
    done = run.launches.setdefault(arm.id, [])
    if len(done) > position:
        task.advance(run.protocol.launch_s)
        return
    _cool_down(run)
    launch = run.bench.attempt(arm, partial(_launch_until_valid, run, arm))
    if isinstance(launch, Failure):
        run.failed[arm.id] = launch
    else:
        done.append(launch)
    task.advance(run.protocol.launch_s if arm.id != ANCHOR else 0.0, note=arm.id)


def _launch_until_valid(run: _Run, arm: Arm) -> Launch:
    last = run.protocol.attempts - 1
    for _ in range(last):
        launch = _launch(run, arm, last=False)
        if launch.valid:
            return launch
    return _launch(run, arm, last=True)


def _launch(run: _Run, arm: Arm, *, last: bool) -> Launch:
    """One fresh process on the device; its raw samples are fetched, checked and recorded before anything else."""
    client, protocol = run.bench.client, run.protocol
    sample_s = ANCHOR_SAMPLE_S if arm.id == ANCHOR else protocol.sample_s
    op = "throughput" if protocol.mode == "flight" and arm.id != ANCHOR else "measure"
    with client.workspace() as remote:
        found = client.call(
            op,
            {**launch_request(client, protocol, arm, remote), "sample_s": sample_s},
            time_limit_s=protocol.warmup_cap_s + sample_s + grace_s(arm.artifact),
            check=run.bench.check,
        )
        launch = fetch_launch(client, found, remote, run.folder.path, index=run.next_index, label=run.labels[arm.id])
    return _record(run, launch, stands=last or launch.valid)


def _record(run: _Run, launch: Launch, *, stands: bool) -> Launch:
    """Record a launch; one that doesn't stand under a name of its own: it is evidence, but of no round."""
    if not stands:
        launch = launch.model_copy(update={"arm": f"{launch.arm} disturbed"})
    run.folder.record(launch)
    run.next_index += 1
    return launch


def _measurement(run: _Run, arm: Arm) -> Measurement:
    return Measurement(
        protocol=run.protocol.name,
        artifact_digest=arm.artifact.digest(),
        runner_digest=run.bench.client.runner_digest,
        inputs_digest=arm.inputs_digest,
        device=run.bench.client.device.id,
        configuration=run.bench.configuration,
        taken_at=run.folder.path.name.rsplit("-", 1)[-1],
        launches=tuple(run.launches.get(arm.id, [])),
        memory=_memory(run, arm),
        energy=_energy(run, arm),
    )


def _memory(run: _Run, arm: Arm) -> Memory | None:
    found = run.folder.extras(f"memory-{arm.artifact.digest()[:16]}")
    return None if found is None else Memory.model_validate(found)


def _energy(run: _Run, arm: Arm) -> Energy | None:
    found = run.folder.extras(f"energy-{arm.artifact.digest()[:16]}")
    return None if found is None or "sensor" in found else Energy.model_validate(found)


def compare_arms(result: SessionResult, candidate: str, baseline: str) -> Comparison | None:
    """Compare two arms of one session; None without two valid pairs.

    A protocol that may take further looks is judged as so many, whether it took them or not.
    """
    return statistics.compare_launches(
        result.measurements[candidate].launches, result.measurements[baseline].launches, result.protocol
    )
