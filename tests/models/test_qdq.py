"""Reading Q/DQ graphs: what is quantised, what lies between, and the variants that show and take codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebuild.models import qdq
from edgebuild.models.host_session import HostSession


def pair(tensor: str, scale: str, out: str) -> list[Any]:
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, "zero"], [f"{out}_codes"]),
        helper.make_node("DequantizeLinear", [f"{out}_codes", scale, "zero"], [out]),
    ]


@pytest.fixture
def graph() -> qdq.QdqGraph:
    """A dense layer between two quantised tensors, then a softmax; ``direct`` is the second one reshaped."""
    constants = {
        "fine": np.float32(0.1),
        "coarse": np.float32(0.5),
        "zero": np.uint8(10),
        "weight": np.array([[1, -2], [3, 4]], np.int8),
        "weight_scale": np.array([0.5, 0.25], np.float32),
        "shape": np.array([2, 1], np.int64),
    }
    nodes = [
        *pair("x", "fine", "input"),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale"], ["kernel"], axis=1),
        helper.make_node("MatMul", ["input", "kernel"], ["product"], name="dense"),
        *pair("product", "coarse", "hidden"),
        helper.make_node("Softmax", ["hidden"], ["likely"]),
        helper.make_node("Reshape", ["hidden", "shape"], ["direct"]),
    ]
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [
            helper.make_tensor_value_info("likely", TensorProto.FLOAT, [1, 2]),
            helper.make_tensor_value_info("direct", TensorProto.FLOAT, [2, 1]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return qdq.QdqGraph(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_quantised_tensors_are_those_of_activations_with_their_parameters(graph: qdq.QdqGraph) -> None:
    assert list(graph.quantised) == ["input_codes", "hidden_codes"]
    hidden = graph.quantised["hidden_codes"]
    assert hidden.codes_of(np.array([0.0, 1.0, 0.74, 1e9, -1e9])).tolist() == [10, 12, 11, 255, 0]


def test_sources_are_the_last_quantised_tensors(graph: qdq.QdqGraph) -> None:
    assert graph.sources("likely") == {"hidden_codes"}
    assert graph.sources("product") == {"input_codes"}
    assert graph.sources("x") == set()


def test_a_step_is_the_scale_only_where_the_output_is_a_dequantised_tensor(graph: qdq.QdqGraph) -> None:
    step = graph.direct_step("direct")
    assert step is not None
    assert float(step) == 0.5
    assert graph.direct_step("likely") is None


def test_a_segment_is_named_after_its_weighted_layer(graph: qdq.QdqGraph) -> None:
    index = graph.layer("hidden_codes")
    assert index is not None
    assert graph.node_name(index) == "dense"
    index = graph.layer("likely")
    assert index is not None
    assert graph.node_name(index) == "Softmax of likely"
    # With nothing cut, all that lies before is one segment.
    assert graph.layer("likely", frozenset()) == graph.layer("hidden_codes")


def test_weights_are_read_with_scale_and_axis(graph: qdq.QdqGraph) -> None:
    found = graph.weight("kernel")
    assert found is not None
    codes, scale, axis = found
    assert (codes.tolist(), scale.tolist(), axis) == ([[1, -2], [3, 4]], [0.5, 0.25], 1)
    assert graph.weight("product") is None


def test_variants_compute_what_the_model_computes(graph: qdq.QdqGraph) -> None:
    x = np.array([[1.0, 0.33]], np.float32)
    plain = HostSession(graph.model)({"x": x})
    seen = HostSession(qdq.with_codes(graph, graph.quantised))({"x": x})
    given = {graph.given[name]: seen[name] for name in graph.quantised}
    replayed = HostSession(qdq.with_given(graph, graph.quantised))({"x": x, **given})
    rest = HostSession(qdq.tail(graph, ["likely", "direct"]))
    nudges = {graph.nudge[name]: np.zeros((1, 2), np.float32) for name in graph.quantised}
    still = HostSession(qdq.with_nudges(graph, graph.quantised))({"x": x, **nudges})
    shown = HostSession(qdq.with_shown(graph, {"hidden_codes": (1, 2)}))({"x": x})
    behind = rest({"x": x, graph.given["hidden_codes"]: seen["hidden_codes"]})
    for outputs in (seen, replayed, behind, still, shown):
        assert np.array_equal(outputs["likely"], plain["likely"])
        assert np.array_equal(outputs["direct"], plain["direct"])
    assert np.array_equal(shown["hidden_codes shown"].reshape(2, 1), plain["direct"])
    moved = {**given, graph.given["input_codes"]: seen["input_codes"] + np.uint8(40)}
    assert not np.array_equal(
        HostSession(qdq.with_given(graph, graph.quantised))({"x": x, **moved})["hidden_codes"], seen["hidden_codes"]
    )
