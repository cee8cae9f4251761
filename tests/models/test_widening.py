"""What computes in float16 computes in float32 once it is frozen, and is fed and answers as before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgebuild.core.artifact import Contract, Int8Scheme, TensorSpec
from edgebuild.models.host_session import HostSession
from edgebuild.models.onnx_graphs import fault_of, graphs_of
from edgebuild.models.steps import NOT_WIDENED, WIDENED, FreezeModel, ReferenceOutputs
from edgebuild.models.widening import widened
from edgebuild.quantisers.own.step import Quantise
from tests.models import example, nets

if TYPE_CHECKING:
    from pathlib import Path

HALF = TensorProto.FLOAT16
CONTRACT = Contract(
    inputs=(TensorSpec(name="x", shape=(1, 6), dtype="float16"),),
    outputs=(TensorSpec(name="y", shape=("batch", 4), dtype="float16"),),
)


def half(name: str, *shape: int, seed: int = 0) -> Any:
    return numpy_helper.from_array(np.random.default_rng(seed).standard_normal(shape).astype(np.float16), name)


def branching() -> Any:
    """float16 of every kind: stored, in nodes, in what a Cast and a ConstantOfShape make, and in branches."""

    def branch(name: str, factor: float) -> Any:
        nodes = [
            helper.make_node("Constant", [], ["f"], value=numpy_helper.from_array(np.array(factor, np.float16))),
            helper.make_node("Mul", ["h", "f"], ["r"]),
        ]
        return helper.make_graph(nodes, name, [], [nets.value("r", None, HALF)])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"),
        helper.make_node("ConstantOfShape", ["four"], ["c"], value=helper.make_tensor("", HALF, [1], [0.5])),
        helper.make_node("Cast", ["four"], ["k"], to=HALF),
        helper.make_node("If", ["yes"], ["b"], then_branch=branch("twice", 2.0), else_branch=branch("thrice", 3.0)),
        helper.make_node("Sum", ["b", "c", "k"], ["y"]),
    ]
    weights = [half("w", 6, 4), numpy_helper.from_array(np.array([4]), "four"), helper.make_tensor("yes", 9, [], [1])]
    return nets.model(nodes, [nets.value("x", ["batch", 6], HALF)], [nets.value("y", ["batch", 4], HALF)], weights)


def sure(model: Any) -> Any:
    wide = widened(model)
    assert wide is not None
    onnx.checker.check_model(wide, full_check=True)
    assert fault_of(wide) is None
    return wide


def kinds_within(model: Any) -> set[int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    stored = {tensor.data_type for graph in graphs_of(inferred) for tensor in graph.initializer}
    return stored | {value.type.tensor_type.elem_type for value in inferred.value_info}


def rows(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [{"x": random.standard_normal(6).astype(np.float16)} for _ in range(count)]


class TestWidened:
    def test_everything_between_inputs_and_outputs_is_float32(self) -> None:
        model = branching()
        before = model.SerializeToString()
        wide = sure(model)
        assert HALF not in kinds_within(wide)
        feeds = {"x": np.stack([row["x"] for row in rows(8)])}
        expected, got = HostSession(model)(feeds)["y"], HostSession(wide)(feeds)["y"]
        assert got.dtype == expected.dtype == np.float16
        np.testing.assert_allclose(got.astype(np.float32), expected.astype(np.float32), rtol=2e-3, atol=2e-3)
        assert model.SerializeToString() == before

    def test_a_model_without_float16_is_left_alone(self) -> None:
        assert widened(nets.conv()) is None

    def test_what_an_operator_computes_in_and_makes_on_its_own_is_widened(self) -> None:
        nodes = [
            helper.make_node("HannWindow", ["six"], ["window"], output_datatype=HALF),
            helper.make_node("LayerNormalization", ["x", "w"], ["n"], stash_type=HALF),
            helper.make_node("Mul", ["n", "window"], ["y"]),
        ]
        ends = [nets.value("x", [2, 6], HALF)], [nets.value("y", [2, 6], HALF)]
        wide = sure(nets.model(nodes, *ends, [half("w", 6), numpy_helper.from_array(np.array(6), "six")]))
        assert HALF not in kinds_within(wide)
        x = np.stack([row["x"] for row in rows(2)])
        plain = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
        window = np.sin(np.pi * np.arange(6) / 6) ** 2
        expected = plain * numpy_helper.to_array(half("w", 6)) * window
        np.testing.assert_allclose(HostSession(wide)({"x": x})["y"], expected, rtol=0.02, atol=0.02)

    def test_functions_are_widened(self) -> None:
        one = numpy_helper.from_array(np.array(1, np.float16))
        body = [
            helper.make_node("Constant", [], ["one"], value=one),
            helper.make_node("Add", ["a", "one"], ["b"]),
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        model = nets.model(
            [helper.make_node("Next", ["x"], ["y"], domain="own")],
            [nets.value("x", [2], HALF)],
            [nets.value("y", [2], HALF)],
            domains=["own"],
        )
        model.functions.append(helper.make_function("own", "Next", ["a"], ["b"], body, opsets))
        wide = sure(model)
        assert wide.functions[0].node[0].attribute[0].t.data_type == TensorProto.FLOAT
        got = HostSession(wide)({"x": np.array([1, 2], np.float16)})["y"]
        np.testing.assert_array_equal(got, np.array([2, 3], np.float16))

    def test_an_output_that_other_nodes_read_an_input_that_is_one_and_a_constant_that_is_one(self) -> None:
        nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
        ends = [nets.value(name, [6], HALF) for name in "xyzw"]
        wide = sure(nets.model(nodes, ends[:1], ends, [half("w", 6)]))
        feeds = rows(1)[0]
        made = HostSession(wide)(feeds)
        np.testing.assert_array_equal(made["z"], feeds["x"])
        np.testing.assert_array_equal(made["y"], -feeds["x"])
        np.testing.assert_array_equal(made["w"], numpy_helper.to_array(half("w", 6)))


def given(model: Any, folder: Path, count: int, contract: Contract = CONTRACT) -> dict[str, Path]:
    """What ``FreezeModel`` reads of a model with the input x of six numbers."""
    (folder / "model").mkdir()
    onnx.save(model, str(folder / "model" / "model.onnx"))
    kind = contract.inputs[0].dtype
    specs = (TensorSpec(name="x", shape=("batch", 6), dtype=kind),)
    data = example.data(folder / "data", specs, [{"x": row["x"].astype(kind)} for row in rows(count)])
    step = ReferenceOutputs(contract=contract, batch=1, split="validation")
    reference = example.run(step, {"data": data, "model": folder / "model"}, folder / "reference")
    return {"model": folder / "model", "samples": data, "reference": reference}


def frozen(inputs: dict[str, Path], contract: Contract = CONTRACT) -> Path:
    step = FreezeModel(contract=contract, shapes=(("x", (1, 6)),))
    return example.run(step, inputs, inputs["model"].parent / "frozen")


class TestFreezing:
    def test_a_model_in_float16_is_quantised_and_fed_as_declared(self, tmp_path: Path) -> None:
        inputs = given(branching(), tmp_path, 40)
        folder = frozen(inputs)
        assert json.loads((folder / "folding.json").read_text())[0] == WIDENED
        contract = Contract.model_validate_json((folder / "contract.json").read_text())
        assert {spec.dtype for spec in (*contract.inputs, *contract.outputs)} == {"float16"}
        step = Quantise(contract=contract, scheme=Int8Scheme(activations="uint8"))
        made = example.run(step, {"model": folder, "calibration": inputs["samples"]}, tmp_path / "int8")
        quantised = onnx.load(str(made / "model.onnx"))
        assert TensorProto.INT8 in {tensor.data_type for tensor in quantised.graph.initializer}
        expected = np.load(inputs["reference"] / "y.npy").astype(np.float32)
        call = HostSession(made / "model.onnx")
        got = np.concatenate([call({"x": row["x"][np.newaxis]})["y"] for row in rows(40)])
        assert got.dtype == np.float16
        assert np.linalg.norm(got.astype(np.float32) - expected) < 0.05 * np.linalg.norm(expected)

    def test_a_model_that_means_the_rounding_stays_as_it_is(self, tmp_path: Path) -> None:
        nodes = [
            helper.make_node("Add", ["x", "much"], ["a"]),
            helper.make_node("Cast", ["a"], ["rounded"], to=HALF),
            helper.make_node("Cast", ["rounded"], ["b"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["b", "much"], ["y"]),
        ]
        much = numpy_helper.from_array(np.array(2048, np.float32), "much")
        ends = [nets.value("x", ["batch", 6])], [nets.value("y", ["batch", 6])]
        contract = Contract(
            inputs=(TensorSpec(name="x", shape=(1, 6), dtype="float32"),),
            outputs=(TensorSpec(name="y", shape=("batch", 6), dtype="float32"),),
        )
        inputs = given(nets.model(nodes, *ends, [much]), tmp_path, 5, contract)
        folder = frozen(inputs, contract)
        assert json.loads((folder / "folding.json").read_text()) == [NOT_WIDENED]
        call = HostSession(folder / "model.onnx")
        got = np.concatenate([call({"x": row["x"][np.newaxis].astype(np.float32)})["y"] for row in rows(5)])
        np.testing.assert_array_equal(got, np.load(inputs["reference"] / "y.npy"))
        assert set(got.ravel() % 1) == {0.0}
