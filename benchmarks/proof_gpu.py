"""The entire TensorRT check, on a machine with an NVIDIA GPU and TensorRT: build, parity, latency, memory, precision.

    python benchmarks/proof_gpu.py [--nets fashion-mnist ...] [--work FOLDER]

Writes docs/results/tensorrt-gpu.{md,json}. Exits with 6 where there is no GPU or no TensorRT.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evidence import write_results
from quantisers import project_folder
from trt_gate import NETS, precisions

from edgebuild.backends.protocol import CompileRequest
from edgebuild.backends.trt import device
from edgebuild.backends.trt.host import TensorRt
from edgebuild.building import candidates, context, prepare, proving, splits
from edgebuild.catalogue.project import load_project
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.steps import NoProgress
from edgebuild.devices.lock import measurement_lock
from edgebuild.errors import EdgebuildError
from edgebuild.quantisers.registry import quantiser

if TYPE_CHECKING:
    from edgebuild.core.artifact import Artifact, Precision

NO_GPU = 6
LIMIT_S = 600.0
WARM_UP, RUNS = 50, 300


def missing() -> str | None:
    """Return why the check can't run here, or None."""
    if device.version() is None:
        return "TensorRT's Python bindings are not installed here, so nothing was proven."
    try:
        device.Cuda()
    except device.Problem as error:
        return f"There is no usable NVIDIA GPU here, so nothing was proven: {error}"
    return None


def prove(net: str, work: Path) -> list[dict[str, Any]]:
    """Every precision of one net; one that fails is a row with its reason."""
    rows = []
    with context.open_build(load_project(project_folder(net, work)), context.Options(), progress=NoProgress()) as w:
        common = prepare.prepare(w, prepare.import_model(w))
        for precision in precisions():
            row: dict[str, Any] = {"net": net, "precision": precision.label}
            try:
                row |= _prove(w, common, precision)
            except EdgebuildError as error:
                row["failure"] = error.message
            rows.append(row)
            print(row, flush=True)
    return rows


def _prove(w: context.BuildContext, common: prepare.ModelInputs, precision: Precision) -> dict[str, Any]:
    model = common.frozen
    if precision.kind == "int8":
        step = quantiser("edgebuild")(precision, common.contract, (), candidates.CALIBRATION_SAMPLES)
        model = w.run(step, {"model": model, "calibration": common.calibration}, label=precision.label)
    backend = TensorRt()
    build = backend.compile_step(CompileRequest(precision=precision, contract=common.contract, on_device=True))
    compiled = w.run(build, {"model": model}, label=f"engine in {precision.label}")
    found = read_artifact(compiled.path)
    artifact = found.with_settings(backend.default_settings(1))
    split = splits.JudgedSplit.whole("validation", common.validation, common.reference)
    outputs = proving.evaluate(w, artifact, compiled, split, precision.label)
    judged = proving.judge(w, precision.label, outputs, split)
    row: dict[str, Any] = {
        "engine_bytes": artifact.size_bytes,
        "outcome": str(judged.verdict.outcome),
        "sqnr_db": judged.closeness.sqnr_db,
        "gpu_memory": device.accelerator_memory(),
    }
    folder, data = w.client.put_folder(compiled.path), w.client.put_folder(common.validation.path)
    request = {"artifact": folder, "inputs": data}
    layers = w.client.call("layers", request, time_limit_s=LIMIT_S)["layers"]
    kinds = [layer["precision"] for layer in layers]
    row["layers"] = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    with measurement_lock("proof-gpu"):
        for graph in (False, True):
            row |= _latency(artifact, compiled.path, common, graph)
    return row


def _latency(artifact: Artifact, folder: Path, common: prepare.ModelInputs, graph: bool) -> dict[str, Any]:
    """Medians over runs in this process, on zeros: a first look, no certificate."""
    import time

    specs = (*common.contract.inputs, *common.contract.state_specs)
    feeds = {s.name: np.zeros([d if isinstance(d, int) else 1 for d in s.shape], s.dtype) for s in specs}
    feeds |= {c.name: np.broadcast_to(np.array(c.value, c.dtype), c.shape).copy() for c in common.contract.constants}
    session = device.Session(artifact.model_dump(mode="json"), str(folder), {"cuda_graph": graph, "spin_wait": True})
    whole, kernels = [], []
    for turn in range(WARM_UP + RUNS):
        start = time.perf_counter_ns()
        session.run(feeds)
        taken = time.perf_counter_ns() - start
        if turn >= WARM_UP:
            whole.append(taken)
            kernels.append(session.device_ns)
    session.close()
    name = "cuda_graph" if graph else "plain"
    return {
        f"{name}_end_to_end_ms": statistics.median(whole) / 1e6,
        f"{name}_device_only_ms": statistics.median(kernels) / 1e6,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One line per net and precision."""
    names = ("plain_end_to_end_ms", "plain_device_only_ms", "cuda_graph_end_to_end_ms", "cuda_graph_device_only_ms")
    lines = [
        "| net | precision | outcome | SQNR (dB) | engine | layers by precision | end to end (ms) | device only (ms) |"
        " with CUDA graph: end to end | device only |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "failure" in row:
            lines.append(f"| {row['net']} | {row['precision']} | fails: {row['failure']} | | | | | | | |")
            continue
        layers = ", ".join(f"{count} {kind}" for kind, count in row["layers"].items())
        sqnr = "n/a" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        times = " | ".join(f"{row[name]:.4f}" for name in names)
        size = f"{row['engine_bytes'] / 1e3:.0f} kB"
        lines.append(f"| {row['net']} | {row['precision']} | {row['outcome']} | {sqnr} | {size} | {layers} | {times} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgebuild-proof-gpu")
    options = parser.parse_args()
    reason = missing()
    if reason is not None:
        print(reason, file=sys.stderr)
        raise SystemExit(NO_GPU)
    rows = [row for net in options.nets for row in prove(net, options.work)]
    numbers = {"rows": rows, "tensorrt": device.version(), "compute_capability": device.Cuda().device_name()}
    text = f"TensorRT {numbers['tensorrt']}, compute capability {numbers['compute_capability']}.\n\n{table(rows)}"
    print(write_results("tensorrt-gpu", "TensorRT on a GPU", "make proof-gpu", text, numbers))


if __name__ == "__main__":
    main()
