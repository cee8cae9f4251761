"""Which technique works on real ONNX files, read as torch modules without their training code.

    pip install --no-deps --target FOLDER rapidocr-onnxruntime==1.4.4
    python benchmarks/onnx_recipes.py FOLDER [--models magika ...]

Reads Magika's file from its installed package and PaddleOCR's three from FOLDER, compares each with ONNX Runtime at
several batch sizes, and runs every technique on it. The steps check that what they made is rebuilt bit by bit
and that torch and ONNX agree. Inputs are noise: this is about whether a technique works, not about what it is worth.
Writes docs/results/onnx-recipes.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evidence import write_results
from technique_matrix import told

from edgebuild.catalogue.project import locate
from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, ProjectCode, Step, StepContext, never_stop
from edgebuild.models.compressed_model import SOURCE_FILE, CodeNames
from edgebuild.models.compressed_steps import SaveOnnx
from edgebuild.models.dataset import write_dataset
from edgebuild.models.onnx_files import load_onnx, read_facts
from edgebuild.models.steps import ImportOnnx, ReferenceOutputs
from edgebuild.techniques.registry import TABLE
from edgebuild.testing.techniques import Tried, run_step

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES = 16
OCR = "rapidocr_onnxruntime/models"


@dataclass(frozen=True)
class Model:
    """A file, and the shape that it is read in; ``source`` is inside FOLDER or a package."""

    source: str
    shape: tuple[int | str, ...]
    dtype: Any = "float32"


MODELS = {
    "magika": Model("package:magika/models/standard_v3_3/model.onnx", ("batch", 2048), "int32"),
    "orientation": Model(f"{OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", ("batch", 3, 48, 192)),
    "recogniser": Model(f"{OCR}/ch_PP-OCRv4_rec_infer.onnx", ("batch", 3, 48, 96)),
    "detector": Model(f"{OCR}/ch_PP-OCRv4_det_infer.onnx", ("batch", 3, 96, 96)),
}
#: Little training: enough to see that it runs.
PARAMETERS: dict[str, dict[str, Any]] = {
    "apprentice": {"steps": 2},
    "binary-weights": {"steps": 2},
    "distil": {"steps": 2},
    "exit-early": {"steps": 2},
    "factorise": {"ranks": "share", "share": 0.3},
    "prune-structured": {"importance": "l2", "multiple": 8},
    "prune-unstructured": {},
    "qat": {"steps": 2},
    "resize": {"size": 48},
    "share-weights": {},
    "substitute": {"steps": 2},
}


def prepared(model: Model, folder: Path, scratch: Path) -> tuple[dict[str, Path], TensorSpec, Contract]:
    """Import, run as the reference, read and compare a file; return what a technique's step takes."""
    path = locate(model.source, folder)
    if path is None:
        raise SystemExit(f"{model.source}: its package isn't installed")
    facts = read_facts(load_onnx(path))
    spec = TensorSpec(name=facts.inputs[0].name, shape=model.shape, dtype=model.dtype)
    ships = spec.model_copy(update={"shape": (1, *model.shape[1:])})
    contract = Contract(inputs=(ships,), outputs=facts.outputs)
    data = scratch / "data"
    data.mkdir()
    write_dataset(
        _noise(spec), data, specs=(spec,), stateful=False, source="noise", task=NoProgress(), check=never_stop
    )
    imported = _run(ImportOnnx(), {"model": path}, scratch / "imported")
    reference = ReferenceOutputs(contract=contract, batch=1, split="noise")
    outputs = _run(reference, {"data": data, "model": imported}, scratch / "reference")
    given = {"model": imported, "samples": data, "reference": outputs}
    stored = _run(SaveOnnx(specs=(spec,), contract=contract), given, scratch / "stored")
    return {"model": stored, "teacher": stored, "calibration": data, "train": data}, spec, contract


def _noise(spec: TensorSpec) -> Iterator[Sample]:
    random = np.random.default_rng(0)
    shape = [int(size) for size in spec.shape[1:]]
    for _ in range(SAMPLES):
        whole = spec.dtype == "int32"
        values = random.integers(0, 256, shape) if whole else random.standard_normal(shape)
        yield Sample(inputs={spec.name: values.astype(spec.dtype)}, target=int(random.integers(2)))


def _run(step: Step, inputs: dict[str, Path], out: Path) -> Path:
    out.mkdir()
    step.run(inputs, out, _context(out.with_name(f"{out.name}-scratch")))
    return out


def _context(scratch: Path) -> StepContext:
    scratch.mkdir(parents=True, exist_ok=True)
    code = ProjectCode(load=lambda reference: sys.exit(f"{reference} was called"), digest="")
    return StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=scratch, code=code)


def row(name: str, folder: Path) -> dict[str, Tried]:
    """Run every technique on one model."""
    found = {}
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        inputs, spec, contract = prepared(MODELS[name], folder, scratch)
        for technique, kind in TABLE.items():
            step = kind(
                parameters=kind.Parameters(**PARAMETERS[technique]),
                code=CodeNames(factory=SOURCE_FILE),
                specs=(spec,),
                contract=contract,
            )
            start = time.process_time()
            found[technique] = run_step(step, inputs, scratch / technique, _context(scratch / f"{technique}-scratch"))
            print(
                f"{name}, {technique}: {told(found[technique])} ({time.process_time() - start:.0f} s CPU)", flush=True
            )
    return found


def main() -> int:
    """Run the models, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    given = parser.parse_args()
    rows = {name: row(name, given.folder) for name in given.models}
    works = sum(tried.report is not None for found in rows.values() for tried in found.values())
    lines = ["| technique | " + " | ".join(rows) + " |", "| --- |" + " --- |" * len(rows)]
    lines += [f"| {each} | " + " | ".join(told(found[each]) for found in rows.values()) + " |" for each in TABLE]
    text = f"""
All of {", ".join(rows)} are read, and agree with ONNX Runtime on {SAMPLES} samples at batch sizes 1, 2 and 5.
{works} of {len(rows) * len(TABLE)} cells work. A cell says by what share multiply-accumulates and parameters fell, or
why the technique refused. The inputs are noise and the training takes two steps: nothing is said of accuracy.

{chr(10).join(lines)}
"""
    numbers = {
        name: {
            each: tried.report.model_dump(mode="json") if tried.report else tried.refusal for each, tried in r.items()
        }
        for name, r in rows.items()
    }
    print(
        write_results(
            "onnx-recipes",
            "Recipes on real ONNX files",
            f"python benchmarks/onnx_recipes.py FOLDER --models {' '.join(rows)}",
            text,
            numbers,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
