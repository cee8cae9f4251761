"""From a step's result to the 8-bit file that ships, by the product's own steps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact import Int8Scheme
from edgebuild.core.steps import never_stop
from edgebuild.models.compressed_model import load_model
from edgebuild.models.dataset import Dataset
from edgebuild.models.freezing import freeze, shipped_contract
from edgebuild.models.onnx_files import load_onnx, read_facts
from edgebuild.models.steps import export_checked
from edgebuild.quantisers.own.step import Quantise
from tests.techniques import zoo

if TYPE_CHECKING:
    from pathlib import Path

VNNI = Int8Scheme(activations="uint8")


def ship(stored: Path, data: Path, animal: zoo.Animal, folder: Path, scheme: Int8Scheme = VNNI) -> dict[str, Any]:
    """Export, freeze and quantise; return quantise.json. The files lie in ``folder``: float/, int8/."""
    import onnx

    for name in ("export", "float", "int8"):
        (folder / name).mkdir(parents=True)
    contract, exported = zoo.contract_of(animal), folder / "export" / "model.onnx"
    module, _ = load_model(stored, zoo.code_of(animal))
    export_checked(module, animal.specs, contract, Dataset.open(data), exported, never_stop, quick=True)
    model = load_onnx(exported)
    shapes = {spec.name: (1, *spec.shape[1:]) for spec in animal.specs}
    frozen = freeze(model, shapes=shapes, constants=())
    onnx.save(frozen, str(folder / "float" / "model.onnx"))
    step = Quantise(scheme=scheme, contract=shipped_contract(read_facts(frozen), contract), samples=16)
    step.run(
        {"model": folder / "float", "calibration": data}, folder / "int8", zoo.context(folder / "quantise-scratch")
    )
    return dict(json.loads((folder / "int8" / "quantise.json").read_bytes()))


def weights_shipped(path: Path) -> dict[str, Any]:
    """The codes of every layer in an 8-bit file by their digest, with scale and zero point of what it reads."""
    import numpy as np
    import onnx

    from edgebuild.models import trained_grids

    graph = onnx.load(str(path)).graph
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            continue
        dequantise = made[node.input[1]].input
        codes = values[dequantise[0]].astype(np.int16) - values[dequantise[2]].astype(np.int16).reshape(-1)[0]
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        rows = codes.T if node.op_type != "Conv" and not transposed else codes.reshape(len(codes), -1)
        reader = made[node.input[0]].input
        smallest = trained_grids.row_codes(rows)
        assert smallest is not None
        found[trained_grids.digest(smallest[0])] = (codes, float(values[reader[1]]), int(values[reader[2]]))
    return found
