"""resnet50, a mobilenet and squeezenet with random weights: latency, peak memory and int8 error, per runtime.

    python benchmarks/architectures.py [--nets squeezenet ...] [--launches N]

Random weights say nothing about accuracy, so none is shown: int8 error is the signal-to-noise ratio of the outputs
against fp32 on random images. Writes docs/results/random-nets.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from evidence import write_results
from nets.random_nets import NETS

from edgebuild.backends.protocol import CompileRequest
from edgebuild.building import context, prepare, proving, race, results, splits
from edgebuild.catalogue.project import load_project
from edgebuild.core.artifact import Int8Scheme, Precision
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.steps import NoProgress
from edgebuild.devices.lock import measurement_lock
from edgebuild.measuring import session, side
from edgebuild.measuring.protocols import Protocol
from edgebuild.quantisers.registry import quantiser

if TYPE_CHECKING:
    from edgebuild.execution.executor import StepResult

RUNTIMES = ("onnxruntime", "openvino")
IMAGES = 32
INT8 = Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser="edgebuild")
TOML = """\
[project]
name = "{name}"
[model]
onnx = "model.onnx"
[[inputs]]
name = "image"
shape = ["batch", 3, 224, 224]
dtype = "float32"
[freeze]
batch = 1
[data]
calibration = "calibration.npz"
validation = "validation.npz"
test = "test.npz"
[budget]
agreement = 0.9
"""


def write_project(name: str, folder: Path) -> None:
    """A project around a net with random weights and random images."""
    onnx.save(NETS[name](0), str(folder / "model.onnx"))
    for seed, split in enumerate(("calibration", "validation", "test")):
        images = np.random.default_rng(seed).standard_normal((IMAGES, 3, 224, 224)).astype(np.float32)
        np.savez(folder / f"{split}.npz", image=images)
    (folder / "edgebuild.toml").write_text(TOML.format(name=name), encoding="utf-8")


def measure_net(name: str, folder: Path, launches: int) -> list[dict[str, Any]]:
    """Return a row per runtime."""
    write_project(name, folder)
    protocol = Protocol(name="screen", launches=launches, max_launches=launches, sample_s=2.0, warmup_cap_s=5.0)
    with context.open_build(load_project(folder), context.Options(), progress=NoProgress()) as w:
        common = prepare.prepare(w, prepare.import_model(w))
        step = quantiser("edgebuild")(INT8, common.contract, (), IMAGES)
        quantised = w.run(step, {"model": common.frozen, "calibration": common.calibration}, label=f"int8 {name}")
        return [_row(name, w, common, quantised, runtime, protocol) for runtime in RUNTIMES]


def _row(
    name: str,
    w: context.BuildContext,
    common: prepare.ModelInputs,
    quantised: StepResult,
    runtime: str,
    protocol: Protocol,
) -> dict[str, Any]:
    print(f"{name}, {runtime}", file=sys.stderr, flush=True)
    arms, sqnr = [], None
    for label, model, precision in (("int8", quantised, INT8), ("fp32", common.frozen, Precision(kind="fp32"))):
        backend = w.backends[runtime]
        step = backend.compile_step(CompileRequest(precision=precision, contract=common.contract, on_device=True))
        compiled = w.run(step, {"model": model}, label=f"compile {label} for {runtime}")
        artifact = read_artifact(compiled.path)
        artifact = artifact.with_settings(backend.default_settings(1))
        if label == "int8":
            split = splits.JudgedSplit.whole("validation", common.validation, common.reference)
            outputs = proving.evaluate(w, artifact, compiled, split, label)
            sqnr = proving.judge(w, label, outputs, split).closeness.sqnr_db
        arms.append(
            session.Arm(
                id=label,
                artifact=artifact,
                folder=compiled.path,
                inputs=common.validation.path,
                inputs_digest=common.validation.entry.digest,
                keep=True,
            )
        )
    with measurement_lock("benchmark: random nets"):
        bench = race.make_bench(w)
        result = session.measure(bench, protocol, arms, title="Timing")
        memory = {arm.id: side.measure_memory(bench, result.folder, arm).peak_bytes for arm in arms}
    medians = {arm.id: results.cost_of(results.summarised(result, arm.id, 1)) for arm in arms}
    comparison = session.compare_arms(result, "int8", "fp32")
    return {
        "net": name,
        "runtime": runtime,
        "fp32_ms": medians["fp32"],
        "int8_ms": medians["int8"],
        "ratio": [math.exp(x) for x in (comparison.effect, comparison.low, comparison.high)] if comparison else None,
        "outcome": comparison.outcome if comparison else "not compared",
        "fp32_peak_bytes": memory["fp32"],
        "int8_peak_bytes": memory["int8"],
        "sqnr_db": sqnr,
    }


def _line(row: dict[str, Any]) -> str:
    ratio = "–" if row["ratio"] is None else "{:.2f} [{:.2f}, {:.2f}]".format(*row["ratio"])
    return (
        f"| {row['net']} | {row['runtime']} | {row['fp32_ms']:.2f} | {row['int8_ms']:.2f} | {ratio} {row['outcome']} | "
        f"{row['fp32_peak_bytes'] / 1e6:.0f} | {row['int8_peak_bytes'] / 1e6:.0f} | {row['sqnr_db']:.1f} |"
    )


def main() -> None:
    """Measure the nets and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=sorted(NETS), default=sorted(NETS))
    parser.add_argument("--launches", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.nets:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure_net(name, Path(folder), arguments.launches)
    text = "\n".join(
        [
            f"One thread, {arguments.launches} interleaved launches per arm of 2 s each, {IMAGES} random images.",
            "The ratio is int8 / fp32 latency with its 95 % interval.",
            "SQNR is of the int8 artifact's outputs against fp32.",
            "",
            "| net | runtime | fp32, ms | int8, ms | int8 / fp32 | fp32 peak, MB | int8 peak, MB | SQNR, dB |",
            "|---|---|---|---|---|---|---|---|",
            *map(_line, rows),
        ]
    )
    command = "python benchmarks/architectures.py"
    print(write_results("random-nets", "Nets with random weights", command, text, {"rows": rows}))


if __name__ == "__main__":
    main()
