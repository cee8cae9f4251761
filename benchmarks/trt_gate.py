"""What TensorRT-RTX says of the three examples in fp32, fp16 and int8, and how close their typed files stay.

    python benchmarks/trt_gate.py [--nets fashion-mnist ...] [--work FOLDER]

The files are those that a build for a Jetson would send to the board. Their outputs are computed by onnxruntime with
its graph optimisation off: the optimised x86 path may saturate. A pass says nothing about a board.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from evidence import write_results
from quantisers import project_folder

from edgebuild.backends.trt.host import write_typed
from edgebuild.building import candidates, context, prepare
from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.project import load_project
from edgebuild.core.artifact import Fp16Meaning, Precision
from edgebuild.core.steps import NoProgress
from edgebuild.errors import EdgebuildError
from edgebuild.quantisers.registry import quantiser

NETS = ("fashion-mnist", "magika-files", "silero-vad")
PROFILE = "jetson-tensorrt"
FRAMES = 256


def precisions() -> list[Precision]:
    """Those that the profile asks for."""
    scheme = load_profiles()[PROFILE].int8[0].schemes[0]
    return [
        Precision(kind="fp32"),
        Precision(kind="fp16", fp16=Fp16Meaning.COMPUTE),
        Precision(kind="int8", scheme=scheme, quantiser="edgebuild"),
    ]


def gate_net(net: str, work: Path) -> list[dict[str, Any]]:
    rows = []
    with context.open_build(load_project(project_folder(net, work)), context.Options(), progress=NoProgress()) as w:
        common = prepare.prepare(w, prepare.import_model(w))
        feeds = _feeds(common)
        reference = _outputs(common.frozen.path / "model.onnx", common, feeds)
        for precision in precisions():
            row: dict[str, Any] = {"net": net, "precision": precision.label}
            rows.append(row)
            out = work / f"{net}-{precision.kind}"
            out.mkdir(parents=True, exist_ok=True)
            try:
                model = common.frozen
                if precision.kind == "int8":
                    step = quantiser("edgebuild")(precision, common.contract, (), candidates.CALIBRATION_SAMPLES)
                    model = w.run(step, {"model": model, "calibration": common.calibration}, label=precision.label)
                write_typed(model.path / "model.onnx", out, precision, common.contract)
                row["gate"] = json.loads((out / "gate.json").read_text())["gate"]
            except EdgebuildError as error:
                row["gate"] = error.message
            if (out / "model.onnx").is_file():
                row["bytes"] = (out / "model.onnx").stat().st_size
                row["sqnr_db"] = _sqnr(reference, _outputs(out / "model.onnx", common, feeds))
            print(row, flush=True)
    return rows


def _feeds(common: prepare.ModelInputs) -> dict[str, Any]:
    folder = common.validation.path
    return {
        spec.name: np.load(folder / (spec.name.replace("%", "%25").replace("/", "%2F") + ".npy"), mmap_mode="r")[
            :FRAMES
        ]
        for spec in common.contract.inputs
    }


def _outputs(model: Path, common: prepare.ModelInputs, feeds: dict[str, Any]) -> Any:
    """The first output over the frames, each from a zero state."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    contract, batch = common.contract, common.contract.batch
    fixed = {c.name: np.broadcast_to(np.array(c.value, c.dtype), c.shape) for c in contract.constants}
    fixed |= {
        s.name: np.zeros([d if isinstance(d, int) else 1 for d in s.shape], s.dtype) for s in contract.state_specs
    }
    taken = {i.name for i in session.get_inputs()}
    fixed = {name: value for name, value in fixed.items() if name in taken}
    frames = len(next(iter(feeds.values()))) // batch * batch
    got = []
    for start in range(0, frames, batch):
        window = {name: np.ascontiguousarray(v[start : start + batch]) for name, v in feeds.items()}
        got.append(session.run([contract.outputs[0].name], {**fixed, **window})[0])
    return np.concatenate(got).astype(np.float64)


def _sqnr(reference: Any, got: Any) -> float | None:
    noise = float(np.sum((reference - got) ** 2))
    return None if noise == 0 else float(10 * np.log10(np.sum(reference**2) / noise))


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| net | precision | TensorRT-RTX | SQNR to fp32 (dB) | typed ONNX |", "|---|---|---|---|---|"]
    for row in rows:
        sqnr = "n/a" if "bytes" not in row else "identical" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        size = f"{row['bytes'] / 1e3:.0f} kB" if "bytes" in row else "n/a"
        lines.append(f"| {row['net']} | {row['precision']} | {row['gate'].replace('|', '/')} | {sqnr} | {size} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgebuild-trt-gate")
    options = parser.parse_args()
    rows = [row for net in options.nets for row in gate_net(net, options.work)]
    text = (
        "*accepted* means: parsed and built for another GPU by TensorRT-RTX in a process without a GPU. It is no proof"
        f" for a Jetson.\n\n{table(rows)}\n\nSQNR: first output of up to {FRAMES} validation frames (each from a zero"
        " state) in onnxruntime with graph optimisation off, against the fp32 model there."
    )
    print(write_results("tensorrt-gate", "The TensorRT gate", "python benchmarks/trt_gate.py", text, {"rows": rows}))


if __name__ == "__main__":
    main()
