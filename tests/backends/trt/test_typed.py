"""What TensorRT refuses or misreads is named before it sees it; fp16 types leave out what float16 can't hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebuild.backends.trt import typed
from tests.backends.nets import conv_net

if TYPE_CHECKING:
    from numpy.typing import NDArray


def quantised(*, zero: int = 0, axis: int = 0, bias: NDArray[Any] | None = None, kind: type[Any] = np.int8) -> Any:
    """A convolution in explicit Q/DQ, 4 channels to 6."""
    constants = {
        "s": np.float32(0.05),
        "z": np.array(zero, kind),
        "w_q": np.random.default_rng(0).integers(-127, 127, (6, 4, 3, 3)).astype(np.int8),
        "w_s": np.full(6 if axis == 0 else 4, 0.01, np.float32),
        "w_z": np.zeros(6 if axis == 0 else 4, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"], name="q"),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_d"], name="dq"),
        helper.make_node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w_d"], name="wdq", axis=axis),
    ]
    inputs = ["x_d", "w_d"]
    if bias is not None:
        constants |= {"b_q": bias, "b_s": np.full(6, 0.0005, np.float32)}
        nodes.append(helper.make_node("DequantizeLinear", ["b_q", "b_s"], ["b_d"], name="bdq", axis=0))
        inputs.append("b_d")
    nodes.append(helper.make_node("Conv", inputs, ["y"], name="conv"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 6, 6, 6))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: Any, feeds: dict[str, Any]) -> Any:
    """Outputs by onnxruntime without graph optimisation: the optimised x86 path may saturate."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def test_a_right_file_has_no_problems() -> None:
    assert typed.problems(quantised()) == []
    assert typed.expected_precisions(quantised()) == {"conv": "int8"}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (quantised(axis=1), "node 'wdq': the weight of 'conv' has its scales on axis 1, not 0"),
        (quantised(zero=3), "node 'q': its zero point is not 0"),
        (quantised(zero=0, kind=np.uint8), "node 'q': its codes are uint8"),
        (quantised(bias=np.arange(6, dtype=np.int32)), "node 'bdq': its codes are int32"),
    ],
    ids=["axis", "zero point", "uint8", "bias"],
)
def test_what_the_parser_refuses_or_misses_is_named(model: Any, said: str) -> None:
    assert any(said in problem for problem in typed.problems(model))


def test_integer_operators_are_named() -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dynamic")
    model = quantised()
    model.graph.node.append(node)
    assert any("'dynamic': DynamicQuantizeLinear" in problem for problem in typed.problems(model))


def test_a_bias_in_float_gives_the_same_outputs() -> None:
    model = quantised(bias=np.array([5, -9, 0, 100, 2, -70], np.int32))
    x = {"x": np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)}
    before = run(model, x)
    assert typed.float_biases(model) == 1
    assert typed.problems(model) == []
    onnx.checker.check_model(model)
    assert np.abs(run(model, x) - before).max() < 1e-5


def test_a_half_model_has_float_borders_and_answers_alike() -> None:
    model, _ = conv_net()
    x = {"image": np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    before = run(model, x)
    assert typed.to_half(model) == {}
    onnx.checker.check_model(model, full_check=True)
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16}
    assert set(typed.expected_precisions(model).values()) == {"fp16"}
    after = run(model, x)
    assert after.dtype == np.float32
    assert 0 < np.abs(after - before).max() < 0.02 * np.abs(before).max()


@pytest.mark.parametrize(("scale", "said"), [(1e6, "beyond fp16's 65504"), (1e-9, "too small for fp16")])
def test_a_node_whose_constant_float16_cannot_hold_stays_float(scale: float, said: str) -> None:
    model, _ = conv_net()
    tensor = next(t for t in model.graph.initializer if t.name == "w2")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(scale), "w2"))
    kept = typed.to_half(model)
    assert set(kept) == {"second"}
    assert said in kept["second"]
    onnx.checker.check_model(model, full_check=True)
    assert typed.expected_precisions(model)["second"] == "fp32"


def test_the_bodies_of_control_flow_keep_reading_float32() -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["r"], ["n"])], "b", [], [helper.make_tensor_value_info("n", TensorProto.FLOAT, (2,))]
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("If", ["c"], ["i"], then_branch=body, else_branch=body, name="if"),
        helper.make_node("Abs", ["i"], ["y"]),
    ]
    values = [("x", TensorProto.FLOAT), ("c", TensorProto.BOOL), ("y", TensorProto.FLOAT)]
    x, c, y = (helper.make_tensor_value_info(n, kind, () if n == "c" else (2,)) for n, kind in values)
    graph = helper.make_graph(nodes, "g", [x, c], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert set(typed.to_half(model)) == {"if"}
    onnx.checker.check_model(model, full_check=True)
    assert run(model, {"x": np.array([-1.0, 2.0], np.float32), "c": np.array(True)}).tolist() == [0.0, 2.0]
