"""Behind a Softmax, what one place of an output loses another may gain."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import TensorProto, helper

from edgebuild.crosscheck.graph import competing_axes
from edgebuild.models.qdq import QdqGraph


def graph_of(op: str, opset: int, **attributes: Any) -> QdqGraph:
    shape = [2, 3, 4, 5]
    nodes = [helper.make_node(op, ["x"], ["y"], **attributes)]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in "xy")
    graph = helper.make_graph(nodes, "net", inputs, outputs)
    return QdqGraph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


@pytest.mark.parametrize(
    ("opset", "attributes", "axes"),
    [
        (13, {}, (3,)),
        (13, {"axis": 1}, (1,)),
        (17, {"axis": -2}, (2,)),
        # Before opset 13 all axes from this one on are one.
        (11, {}, (1, 2, 3)),
        (11, {"axis": 2}, (2, 3)),
    ],
)
def test_a_softmax_shares_out_along_its_axes(opset: int, attributes: dict[str, int], axes: tuple[int, ...]) -> None:
    assert competing_axes(graph_of("Softmax", opset, **attributes), "y") == axes


def test_nothing_else_does() -> None:
    assert competing_axes(graph_of("Sigmoid", 13), "y") == ()
    assert competing_axes(graph_of("Softmax", 13), "x") == ()
