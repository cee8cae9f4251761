"""The cross-check on real quantised nets: what it finds where kernels are right, and where their sums saturate.

    python benchmarks/crosscheck.py [--nets fashion-mnist ...] [--qemu QEMU_X86_64] [--work FOLDER]

Two small examples, a text recogniser and a trained depthwise net, five ways to quantise, each runtime on three sorts of
kernels: this CPU's; OpenVINO's kernels for AVX2 without VNNI (its own switch, ``ONEDNN_MAX_CPU_ISA``); and with
``--qemu`` ONNX Runtime on an emulated Haswell, a CPU without VNNI (Debian's qemu-user 7.2). Every artifact is compiled,
run and compared as in a build, by the same steps, on the sample that a build takes. Every step is cached in the work
folder.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evidence import write_results
from quantisers import ARMS, RUNTIMES, project_folder

from edgebuild.backends.protocol import CompileRequest
from edgebuild.building import candidates, context, prepare, proving, splits
from edgebuild.building.crosscheck import SAMPLE_FRAMES, SAMPLE_STEPS, cross_check
from edgebuild.building.evaluation import CompiledCandidate
from edgebuild.catalogue.project import load_project
from edgebuild.core.artifact import Int8Scheme, Precision
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.steps import NoProgress
from edgebuild.crosscheck.conclusion import spread
from edgebuild.crosscheck.steps import TakeFrames
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.errors import ModelError, RunnerFailed
from edgebuild.planning.plan import PlannedCandidate
from edgebuild.quantisers.registry import quantiser

if TYPE_CHECKING:
    from edgebuild.execution.executor import StepResult

#: The scheme for CPUs without VNNI beside the quantisers' others: weights in 7 bits can't saturate.
SEVEN = "edgebuild, 7-bit weights"
QUANTISERS = {**ARMS, SEVEN: ("edgebuild", Int8Scheme(activations="uint8", reduce_range=True))}
#: The recogniser's packages: ``pip install --no-deps -r examples/text-recogniser/requirements.txt``.
NETS = ("fashion-mnist", "silero-vad", "dwnet", "text-recogniser")
NATIVE, NO_VNNI = "this CPU's", "no VNNI"


def kernels(w: context.BuildContext, runtime: str, qemu: Path | None) -> dict[str, context.BuildContext]:
    """The worlds to run in: this machine, and the same without VNNI where that can be had."""
    found = {NATIVE: w}
    if runtime == "openvino":
        found[NO_VNNI] = _elsewhere(w, "openvino-avx2", f'export ONEDNN_MAX_CPU_ISA=AVX2\nexec {_python()} "$@"')
    elif qemu is not None:
        command = f'exec {shlex.quote(str(qemu))} -cpu Haswell {_python()} "$@" 2>/dev/null'
        found[NO_VNNI] = _elsewhere(w, "haswell", command)
    return found


def _python() -> str:
    return shlex.quote(sys.executable)


def _elsewhere(w: context.BuildContext, name: str, script: str) -> context.BuildContext:
    """The world with another device: this machine behind a Python of its own."""
    python = w.home / "kernels" / name / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    client = RunnerClient(
        LocalDevice(w.home / "device" / name, str(python), name=name),
        {key: b.device_file for key, b in w.backends.items()},
    )
    return replace(w, client=client, executor=w.executor.on({"kernels": name}, device=client))


def check_net(net: str, work: Path, qemu: Path | None) -> list[dict[str, Any]]:
    """Every quantiser's model of a net in every runtime on every sort of kernels."""
    rows = []
    with context.open_build(load_project(project_folder(net, work)), context.Options(), progress=NoProgress()) as w:
        common = prepare.prepare(w, prepare.import_model(w))
        lengths = np.load(common.validation.path / "lengths.npy").tolist()
        chosen, taken = spread(lengths, frames=SAMPLE_FRAMES, steps=SAMPLE_STEPS)
        data = {"data": common.validation}
        few = replace(common, validation=w.run(TakeFrames(rows=chosen, lengths=taken), data, label="sample"))
        for arm, (name, scheme) in QUANTISERS.items():
            precision = Precision(kind="int8", scheme=scheme, quantiser=name)
            step = quantiser(name)(precision, common.contract, (), candidates.CALIBRATION_SAMPLES)
            try:
                model = w.run(step, {"model": common.frozen, "calibration": common.calibration}, label=arm)
            except ModelError as error:
                rows.append({"net": net, "arm": arm, "failure": error.message})
                continue
            for runtime in RUNTIMES:
                for sort, there in kernels(w, runtime, qemu).items():
                    row = {"net": net, "arm": arm, "runtime": runtime, "kernels": sort}
                    try:
                        rows.append({**row, **check(there, few, model, precision, runtime)})
                    except RunnerFailed as error:
                        rows.append({**row, "failure": error.message})
                    print(rows[-1], flush=True)
    return rows


