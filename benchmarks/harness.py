"""Is the harness itself right? Four checks on this machine, with the anchor model in onnxruntime.

    python benchmarks/harness.py equivalence    the runner against a bare loop: same copies, inputs, threads, processes
    python benchmarks/harness.py memory         the runner's own memory above the runtime's
    python benchmarks/harness.py resolution     A/A false alarms, and how often real extra work of 3 % is found
    python benchmarks/harness.py judge          the same from the launches on record, measuring nothing

Each writes its page to docs/results/. `--rounds` shortens a trial run; the committed pages use the defaults.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics as stdlib
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from evidence import RESULTS, write_results

from edgebuild.backends.table import backends
from edgebuild.core.measurement import Launch
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.lock import measurement_lock
from edgebuild.execution.executor import Executor
from edgebuild.execution.store import Store
from edgebuild.measuring import statistics
from edgebuild.measuring.anchor import anchor_arm
from edgebuild.measuring.protocols import CERTIFY, CERTIFY_APART
from edgebuild.measuring.session import MeasurementContext, measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.measuring.protocols import Protocol
    from edgebuild.measuring.session import Arm, SessionResult

Pairs: TypeAlias = tuple[tuple[float, float], ...]
#: By way: the seconds that an arm took in all, and its launches as they are kept.
Recorded: TypeAlias = dict[str, dict[str, Any]]

HERE = Path(__file__).resolve().parent
#: Real extra work put into the runner's loop, as a share of the model's own time.
EXTRA = 0.03
#: The arms, and by how many thousandths their inferences take longer.
EXTRAS = {"a": 0, "again": 0, "slow": int(1000 * EXTRA)}
WAYS = {"sets": CERTIFY, "one after the other": CERTIFY_APART}
WARM_S = 0.5
SAMPLE_S = 1.0
#: Launches carry the variance, not samples: equivalence within 2 % needs many launches, and short ones do.
SHORT_SAMPLE_S = 0.3


class Ground:
    """One runner, the anchor's artifact on the device, and its settings."""

    def __init__(self, root: Path, device_file: Path | None = None) -> None:
        table = backends()
        ort = table["onnxruntime"]
        self.client = RunnerClient(LocalDevice(root / "device"), {"onnxruntime": device_file or ort.device_file})
        executor = Executor(
            store=Store.open(root / "store"),
            progress=NoProgress(),
            check=never_stop,
            seed=0,
            isa="",
            device_configuration={},
            device=self.client,
        )
        arm = anchor_arm({"onnxruntime": ort}, executor)
        if arm is None:
            raise SystemExit("onnxruntime is not installed")
        self.root, self.arm = root, arm
        self.settings = {"arena": True, "spinning": False, "threads": 1}
        self.artifact = self.client.put_folder(arm.folder)
        self.inputs = self.client.put_folder(arm.inputs)

    def arm_with(self, name: str, extra: int) -> Arm:
        """Return the anchor as an arm whose inferences take so many thousandths more."""
        artifact = self.arm.artifact.with_settings((*self.settings.items(), ("extra", extra)))
        return replace(self.arm, id=name, artifact=artifact)

    def launch(self, index: int, name: str, sample_s: float = SAMPLE_S) -> Launch:
        """One fresh process of the runner."""
        with self.client.workspace() as out:
            answer = self.client.call(
                "measure",
                {
                    "backend": "onnxruntime",
                    "artifact": self.artifact,
                    "settings": self.settings,
                    "inputs": self.inputs,
                    "out": out,
                    "warmup_min_s": WARM_S,
                    "warmup_cap_s": 10.0,
                    "sample_s": sample_s,
                },
                time_limit_s=120.0,
            )
        return Launch.model_validate({**answer, "index": index, "arm": name})


def bare_launch(ground: Ground, index: int) -> Launch:
    """The same work in a plain loop of a fresh process that knows nothing of edgebuild."""
    answer = _bare("launch", ground, WARM_S, SHORT_SAMPLE_S)
    return Launch.model_validate({**answer, "index": index, "arm": "bare"})


