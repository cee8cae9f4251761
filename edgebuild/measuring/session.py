"""Measures arms on one device: fresh processes in a balanced order, raw samples on disk, resumable.

An *arm* is one artifact with its runtime settings. Every round launches every arm once, in an order that balances what
ran before what; an anchor model at the start, the middle and the end shows whether the device itself drifted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from edgebuild.core.measurement import Comparison, Energy, Fact, Launch, Measurement, Memory
from edgebuild.core.values import digest_json
from edgebuild.devices import answers
from edgebuild.devices.probe import read_probe, require_alive
from edgebuild.execution.faults import Failure, Guard
from edgebuild.measuring import statistics
from edgebuild.measuring.samples import require_samples
from edgebuild.measuring.session_folder import SessionFolder, open_session
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

#: An arm that is so much slower than the fastest of its contest after a round is not launched again when screening.
HOPELESS = 1.3
#: The arm name of the anchor model.
ANCHOR = "anchor"
#: The anchor's launches: only to see drift, so short ones.
ANCHOR_SAMPLE_S = 1.0
#: The host stops waiting for a launch after its longest legal duration and this much for loading.
LAUNCH_GRACE_S = 120.0
#: A launch reads the whole artifact first, to hold it against its digest; no board is slower than this.
READ_BYTES_PER_S = 10e6


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

    ``guard`` turns the failure of one arm into a value, with a bug report where it has a folder for them.
    """

    client: RunnerClient
    root: Path
    progress: Progress
    check: Callable[[], None]
    configuration: tuple[Fact, ...]
    seed: int = 0
    remeasure: bool = False
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
    """

    protocol: Protocol
    folder: SessionFolder
    measurements: Mapping[str, Measurement]
    dropped: Mapping[str, str]
    failed: Mapping[str, Failure]
    anchor_ms: tuple[float, ...]
    reused: bool

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


def grace_s(artifact: Artifact) -> float:
    """Return how long a launch may take in addition to its warm-up and its samples, in seconds."""
    return LAUNCH_GRACE_S + artifact.size_bytes / READ_BYTES_PER_S


def _identity(arm: Arm) -> list[Json]:
    return [arm.artifact.digest(), arm.inputs_digest, arm.contest, arm.keep, arm.sets_pace]


def measure(bench: MeasurementContext, protocol: Protocol, arms: Sequence[Arm], *, title: str) -> SessionResult:
    """Measure all arms under one protocol, or reuse a session that measured exactly them.

    Raises ``DeviceError`` when the device or an arm to keep fails, ``Interrupted`` when stopped; what was measured is
    kept and a second call goes on with it. A session in which an arm failed is never whole.
    """
    device = bench.client.device
    device.capabilities.require_clock(device.id)
    plan: dict[str, Json] = {
        "arms": [arm.id for arm in arms],
        "protocol": protocol.model_dump(mode="json"),
        "title": title,
    }
    key = session_key(bench, protocol, arms)
    folder = open_session(bench.root, protocol.name, key, plan, remeasure=bench.remeasure)
    run = _Run(bench=bench, protocol=protocol, arms=tuple(arms), folder=folder)
    known = {label: arm_id for arm_id, label in _labels(arms).items()}
    for launch in folder.launches():
        run.launches.setdefault(known.get(launch.arm, launch.arm), []).append(launch)
        run.next_index = max(run.next_index, launch.index + 1)
    if not folder.whole:
        with bench.progress.task(title, total=_planned_s(run)) as task:
            _run_rounds(run, task)
        if not run.failed:
            folder.finish(
                {"dropped": dict(run.dropped), "launches": run.next_index, "finished_at": datetime.now(UTC).isoformat()}
            )
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
    )


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
    order = statistics.order(tuple(arm.id for arm in run.arms), run.protocol.max_launches, run.bench.seed)
    by_id = {arm.id: arm for arm in run.arms}
    anchor_rounds = {0, run.protocol.launches // 2}
    for index, round_order in enumerate(order):
        if index >= run.protocol.launches and not _wants_more(run):
            break
        if run.bench.anchor is not None and index in anchor_rounds:
            _launch_if_missing(run, run.bench.anchor, len([r for r in sorted(anchor_rounds) if r < index]), task)
        for arm_id in round_order:
            if arm_id not in run.dropped and arm_id not in run.failed:
                _launch_if_missing(run, by_id[arm_id], index, task)
        if run.protocol.name == "screen":
            _drop_hopeless(run, index)
    if run.bench.anchor is not None:
        _launch_if_missing(run, run.bench.anchor, len(anchor_rounds), task)


def _wants_more(run: _Run) -> bool:
    """The first look: go on to the second, which pools all launches, where the fastest arm is tied with another.

    Both looks are judged at 97.5 %, so that two of them err no more often than one.
    """
    if run.protocol.launches == run.protocol.max_launches or time.monotonic() > run.bench.deadline_s:
        return False
    names = [arm.id for arm in run.arms if arm.id not in run.failed]
    fastest = min(names, key=lambda name: (_median_ms(run.launches.get(name, [])), name))
    looked = [_first_look(run, fastest, name) for name in names if name != fastest]
    return any(comparison is None or comparison.outcome == "inconclusive" for comparison in looked)


def _first_look(run: _Run, left: str, right: str) -> Comparison | None:
    first = run.protocol.launches
    pairs = statistics.paired_medians(run.launches.get(left, [])[:first], run.launches.get(right, [])[:first])
    return statistics.compare(pairs, look=1, looks=2)


def _median_ms(launches: Sequence[Launch]) -> float:
    valid = sorted(launch.cost_ns / 1e6 for launch in launches if launch.valid)
    return valid[len(valid) // 2] if valid else float("inf")


def _launch_if_missing(run: _Run, arm: Arm, position: int, task: Task) -> None:
    done = run.launches.setdefault(arm.id, [])
    if len(done) > position:
        task.advance(run.protocol.launch_s)
        return
    run.bench.check()
    if run.cool_down is None:
        run.cool_down = CoolDown(lambda: read_probe(run.bench.client, light=True), check=run.bench.check)
    run.cool_down.wait()
    launch = run.bench.attempt(arm, lambda: _launch_until_valid(run, arm))
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
    """One fresh process on the device; its raw samples are fetched, checked and recorded before anything else.

    A disturbed launch that isn't the last attempt is recorded under a name of its own: evidence, but of no round.
    """
    client, protocol, index = run.bench.client, run.protocol, run.next_index
    sample_s = ANCHOR_SAMPLE_S if arm.id == ANCHOR else protocol.sample_s
    op = "throughput" if protocol.mode == "flight" and arm.id != ANCHOR else "measure"
    name = f"launch-{index:04d}.i64"
    local = run.folder.path / name
    with client.workspace() as remote:
        found = client.call(
            op,
            {
                "backend": arm.artifact.backend,
                "artifact": client.put_folder(arm.folder),
                "settings": dict(arm.artifact.settings),
                "inputs": client.put_folder(arm.inputs),
                "out": remote,
                "rotate": protocol.rotate,
                "warmup_min_inferences": protocol.warmup_min_inferences,
                "warmup_min_s": protocol.warmup_min_s,
                "warmup_cap_s": protocol.warmup_cap_s,
                "sample_s": sample_s,
                "bounds": {
                    "waiting_ratio": protocol.waiting_ratio,
                    "steal_ratio": protocol.steal_ratio,
                },
            },
            time_limit_s=protocol.warmup_cap_s + sample_s + grace_s(arm.artifact),
            check=run.bench.check,
        )
        samples = answers.samples_of(found)
        client.fetch(remote, [samples], run.folder.path)
    fetched = run.folder.path / samples.name
    try:
        require_samples(fetched, found, client.device.id)
        fetched.replace(local)
    finally:
        fetched.unlink(missing_ok=True)
    arm_name = ANCHOR if arm.id == ANCHOR else _labels(run.arms)[arm.id]
    launch = Launch.model_validate({**found, "index": index, "arm": arm_name, "samples": name})
    if not launch.valid and not last:
        launch = launch.model_copy(update={"arm": f"{arm_name} disturbed"})
    run.folder.record(launch)
    run.next_index += 1
    return launch


def _drop_hopeless(run: _Run, index: int) -> None:
    what = "latency" if run.protocol.mode == "single" else "time per inference"
    for contest in {arm.contest for arm in run.arms}:
        out = {*run.dropped, *run.failed}
        arms = [arm for arm in run.arms if arm.contest == contest and arm.id not in out]
        pace = [arm for arm in arms if arm.sets_pace]
        if not pace:
            continue
        # Launches of later rounds are there already when a session is resumed; they don't count yet.
        medians = {arm.id: _fastest(run.launches.get(arm.id, [])[: index + 1]) for arm in arms}
        best = min((arm.id for arm in pace), key=lambda arm_id: (medians[arm_id], arm_id))
        for arm in arms:
            if arm.keep or medians[arm.id] == float("inf"):
                continue
            if medians[arm.id] > HOPELESS * medians[best]:
                run.dropped[arm.id] = (
                    f"{medians[arm.id] / medians[best]:.2f}x the {what} of {best} "
                    f"after {index + 1} of {run.protocol.launches} screening launches"
                )


def _fastest(launches: Sequence[Launch]) -> float:
    """The fastest valid launch; infinity where there is none, which says nothing about the arm."""
    return min((launch.cost_ns / 1e6 for launch in launches if launch.valid), default=float("inf"))


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

    A protocol that may take a second look is judged as two looks, whether it took it or not.
    """
    pairs = statistics.paired_medians(result.measurements[candidate].launches, result.measurements[baseline].launches)
    protocol = result.protocol
    second = len(result.measurements[baseline].launches) > protocol.launches
    return statistics.compare(
        pairs, look=2 if second else 1, looks=2 if protocol.max_launches > protocol.launches else 1
    )
