"""How long people wait: a fresh build of fashion-mnist against the bare library calls, no-op rebuilds, and `--help`.

    python benchmarks/budgets.py

The build is the one of `make demo`, in a copy of the example with an empty store. What it is held against are the bare
library calls (bare_build.py) and the launches that its protocols ask for, each taken as what its own process recorded:
start, load, first inference, warm-up and samples. A rebuild runs the model's factory, and imports torch for it, and
reads all data, since only they can say that nothing changed; one with a declared `data_version` doesn't read them, and
one with a declared `model_version` doesn't import torch. A small project of an ONNX file has neither to declare.
Writes docs/results/budgets.md.
"""

from __future__ import annotations

import compileall
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import releases
from evidence import write_results

from edgebuild.building.context import HOME
from edgebuild.building.record import find_build, load_record
from edgebuild.measuring.session_folder import SessionFolder

if TYPE_CHECKING:
    from edgebuild.core.record import BuildRecord

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "fashion-mnist"
TIMES = 9
HELP_BUDGET_S = 0.5
REBUILD_BUDGET_S = 2.0
DEMO_BUDGET_S = 240.0
OVERHEAD_BUDGET = 1.3


def edgebuild(*arguments: str) -> float:
    """Run edgebuild in a fresh process; return its seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "edgebuild", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def launches_s(home: Path) -> tuple[int, float]:
    """Return how many launches the build made and the seconds that their own processes account for."""
    folders = [SessionFolder(path=path, whole=True) for path in home.glob("measurements/*")]
    launches = [launch for folder in folders for launch in folder.launches()]
    side = len([*home.glob("measurements/*/memory-*.json"), *home.glob("measurements/*/layers-*.json")])
    starts = [(x.start_s or 0.0) + x.import_s + x.load_s + x.first_inference_s for x in launches]
    loops = [(x.warmup_inferences + x.count) * x.median_ns / 1e9 for x in launches]
    return len(launches) + side, sum(starts) + sum(loops) + side * statistics.median(starts)


def bare_s(record: BuildRecord, home: Path) -> dict[str, float]:
    """Return the seconds of the bare library calls, by kind."""
    with tempfile.TemporaryDirectory() as scratch:
        build = home / "builds" / record.build_id / "build.json"
        command = [sys.executable, str(HERE / "bare_build.py"), str(build), scratch]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def declared_rebuilds(folder: Path, build: tuple[str, ...]) -> list[float]:
    """Declare the versions of a project's data and model, build, and return what rebuilds take."""
    config = folder / "edgebuild.toml"
    text = config.read_text()
    for table in ("data", "model"):
        text = text.replace(f"[{table}]\n", f'[{table}]\n{table}_version = "1"\n', 1)
    config.write_text(text)
    edgebuild(*build)
    return [edgebuild(*build) for _ in range(TIMES)]


def onnx_rebuilds(folder: Path) -> list[float]:
    """Build a small project of an ONNX file, and return what rebuilds take, data read: nothing of it needs torch.

    Its launches are few and never disturbed: a build that is wouldn't be finished, and would measure again.
    """
    releases.write_project(folder, megabytes=0.1)
    releases.python(releases.BUILD, folder)
    found = []
    for _ in range(TIMES):
        start = time.perf_counter()
        releases.python(releases.BUILD, folder)
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    """Measure and write the page."""
    # As pip leaves an installed package: compiled, also where Python is told to write no bytecode.
    compileall.compile_dir(HERE.parent / "edgebuild", quiet=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "fashion-mnist"
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(HOME, "__pycache__"))
        build = ("build", "--project", str(folder), "--target", "this-machine", "--recipe", "none", "--time", "4m")
        built_s = edgebuild(*build)
        record = load_record(find_build(folder / HOME))
        count, launched_s = launches_s(folder / HOME)
        calls = bare_s(record, folder / HOME)
        rebuilds = [edgebuild(*build) for _ in range(TIMES)]
        again = load_record(find_build(folder / HOME))
        declared = declared_rebuilds(folder, build)
        of_file = onnx_rebuilds(Path(scratch) / "onnx")
        helps = [edgebuild("--help") for _ in range(TIMES)]
    fresh = [step.label for step in again.steps if not step.reused]
    if fresh:
        raise SystemExit(f"the rebuild was not a no-op: {', '.join(fresh)}")
    text = page(record, built_s, calls, (count, launched_s), (rebuilds, declared, of_file), helps)
    numbers = {
        "build_s": built_s,
        "bare_calls_s": calls,
        "launches": count,
        "launches_s": launched_s,
        "rebuild_s": rebuilds,
        "rebuild_declared_s": declared,
        "rebuild_declared_onnx_s": of_file,
        "help_s": helps,
    }
    print(write_results("budgets", "How long people wait", "python benchmarks/budgets.py", text, numbers))


def page(
    record: BuildRecord,
    built_s: float,
    calls: dict[str, float],
    launches: tuple[int, float],
    rebuilds: tuple[list[float], list[float], list[float]],
    helps: list[float],
) -> str:
    """The tables."""
    bare = sum(calls.values())
    ratio = built_s / (bare + launches[1])
    rows = [
        ("`--help`, median", statistics.median(helps), HELP_BUDGET_S, "s"),
        ("no-op rebuild, median", statistics.median(rebuilds[0]), REBUILD_BUDGET_S, "s"),
        (
            "the same, both versions declared",
            statistics.median(rebuilds[1]),
            REBUILD_BUDGET_S,
            "s",
        ),
        ("and of a small ONNX file, nothing declared", statistics.median(rebuilds[2]), REBUILD_BUDGET_S, "s"),
        ("the build of `make demo`", built_s, DEMO_BUDGET_S, "s"),
        ("that build / bare calls and launches", ratio, OVERHEAD_BUDGET, "x"),
    ]
    return "\n".join(
        [
            f"Medians of {TIMES} fresh processes (slowest: {max(helps):.2f} s and {max(rebuilds[0]):.2f} s). "
            f"The build ran once: {len(record.candidates)} candidates, {record.outcome}.",
            "",
            "| what | measured | budget | |",
            "|---|---|---|---|",
            *[
                f"| {name} | {value:.2f} {unit} | {budget:g} {unit} | {'met' if value <= budget else 'missed'} |"
                for name, value, budget, unit in rows
            ],
            "",
            f"Bare library calls: {bare:.0f} s; the build's {launches[0]} launches by their own clocks: "
            f"{launches[1]:.0f} s.",
            "",
            "| bare calls | seconds |",
            "|---|---|",
            *[f"| {kind} | {seconds:.1f} |" for kind, seconds in sorted(calls.items(), key=lambda item: -item[1])],
        ]
    )


if __name__ == "__main__":
    main()
