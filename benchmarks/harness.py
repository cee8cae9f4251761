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
import subprocess
import sys
import tempfile
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
from edgebuild.measuring.protocols import CERTIFY

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.measuring.session import Arm

Pairs: TypeAlias = tuple[tuple[float, float], ...]

HERE = Path(__file__).resolve().parent
#: Real extra work put into the runner's loop, as a share of the model's own time.
EXTRA = 0.03
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
        self.arm: Arm = arm
        self.settings = {"arena": True, "spinning": False, "threads": 1}
        self.artifact = self.client.put_folder(arm.folder)
        self.inputs = self.client.put_folder(arm.inputs)

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
    """Three arms in one session: the model, the same model again, and the same with 3 % real extra work."""
    with tempfile.TemporaryDirectory() as scratch, measurement_lock("benchmark: resolution"):
        root = Path(scratch)
        plain = Ground(root)
        base_ns = sorted(plain.launch(i, "base").median_ns for i in range(3))[1]
        slow_file = root / "slow" / "device.py"
        slow_file.parent.mkdir()
        slow_file.write_text(_slow_source(int(base_ns * EXTRA)), encoding="utf-8")
        slow = Ground(root / "other", slow_file)
        launches: dict[str, list[Launch]] = {"a": [], "again": [], "slow": []}
        for index, order in enumerate(statistics.order(tuple(launches), rounds, 1)):
            for name in order:
                launches[name].append((slow if name == "slow" else plain).launch(index, name))
            print(f"round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    _write_resolution(launches)


def _slow_source(extra_ns: int) -> str:
    """onnxruntime's device code with a busy loop of so many ns inside every inference."""
    original = backends()["onnxruntime"].device_file.read_text(encoding="utf-8")
    return (
        original
        + f"""

import time as _time

_plain_run = Session.run


def _run_with_extra_work(self, inputs):
    outputs = _plain_run(self, inputs)
    end = _time.perf_counter_ns() + {extra_ns}
    while _time.perf_counter_ns() < end:
        pass
    return outputs


Session.run = _run_with_extra_work
"""
    )


def _blocks(left: list[Launch], right: list[Launch], size: int, judge: Callable[[Pairs], str | None]) -> list[str]:
    """Return the outcome of every contiguous block of ``size`` rounds, in recorded order."""
    starts = range(len(left) - size + 1)
    blocks = (statistics.paired_medians(left[at : at + size], right[at : at + size]) for at in starts)
    return [outcome for pairs in blocks if (outcome := judge(pairs)) is not None]


def _one_look(pairs: Pairs) -> str | None:
    comparison = statistics.compare(pairs)
    return None if comparison is None else comparison.outcome


def _as_certified(pairs: Pairs) -> str | None:
    """As a build judges: a look at the certify protocol's first launches, and one at all where that says nothing."""
    first = statistics.compare(pairs[: CERTIFY.launches], look=1, looks=2)
    if first is not None and first.outcome != "inconclusive":
        return first.outcome
    second = statistics.compare(pairs, look=2, looks=2)
    return None if second is None else second.outcome


def _write_resolution(launches: dict[str, list[Launch]]) -> None:
    pairs = statistics.paired_medians(launches["again"], launches["a"])
    ratios = [math.log(x / y) for x, y in pairs]
    mean = sum(ratios) / len(ratios)
    spread = math.sqrt(sum((r - mean) ** 2 for r in ratios) / (len(ratios) - 1))
    asked = statistics.launches_needed(EXTRA, spread)
    rules = [("as certified: 10 launches, then 20, each look at 97.5 %", CERTIFY.max_launches, _as_certified)]
    rules += [("one look at 20 launches, at 95 %", CERTIFY.max_launches, _one_look)]
    if asked is not None and asked <= len(pairs):
        rules.append((f"one look at the {asked} launches that the spread asks for", asked, _one_look))
    rows = []
    for name, size, judge in rules:
        same = _blocks(launches["again"], launches["a"], size, judge)
        slower = _blocks(launches["slow"], launches["a"], size, judge)
        false = sum(outcome in {"better", "worse"} for outcome in same)
        found = sum(outcome == "worse" for outcome in slower)
        rows.append(f"| {name} | {_share(false, len(same))} | {_share(found, len(slower))} |")
    whole = statistics.compare(statistics.paired_medians(launches["slow"], launches["a"]))
    base_ns = sorted(launch.median_ns for launch in launches["a"])[len(launches["a"]) // 2]
    text = "\n".join(
        [
            f"Anchor model, {base_ns / 1e3:.1f} µs an inference, {SAMPLE_S:g} s a launch:"
            f" {len(launches['a']) + len(launches['again'])} launches of the same artifact (A/A) and"
            f" {len(launches['slow'])} with {EXTRA:.0%} real extra work (a busy loop inside the timed call), all"
            " interleaved in one session. Blocks are all contiguous runs of rounds in recorded order; they overlap, so"
            " their outcomes are correlated.",
            "",
            "| rule | false better or worse in A/A | extra work found |",
            "|---|---|---|",
            *rows,
            "",
            f"- Spread of a pair's log-ratio: {spread:.2%}.",
            f"- Launches per arm that {EXTRA:.0%} asks for at 90 % power: {asked or 'more than 1,000'}.",
            f"- What {CERTIFY.max_launches} launches resolve here at 90 % power:"
            f" {statistics.resolution(spread, CERTIFY.max_launches):.2%}. A smaller difference is called inconclusive.",
            f"- The extra work over the whole session: {math.expm1(whole.effect) if whole else float('nan'):.2%}.",
        ]
    )
    numbers = {name: [[x.median_ns, list(x.invalid)] for x in arm] for name, arm in launches.items()}
    command = "python benchmarks/harness.py resolution"
    page = write_results("harness-resolution", "False alarms and resolution", command, text, {"launches": numbers})
    print(page)


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({count / max(of, 1):.1%})"


def judge_again(rounds: int) -> None:
    """Write the page anew from the launches on record."""
    del rounds
    recorded = json.loads((RESULTS / "harness-resolution.json").read_bytes())["launches"]
    _write_resolution({name: [_recorded(*launch, name) for launch in arm] for name, arm in recorded.items()})


def _recorded(median_ns: int, invalid: list[str], arm: str) -> Launch:
    return Launch(
        index=0,
        arm=arm,
        samples="not kept",
        samples_sha256="",
        count=1,
        median_ns=median_ns,
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
    checks = {"equivalence": (equivalence, 150), "memory": (memory, 7), "resolution": (resolution, 105)}
    checks["judge"] = (judge_again, 0)
    parser.add_argument("check", choices=checks)
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    check, default = checks[arguments.check]
    check(arguments.rounds or default)


if __name__ == "__main__":
    main()