def _bare(mode: str, ground: Ground, warm_s: float, sample_s: float) -> Any:
    script = [sys.executable, str(HERE / "bare_loop.py"), mode, ground.artifact, ground.inputs, str(warm_s)]
    done = subprocess.run([*script, str(sample_s)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def equivalence(rounds: int) -> None:
    """The runner's launches against a bare loop's, interleaved."""
    with tempfile.TemporaryDirectory() as scratch, measurement_lock("benchmark: equivalence"):
        ground = Ground(Path(scratch))
        runner: list[Launch] = []
        bare: list[Launch] = []
        for index, order in enumerate(statistics.order(("runner", "bare"), rounds, 0)):
            for name in order:
                if name == "runner":
                    runner.append(ground.launch(index, "runner", SHORT_SAMPLE_S))
                else:
                    bare.append(bare_launch(ground, index))
            if index % 20 == 19:
                print(f"round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    comparison = statistics.compare(statistics.paired_medians(runner, bare))
    if comparison is None:
        raise SystemExit("no two valid launches: the machine is too busy")
    ratio, low, high = (math.exp(x) for x in (comparison.effect, comparison.low, comparison.high))
    text = (
        f"Anchor model in onnxruntime, one thread, {rounds} interleaved launches of {SHORT_SAMPLE_S:g} s each, fresh "
        "processes, input and output copies on both sides.\n\n"
        "| runner / bare loop | 95 % interval | verdict | resolution |\n|---|---|---|---|\n"
        f"| {ratio:.4f} | {low:.4f} to {high:.4f} | **{comparison.outcome}** | {comparison.resolution or 0:.2%} |\n"
    )
    command = "python benchmarks/harness.py equivalence"
    arms = {"runner": runner, "bare": bare}
    launches = {name: [[x.median_ns, list(x.invalid)] for x in arm] for name, arm in arms.items()}
    numbers = {"comparison": comparison.model_dump(mode="json"), "launches": launches}
    print(write_results("harness-equivalence", "The harness against a bare loop", command, text, numbers))


def memory(rounds: int) -> None:
    """Peak memory of the runner and of a bare script, in launches of their own."""
    with tempfile.TemporaryDirectory() as scratch, measurement_lock("benchmark: memory"):
        ground = Ground(Path(scratch))
        runner, bare = [], []
        for _ in range(rounds):
            request = {
                "backend": "onnxruntime",
                "artifact": ground.artifact,
                "settings": ground.settings,
                "inputs": ground.inputs,
            }
            answer = ground.client.call("memory", request, time_limit_s=120.0)
            runner.append(max(answer["load_peak_bytes"], answer["inference_peak_bytes"]))
            bare.append(_bare("peak", ground, 0.2, 0.5)["peak"])
    median = [sorted(values)[rounds // 2] / 1e6 for values in (runner, bare)]
    text = (
        f"Peak resident memory (VmHWM), median of {rounds} fresh processes each.\n\n"
        f"| runner, MB | bare script, MB | above it, MB |\n|---|---|---|\n"
        f"| {median[0]:.1f} | {median[1]:.1f} | **{median[0] - median[1]:.1f}** |\n"
    )
    numbers = {"runner_bytes": runner, "bare_bytes": bare}
    command = "python benchmarks/harness.py memory"
    print(write_results("harness-memory", "The runner's own memory", command, text, numbers))


def resolution(rounds: int) -> None:
    """Sets of three arms and launches of the same arms one after the other, round by round in turn.

    The model, the same model again, and the same with real extra work.
    """
    with tempfile.TemporaryDirectory() as scratch, measurement_lock("benchmark: resolution"):
        device_file = Path(scratch) / "slow" / "device.py"
        device_file.parent.mkdir()
        device_file.write_text(_slow_source(), encoding="utf-8")
        ground = Ground(Path(scratch), device_file)
        found: Recorded = {way: {"seconds": 0.0, "launches": {name: [] for name in EXTRAS}} for way in WAYS}
        for index in range(rounds):
            for way, protocol in WAYS.items():
                started = time.monotonic()
                arms = [ground.arm_with(name, extra) for name, extra in EXTRAS.items()]
                session = one_round(ground, protocol, index, arms)
                found[way]["seconds"] += (time.monotonic() - started) / len(EXTRAS)
                for name in EXTRAS:
                    found[way]["launches"][name] += [kept(x) for x in session.measurements[name].launches]
            print(f"round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    _write_resolution(found)


def one_round(ground: Ground, protocol: Protocol, index: int, arms: list[Arm]) -> SessionResult:
    root = ground.root / f"{protocol.bursts}-{index}"
    bench = MeasurementContext(
        client=ground.client, root=root, progress=NoProgress(), check=never_stop, configuration=(), seed=index
    )
    once = protocol.model_copy(update={"launches": 1, "max_launches": 1})
    return measure(bench, once, arms, title="")


def kept(launch: Launch) -> dict[str, Any]:
    return {"median_ns": launch.median_ns, "burst_ns": list(launch.burst_ns), "invalid": list(launch.invalid)}


def _slow_source() -> str:
    """onnxruntime's device code with a busy loop inside every inference, of so many thousandths of its own time."""
    original = backends()["onnxruntime"].device_file.read_text(encoding="utf-8")
    return (
        original
        + """

import time as _time

_plain_init, _plain_run = Session.__init__, Session.run


def _init(self, artifact, folder, settings, weights=None):
    self._thousandths = settings["extra"]
    _plain_init(self, artifact, folder, {k: v for k, v in settings.items() if k != "extra"}, weights)


def _run_with_extra_work(self, inputs):
    start = _time.perf_counter_ns()
    outputs = _plain_run(self, inputs)
    now = _time.perf_counter_ns()
    end = now + (now - start) * self._thousandths // 1000
    while _time.perf_counter_ns() < end:
        pass
    return outputs


Session.__init__, Session.run = _init, _run_with_extra_work
"""
    )


def _blocks(left: list[Launch], right: list[Launch], size: int, judge: Callable[[Pairs], str | None]) -> list[str]:
    """Return the outcome of every contiguous block of ``size`` rounds, in recorded order."""
    starts = range(len(left) - size + 1)
    blocks = (statistics.paired_medians(left[at : at + size], right[at : at + size]) for at in starts)
    return [outcome for pairs in blocks if (outcome := judge(pairs)) is not None]


def _as_certified(pairs: Pairs) -> str | None:
    """As a build judges: after the launches of each look, until one says something."""
    looks, outcome = CERTIFY.looks, None
    for number, count in enumerate(looks, start=1):
        found = statistics.compare(pairs[:count], look=number, looks=len(looks))
        outcome = None if found is None else found.outcome
        if outcome not in {None, "inconclusive"}:
            break
    return outcome


def _write_resolution(found: Recorded, where: dict[str, str] | None = None) -> None:
    launches = {
        way: {name: [_recorded(name, **launch) for launch in arm] for name, arm in each["launches"].items()}
        for way, each in found.items()
    }
    sets = launches["sets"]
    rounds, bursts = len(sets["a"]), len(sets["a"][0].burst_ns)
    rows, text = [], []
    for way, arms in launches.items():
        pairs = statistics.paired_medians(arms["again"], arms["a"])
        spread = stdlib.stdev(math.log(x / y) for x, y in pairs)
        needed = statistics.launches_needed(EXTRA, spread)
        each_s = found[way]["seconds"] / rounds
        asked = f"{needed} | {needed * each_s:.0f} s" if needed else "more than 1,000 | more than {1000 * each_s:.0f} s"
        slow = statistics.compare(statistics.paired_medians(arms["slow"], arms["a"]))
        effect = f"{math.expm1(slow.effect):.2%} | {slow.outcome}" if slow else "- | -"
        rows.append(f"| {way} | {spread:.2%} | {each_s:.1f} s | {asked} | {effect} |")
    for size in [count for count in CERTIFY.looks if count <= rounds]:
        same, slower = (_blocks(sets[name], sets["a"], size, _as_certified) for name in ("again", "slow"))
        false = sum(outcome in {"better", "worse"} for outcome in same)
        hit = sum(outcome == "worse" for outcome in slower)
        text.append(f"| up to {size} | {_share(false, len(same))} | {_share(hit, len(slower))} |")
    base_ns = stdlib.median(launch.median_ns for launch in sets["a"])
    page = "\n".join(
        [
            f"Anchor model, {base_ns / 1e3:.1f} µs an inference; the same artifact twice (A/A) and once with"
            f" {EXTRA:.0%} real extra work (a busy loop in the timed call). {rounds} sets of {bursts} bursts, and"
            f" {rounds} rounds of launches that follow each other, in turn in one run.",
            "",
            f"| way | spread of an A/A pair | seconds per arm | launches for {EXTRA:.0%} at 90 % power | that is |"
            f" {EXTRA:.0%} measured | called |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            "As a build judges sets, over all contiguous runs of so many (they overlap: outcomes are correlated):",
            "",
            "| sets | false better or worse in A/A | extra work found |",
            "|---|---|---|",
            *text,
            "",
            "What the spread of a pair would have been had each set ended after its first bursts:",
            "",
            "| bursts | A/A | extra work |",
            "|---|---|---|",
            *[
                f"| {count} | "
                + " | ".join(f"{_spread(sets[x], sets['a'], count):.2%}" for x in ("again", "slow"))
                + " |"
                for count in (5, 10, 20, 30, 50)
                if count <= bursts
            ],
        ]
    )
    command = "python benchmarks/harness.py resolution"
    numbers = {"ways": found}
    print(write_results("harness-resolution", "False alarms and resolution", command, page, numbers, where=where))


def _spread(left: list[Launch], right: list[Launch], bursts: int) -> float:
    """Return the standard deviation of a pair's log-ratio, of the first bursts of each set."""
    cut = (
        [launch.model_copy(update={"burst_ns": launch.burst_ns[:bursts]}) for launch in arm] for arm in (left, right)
    )
    return stdlib.stdev(math.log(x / y) for x, y in statistics.paired_medians(*cut))


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({count / max(of, 1):.1%})"


def judge_again(rounds: int) -> None:
    """Write the page anew from the launches on record."""
    del rounds
    recorded = json.loads((RESULTS / "harness-resolution.json").read_bytes())
    _write_resolution({way: recorded["ways"][way] for way in WAYS}, where=recorded["machine"])


def _recorded(arm: str, *, median_ns: int, burst_ns: list[int], invalid: list[str]) -> Launch:
    return Launch(
        index=0,
        arm=arm,
        samples="not kept",
        samples_sha256="",
        count=1,
        median_ns=median_ns,
        burst_ns=tuple(burst_ns),
        import_s=0.0,
        load_s=0.0,
        first_inference_s=0.0,
        warmup_inferences=0,
        settled=True,
        invalid=tuple(invalid),
    )


def main() -> None:
    """Run one of the checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    checks = {"equivalence": (equivalence, 150), "memory": (memory, 7), "resolution": (resolution, 40)}
    checks["judge"] = (judge_again, 0)
    parser.add_argument("check", choices=checks)
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    check, default = checks[arguments.check]
    check(arguments.rounds or default)


if __name__ == "__main__":
    main()
