"""16-bit saturation simulated: exact where nothing saturates, by hand where it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebuild.crosscheck.saturation import layer_of, saturated
from edgebuild.models import qdq
from edgebuild.models.host_session import HostSession


def layer_graph(op: str, weight: Any, shape: list[int], *, dtype: Any = np.uint8, **attributes: Any) -> qdq.QdqGraph:
    """``x`` quantised and one weighted layer with a scale per output."""
    width = weight.shape[0] if op == "Conv" else weight.shape[1]
    constants = {
        "scale": np.float32(0.02),
        "zero": dtype(3),
        "weight": weight,
        "weight_scale": np.linspace(0.01, 0.02, width).astype(np.float32),
        "bias": np.linspace(-1, 1, width).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["real"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale"], ["kernel"], axis=0 if op == "Conv" else 1),
        helper.make_node(op, ["real", "kernel", *([] if op == "MatMul" else ["bias"])], ["y"], **attributes),
    ]
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return qdq.QdqGraph(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def simulate(graph: qdq.QdqGraph, x: Any, *, channels_last: bool = True) -> tuple[Any, Any]:
    """The layer's output in float, and as simulated."""
    seen = HostSession(qdq.with_codes(graph, ["codes"]))({"x": x})
    layer = layer_of(graph, len(graph.nodes) - 1)
    assert layer is not None
    return seen["y"], saturated(layer, seen["codes"], channels_last=channels_last)


CASES = [
    ("MatMul", (6, 3), [2, 6], {}),
    ("MatMul", (5, 3), [2, 4, 5], {}),
    ("Gemm", (6, 3), [2, 6], {}),
    ("Conv", (4, 3, 3, 3), [2, 3, 7, 6], {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
    ("Conv", (4, 2, 3, 3), [1, 4, 9, 9], {"group": 2, "dilations": [2, 2]}),
    ("Conv", (4, 1, 3, 3), [1, 4, 5, 5], {"group": 4, "pads": [1, 1, 1, 1]}),
    ("Conv", (4, 3, 5), [2, 3, 11], {"pads": [2, 2]}),
]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("op", "shape", "inputs", "attributes"), CASES)
def test_small_weights_give_the_exact_layer(
    op: str, shape: tuple[int, ...], inputs: list[int], attributes: dict[str, Any], channels_last: bool, dtype: Any
) -> None:
    random = np.random.default_rng(0)
    weight = random.integers(-60, 61, shape).astype(np.int8)
    graph = layer_graph(op, weight, inputs, dtype=dtype, **attributes)
    x = random.uniform(-1, 3, inputs).astype(np.float32)
    exact, found = simulate(graph, x, channels_last=channels_last)
    assert np.allclose(found, exact, atol=1e-4)


def test_two_large_neighbours_saturate_at_16_bits() -> None:
    graph = layer_graph("MatMul", np.full((2, 1), 127, np.int8), [1, 2])
    exact, found = simulate(graph, np.full((1, 2), 10.0, np.float32))
    scale = 0.02 * 0.01
    assert exact[0, 0] == pytest.approx((255 - 3) * 2 * 127 * scale, rel=1e-5)
    assert found[0, 0] == pytest.approx((32767 - 3 * 2 * 127) * scale, rel=1e-5)


def test_what_is_not_simulated_is_said() -> None:
    graph = layer_graph("Conv", np.ones((4, 3, 3, 3), np.int8), [1, 3, 6, 6], auto_pad="SAME_UPPER")
    assert simulate(graph, np.ones((1, 3, 6, 6), np.float32))[1] is None
    assert layer_of(graph, 0) is None