def check(
    w: context.BuildContext, common: prepare.ModelInputs, model: StepResult, precision: Precision, runtime: str
) -> dict[str, Any]:
    """Compile, run on the sample, cross-check."""
    backend = w.backends[runtime]
    settings = backend.default_settings(1)
    planned = PlannedCandidate(
        profile=runtime,
        backend=runtime,
        precision=precision,
        settings=(),
        raced=True,
    )
    step = backend.compile_step(CompileRequest(precision=precision, contract=common.contract, on_device=True))
    compiled = w.run(step, {"model": model}, label="compile")
    artifact = read_artifact(compiled.path).with_settings(settings)
    split = splits.JudgedSplit.whole("validation", common.validation, common.reference)
    outputs = proving.evaluate(w, artifact, compiled, split, planned.id)
    start = os.times()
    made = CompiledCandidate(
        planned=planned, contract=common.contract, model=model, artifact=artifact, compiled=compiled
    )
    found = cross_check(w, made, split.data, outputs)
    end = os.times()
    return {"seconds_cpu": round(sum(end[:4]) - sum(start[:4]), 2), **found.model_dump(mode="json")}


def table(rows: list[dict[str, Any]]) -> str:
    """One line per case."""
    lines = [
        "| net | quantiser | runtime | kernels | gap, steps | beyond one | of what rounding reaches | found | layer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "failure" in row:
            failure = row["failure"].replace("|", "/")
            where = f"{row.get('runtime', '')} | {row.get('kernels', '')}"
            lines.append(f"| {row['net']} | {row['arm']} | {where} | | | | fails: {failure} | |")
            continue
        steps = "–" if row["steps"] is None else f"{row['steps']:.2f}"
        share = "–" if row["share"] is None else f"{row['share']:.1%}"
        reach = "–" if row["reach"] is None else f"{row['reach']:.2f}"
        layer = row["layer"]
        named = "" if layer is None else f"{layer['op']} {layer['node']}: {layer['steps']:.0f} steps; {layer['why']}"
        lines.append(
            f"| {row['net']} | {row['arm']} | {row['runtime']} | {row['kernels']} | {steps} | {share} | {reach} |"
            f" {row['cause']} | {named} |"
        )
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    """What follows for the rule."""
    lines = []
    for sort in (NATIVE, NO_VNNI):
        part = [row for row in rows if row.get("kernels") == sort and "failure" not in row]
        if not part:
            continue
        counts = {
            cause: sum(row["cause"] == cause for row in part) for cause in dict.fromkeys(r["cause"] for r in part)
        }
        shown = sum(row["layer"] is not None and bool(row["layer"]["why"]) for row in part)
        rounding = [row["reach"] for row in part if row["cause"] == "rounding"]
        drawn = max((reach for reach in rounding if reach is not None), default=0.0)
        lines.append(
            f"- Kernels: {sort}. {len(part)} artifacts: {', '.join(f'{n} {cause}' for cause, n in counts.items())}. "
            f"Layers named with a reason that was shown: {shown}. Taken for rounding: {rounding.count(None)} "
            f"since their layers, all right, make up what they answer; else up to {drawn:.2f} of what rounding reaches."
        )
    return "\n".join(lines)


def main() -> None:
    """Check and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgebuild-crosscheck")
    parser.add_argument("--qemu", type=Path, help="qemu-x86_64 of 7.2 or newer: ONNX Runtime on a CPU without VNNI")
    options = parser.parse_args()
    rows = [row for net in options.nets for row in check_net(net, options.work, options.qemu)]
    text = (
        f"{summary(rows)}\n\nA build's own sample: {SAMPLE_FRAMES} frames of validation, spread evenly (of a recurrent "
        f"model's sequences the first {SAMPLE_STEPS} steps). What the columns mean: "
        f"[concepts](../concepts.md#the-cross-check).\n\n{table(rows)}"
    )
    some = f" --nets {' '.join(options.nets)}" if options.nets != list(NETS) else ""
    command = f"python benchmarks/crosscheck.py{some}{' --qemu qemu-x86_64' if options.qemu else ''}"
    print(write_results("crosscheck", "The cross-check with the unoptimised graph", command, text, {"rows": rows}))


if __name__ == "__main__":
    main()
