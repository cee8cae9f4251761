"""Freezing folds, proves it on real samples, and does without where it can't."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.errors import ModelError
from edgebuild.models.folding import fold as folding
from edgebuild.models.freezing import freeze
from edgebuild.models.host_session import HostSession
from edgebuild.models.outputs import read_outputs
from edgebuild.models.steps import NOT_FOLDED, FreezeModel, ReferenceOutputs
from tests.models import example, nets
from tests.models.folding.written import IN, OUT, Net, ops

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (1, IN, 6, 6)
CONTRACT = Contract(
    inputs=(TensorSpec(name="x", shape=SHAPE, dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=("batch", OUT, 4, 4), dtype="float32"),),
)


def normalised() -> Any:
    """A convolution and a normalisation as a framework writes it out: its scale is computed in the graph."""
    net = Net(0)
    column = (OUT, 1, 1)
    spread = net.add(
        "Sqrt", net.add("Add", net.constant(np.full(column, 3, np.float32)), net.constant(np.array(1, np.float32)))
    )
    scale = net.add("Div", net.constant(net.away_from_zero(*column)), spread)
    data = net.add("Conv", "x", net.constant(net.away_from_zero(OUT, IN, 3, 3)))
    data = net.add("Mul", net.add("Sub", data, net.constant(net.away_from_zero(*column))), scale)
    data = net.add("Add", net.add("Identity", data), net.constant(net.away_from_zero(*column)))
    net.add("Relu", data, output="y")
    return nets.model(net.nodes, [nets.value("x", ["batch", *SHAPE[1:]])], [nets.value("y", None)], net.weights)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    random = np.random.default_rng(0)
    rows = [{"x": random.standard_normal(SHAPE[1:]).astype(np.float32)} for _ in range(5)]
    data = example.data(tmp_path / "data", (TensorSpec(name="x", shape=("batch", *SHAPE[1:]), dtype="float32"),), rows)
    (tmp_path / "model").mkdir()
    onnx.save(normalised(), str(tmp_path / "model" / "model.onnx"))
    step = ReferenceOutputs(contract=CONTRACT, batch=1, split="validation")
    reference = example.run(step, {"data": data, "model": tmp_path / "model"}, tmp_path / "reference")
    return {"model": tmp_path / "model", "samples": data, "reference": reference}


def frozen(inputs: dict[str, Path], out: Path) -> tuple[list[str], list[str]]:
    """Freeze, and return the operators that are left and the notes."""
    folder = example.run(FreezeModel(contract=CONTRACT, shapes=(("x", SHAPE),)), inputs, out)
    return ops(onnx.load(str(folder / "model.onnx"))), json.loads((folder / "folding.json").read_text())


def test_a_normalisation_that_is_written_out_and_its_constants_are_folded(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    left, notes = frozen(inputs, tmp_path / "out")
    assert left == ["Conv", "Relu"]
    assert notes == ["scales and shifts folded into 1 layer: 3 fewer operators"]


def test_an_operator_whose_shapes_nothing_infers_is_passed_by() -> None:
    """onnxruntime has a kernel for it; no shape is known behind it."""
    net = Net(0)
    data = net.add("Gemm", "x", net.constant(net.away_from_zero(6, 4)))
    data = net.add("Neg", net.add("CDist", data, net.constant(net.away_from_zero(5, 4)), domain="com.microsoft"))
    data = net.add("MatMul", data, net.constant(net.away_from_zero(5, 3)))
    data = net.add(
        "Add", net.add("Mul", data, net.constant(net.away_from_zero(3))), net.constant(net.away_from_zero(3))
    )
    model = nets.model(
        net.nodes, [nets.value("x", ["batch", 6])], [nets.value(data, None)], net.weights, ["com.microsoft"]
    )
    made = freeze(model, shapes={"x": (1, 6)}, constants=())
    assert data not in {value.name for value in made.graph.value_info}
    result = folding.fold(made)
    assert ops(result.model) == ["Gemm", "CDist", "Neg", "MatMul", "Add"]
    feeds = {"x": net.away_from_zero(1, 6)}
    np.testing.assert_allclose(HostSession(result.model)(feeds)[data], HostSession(model)(feeds)[data], rtol=1e-4)


@pytest.mark.parametrize(
    ("domain", "operator", "shaped"),
    [("ai.onnx.ml", "Scaler", False), ("com.microsoft", "Gelu", True)],
)
def test_behind_an_operator_that_onnx_knows_nothing_of_types_are_onnxruntimes(
    domain: str, operator: str, shaped: bool
) -> None:
    factors: dict[str, Any] = {"offset": [0.5], "scale": [2.0]} if operator == "Scaler" else {}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["first"]),
        helper.make_node(operator, ["first"], ["scaled"], domain=domain, **factors),
        helper.make_node("MatMul", ["scaled", "v"], ["y"]),
    ]
    ends = [nets.value("x", ["batch", 4])], [nets.value("y", ["batch", 3])]
    net = nets.model(nodes, *ends, [nets.tensor("w", 4, 6), nets.tensor("v", 6, 3)], [domain])
    graph = freeze(net, shapes={"x": (1, 4)}, constants=()).graph
    kinds = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    assert kinds["scaled"].elem_type == kinds["y"].elem_type == TensorProto.FLOAT
    assert [d.dim_value for d in kinds["y"].shape.dim] == ([1, 3] if shaped else [])


def _negated(model: Any) -> Any:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    wrong.graph.node[-1].op_type = "Neg"
    return wrong


def _senseless(model: Any) -> Any:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    wrong.graph.node[-1].input[0] = "nowhere"
    return wrong


@pytest.mark.parametrize("wrongly", [_negated, _senseless])
def test_what_folding_changes_is_built_without_and_said(
    wrongly: Any, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "fold", lambda model: folding.Folded(model=wrongly(model), operators=3, layers=1))
    left, notes = frozen(inputs, tmp_path / "out")
    assert left == ["Conv", "Sub", "Mul", "Add", "Relu"]
    assert notes == [NOT_FOLDED]


def test_a_reference_that_neither_fits_is_still_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    path = inputs["reference"] / "y.npy"
    np.save(path, read_outputs(inputs["reference"])["y"] + 1)
    with pytest.raises(ModelError, match="The model in its shipped shape differs from the reference"):
        frozen(inputs, tmp_path / "out")
