"""Small real ONNX models, as onnx.helper writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Sequence[int | str] | None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name: str, *shape: int, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)


def model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Sequence[Any] = (), domains: Sequence[str] = ()
) -> Any:
    graph = helper.make_graph(nodes, "net", inputs, outputs, list(weights))
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def constant(name: str, *shape: int) -> Any:
    return helper.make_node("Constant", [], [name], value=tensor(name, *shape))


def dense(batch: int | str = "batch") -> Any:
    """``x`` (batch, 6) times a weight of 6 x 2."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="dense")
    return model([node], [value("x", [batch, 6])], [value("y", [batch, 2])], [tensor("w", 6, 2)])


def conv(batch: int | str = "batch") -> Any:
    """Convolution with batch normalisation, relu, a grouped convolution and a Gemm; weights in Constant nodes."""
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    norm = [numpy_helper.from_array(a, n) for n, a in (("s", ones * 2), ("b", ones), ("m", zeros), ("v", ones))]
    nodes = [
        constant("w1", 4, 3, 3, 3),
        constant("w2", 4, 2, 3, 3),
        constant("w3", 5, 4),
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c1", "s", "b", "m", "v"], ["n1"], name="norm"),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="grouped", group=2),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"], name="head", transB=1),
    ]
    return model(nodes, [value("x", [batch, 3, 8, 8])], [value("y", [batch, 5])], norm)


def branching() -> Any:
    """Doubles ``x`` where the constant input ``rate`` is 16, else halves it; weights lie in the branches."""

    def branch(name: str, factor: float) -> Any:
        nodes = [helper.make_node("Mul", ["x", f"by_{name}"], [f"out_{name}"])]
        weight = numpy_helper.from_array(np.array([factor], np.float32), f"by_{name}")
        return helper.make_graph(nodes, name, [], [value(f"out_{name}", ["batch", 4])], [weight])

    nodes = [
        helper.make_node("Constant", [], ["sixteen"], value=helper.make_tensor("s", TensorProto.INT64, [], [16])),
        helper.make_node("Equal", ["rate", "sixteen"], ["is_sixteen"]),
        helper.make_node(
            "If", ["is_sixteen"], ["y"], then_branch=branch("twice", 2.0), else_branch=branch("half", 0.5)
        ),
    ]
    inputs = [value("x", ["batch", 4]), value("rate", [], TensorProto.INT64)]
    return model(nodes, inputs, [value("y", ["batch", 4])])


def looping(turns: int = 3) -> Any:
    """Adds ``x`` to itself in a Loop."""
    body = helper.make_graph(
        [helper.make_node("Add", ["total", "x"], ["more"]), helper.make_node("Identity", ["go"], ["still"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("total", [1, 4])],
        [value("still", [], TensorProto.BOOL), value("more", [1, 4])],
    )
    nodes = [
        helper.make_node("Constant", [], ["turns"], value=helper.make_tensor("t", TensorProto.INT64, [], [turns])),
        helper.make_node("Constant", [], ["go0"], value=helper.make_tensor("g", TensorProto.BOOL, [], [True])),
        helper.make_node("Loop", ["turns", "go0", "x"], ["y"], body=body),
    ]
    return model(nodes, [value("x", [1, 4])], [value("y", [1, 4])])


def counting() -> Any:
    """Stateful: ``y`` = mean(x) + 10 * h, and the next ``h`` is h + mean(x); two more steps of x are seen at once."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Constant", [], ["ten"], value=helper.make_tensor("ten", FLOAT, [1], [10.0])),
        helper.make_node("Mul", ["h", "ten"], ["h10"]),
        helper.make_node("Add", ["m", "h10"], ["y"]),
        helper.make_node("Add", ["m", "h"], ["hn"]),
    ]
    inputs = [value("x", ["batch", 3]), value("h", ["batch", 1])]
    return model(nodes, inputs, [value("y", ["batch", 1]), value("hn", ["batch", 1])])


def embedding() -> Any:
    """Two inputs: int32 tokens looked up in a table, and a float bias that is added."""
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"], axis=0),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Add", ["mean", "bias"], ["y"]),
    ]
    inputs = [value("tokens", ["batch", "length"], TensorProto.INT32), value("bias", ["batch", 4])]
    return model(nodes, inputs, [value("y", ["batch", 4])], [tensor("table", 10, 4)])
