"""Every operator of the table, alone in a tiny net: the module gives what ONNX Runtime gives, on batches, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgebuild.models.host_session import HostSession
from edgebuild.models.onnx_torch.reading import OPERATORS, OnnxModule, read_module

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IMAGE = (4, 6, 8)
ROWS = (4, 6)
Arrays = dict[str, Any]


def made(nodes: Sequence[Any], shape: Sequence[int], weights: Arrays, opset: int, outputs: int, dtype: Any) -> Any:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", kind, ["batch", *shape])],
        [onnx.ValueInfoProto(name=name) for name in ("y", "z", "c")[:outputs]],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def compared(model: Any, shape: Sequence[int], dtype: Any = np.float32) -> OnnxModule:
    """Hold the module, on batches, against ONNX Runtime, on sample by sample; return it."""
    module, session = read_module(model), HostSession(model)
    for batch in (1, 2, 5):
        values = np.random.default_rng(batch).standard_normal((batch, *shape))
        feed = (values * 3).astype(dtype) if np.dtype(dtype).kind == "f" else np.abs(values * 3).astype(dtype)
        with torch.no_grad():
            results = module(torch.from_numpy(feed))
        results = results if isinstance(results, tuple) else (results,)
        each = [tuple(session({"x": feed[i : i + 1]}).values()) for i in range(batch)]
        for mine, theirs in zip(results, map(np.concatenate, zip(*each, strict=True)), strict=True):
            assert mine.numpy().dtype == theirs.dtype
            np.testing.assert_allclose(mine.numpy(), theirs, rtol=2e-4, atol=2e-5)
    return module


def random(*shape: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> NDArray[Any]:
    return np.array(values, dtype=np.int64)


def node(kind: str, inputs: str = "x", outputs: str = "y", **attributes: Any) -> Any:
    name = f"/net/{kind}" + ("" if outputs == "y" else f"_{outputs}")
    return helper.make_node(kind, inputs.split(), outputs.split(), name=name, **attributes)


UNARY = ["Abs", "Atan", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "IsNaN"]
UNARY += ["LeakyRelu", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign"]
UNARY += ["Celu", "Tan", "Tanh", "LogSoftmax", "Softmax", "GlobalAveragePool", "GlobalMaxPool", "Flatten", "Transpose"]
UNARY += ["Mish", "IsInf", "ArgMax", "ArgMin", "Dropout"]


@pytest.mark.parametrize("kind", UNARY)
def test_a_single_operator_without_attributes(kind: str) -> None:
    if kind == "Transpose":
        model = made([node(kind, perm=[0, 2, 3, 1])], IMAGE, {}, 18, 1, np.float32)
    else:
        axis: Any = {"axis": 1} if kind.startswith("Arg") else {}
        model = made([node(kind, **axis)], IMAGE, {}, 18, 1, np.float32)
    compared(model, IMAGE)


CONV = {"w": random(8, 4, 3, 3), "b": random(8)}
SPLIT = ints(1, 2, 1)
#: Nodes, the shape of x, weights, and the operator set where it matters.
CASES: dict[str, tuple[Any, ...]] = {
    "conv": ([node("Conv", "x w b", strides=[2, 1], pads=[1, 0, 1, 0])], IMAGE, CONV),
    "conv, dilated": ([node("Conv", "x w", dilations=[2, 1])], IMAGE, CONV),
    "conv, depthwise": ([node("Conv", "x w", group=4)], IMAGE, {"w": random(4, 1, 3, 3)}),
    "conv, one end padded": ([node("Conv", "x w b", pads=[0, 1, 1, 0])], IMAGE, CONV),
    "conv, same": ([node("Conv", "x w b", auto_pad="SAME_UPPER", strides=[2, 2])], (4, 7, 8), CONV),
    "conv, same lower": ([node("Conv", "x w b", auto_pad="SAME_LOWER")], IMAGE, {**CONV, "w": random(8, 4, 2, 2)}),
    "conv over time": ([node("Conv", "x w")], ROWS, {"w": random(3, 4, 3)}),
    "conv of volumes": ([node("Conv", "x w")], (2, 3, 4, 5), {"w": random(3, 2, 2, 2, 2)}),
    "conv transpose": (
        [node("ConvTranspose", "x w b", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])],
        IMAGE,
        {"w": random(4, 3, 3, 3), "b": random(3)},
    ),
    "batch norm": (
        [node("BatchNormalization", "x s b m v", epsilon=1e-3)],
        IMAGE,
        {"s": random(4), "b": random(4), "m": random(4), "v": np.abs(random(4)) + 0.5},
    ),
    "batch norm of rows": (
        [node("BatchNormalization", "x s b m v")],
        (4,),
        {"s": random(4), "b": random(4), "m": random(4), "v": np.abs(random(4)) + 0.5},
    ),
    "instance norm": ([node("InstanceNormalization", "x s b")], IMAGE, {"s": random(4), "b": random(4)}),
    "layer norm": ([node("LayerNormalization", "x s b")], ROWS, {"s": random(6), "b": random(6)}),
    "layer norm, no bias": ([node("LayerNormalization", "x s", axis=-2)], IMAGE, {"s": random(6, 8)}),
    "group norm": (
        [node("GroupNormalization", "x s b", num_groups=2)], IMAGE, {"s": random(4), "b": random(4)}, 21
    ),
    "response norm": ([node("LRN", size=3)], IMAGE, {}),
    "prelu": ([node("PRelu", "x s")], IMAGE, {"s": random(4, 1, 1)}),
    "gelu": ([node("Gelu", approximate="tanh")], ROWS, {}, 20),
    "clip": ([node("Clip", "x l h")], IMAGE, {"l": np.float32(0), "h": np.float32(6)}),
    "clip, one bound": ([node("Clip", "x l")], IMAGE, {"l": np.float32(0.5)}),
    "clip by attributes": ([node("Clip", min=-1.0, max=1.0)], IMAGE, {}, 10),
    "hard sigmoid": ([node("HardSigmoid", alpha=1 / 6)], IMAGE, {}),
    "max pool": ([node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])], IMAGE, {}),
    "max pool, ceil": ([node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], IMAGE, {}),
    "max pool, one end": ([node("MaxPool", kernel_shape=[2, 2], pads=[0, 0, 1, 1])], IMAGE, {}),
    "average pool": ([node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], IMAGE, {}),
    "average pool, padding counts": (
        [node("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)], IMAGE, {}
    ),
    "average pool, one end": (
        [node("AveragePool", kernel_shape=[3, 3], pads=[0, 0, 1, 1], strides=[2, 2])], IMAGE, {}
    ),
    "gemm": ([node("Gemm", "x w b", transB=1, alpha=0.5, beta=2.0)], (6,), {"w": random(3, 6), "b": random(3)}),
    "gemm, one bias": ([node("Gemm", "x w b")], (6,), {"w": random(6, 3), "b": random(1)}),
    "matmul": ([node("MatMul", "x w")], ROWS, {"w": random(6, 3)}),
    "matmul with bias": (
        [node("MatMul", "x w", "h"), node("Add", "b h")], ROWS, {"w": random(6, 3), "b": random(3)}
    ),
    "matmul, weight first": ([node("MatMul", "w x")], ROWS, {"w": random(3, 4)}),
    "matmul of both": ([node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t")], ROWS, {}),
    "conv with bias added": (
        [node("Conv", "x w", "h"), node("Add", "h c")], IMAGE, {**CONV, "c": random(8, 1, 1)}
    ),
    "add and multiply": (
        [node("Add", "x a", "h"), node("Mul", "h s")], IMAGE, {"a": random(1, 4, 1, 1), "s": np.float32(3)}
    ),
    "subtract and divide": (
        [node("Sub", "a x", "h"), node("Div", "h s")], IMAGE, {"a": np.float32(1), "s": random(8)}
    ),
    "power": ([node("Abs", "x", "h"), node("Pow", "h e")], ROWS, {"e": np.float32(1.5)}),
    "where": ([node("Greater", "x z", "g"), node("Where", "g x n")], ROWS, {"z": np.float32(0), "n": np.float32(-9)}),
    "logic": (
        [node("Less", "x a", "l"), node("Equal", "x x", "e"), node("Not", "l", "n"), node("And", "e n")],
        ROWS,
        {"a": random(6)},
    ),
    "largest and smallest": ([node("Max", "x a", "h"), node("Min", "h b")], ROWS, {"a": random(6), "b": np.float32(1)}),
    "sum": ([node("Sum", "x x x")], ROWS, {}),
    "whole numbers": (
        [node("Cast", "x", "i", to=TensorProto.INT64), node("Div", "i d", "q"), node("Mod", "q d")],
        ROWS,
        {"d": np.int64(2)},
    ),
    "reduce, axes as attribute": ([node("ReduceMean", axes=[2, 3], keepdims=0)], IMAGE, {}),
    "reduce, axes as input": ([node("ReduceMean", "x a")], IMAGE, {"a": ints(-1)}, 18),
    "reduce sum": ([node("ReduceSum", "x a")], IMAGE, {"a": ints(1, 2)}),
    "norms": ([node("ReduceL2", "x", "h", axes=[1]), node("ReduceL1", "h", axes=[2])], IMAGE, {}),
    "extremes": ([node("ReduceMax", "x", "h", axes=[1]), node("ReduceMin", "h", axes=[-1])], IMAGE, {}),
    "log sum exp": ([node("ReduceLogSumExp", axes=[1])], ROWS, {}),
    "sum of squares": ([node("ReduceSumSquare", axes=[1])], ROWS, {}),
    "product": ([node("ReduceProd", axes=[1, 2], keepdims=0)], ROWS, {}),
    "softmax over channels": ([node("Softmax", axis=1)], IMAGE, {}),
    "softmax, flat": ([node("Softmax", axis=1)], IMAGE, {}, 11),
    "cumulative": ([node("CumSum", "x a")], ROWS, {"a": np.int64(1)}),
    "einsum": ([node("Einsum", "x w", equation="b i j, j k -> b i k")], ROWS, {"w": random(6, 3)}),
    "concat": ([node("Concat", "x x", axis=1)], IMAGE, {}),
    "concat with a token": ([node("Concat", "t x", axis=1)], ROWS, {"t": random(1, 1, 6)}),
    "slices": (
        [node("Slice", "x s e a t")],
        IMAGE,
        {"s": ints(1, -3), "e": ints(4, 99), "a": ints(1, 3), "t": ints(2, 1)},
    ),
    "slices by attributes": ([node("Slice", starts=[1], ends=[-1], axes=[2])], IMAGE, {}, 9),
    "backwards": (
        [node("Slice", "x s e a t")],
        ROWS,
        {"s": ints(-1), "e": ints(-(1 << 62)), "a": ints(2), "t": ints(-1)},
    ),
    "gather one": ([node("Gather", "x i", axis=1)], IMAGE, {"i": np.int64(-1)}),
    "gather some": ([node("Gather", "x i", axis=2)], IMAGE, {"i": ints(0, -1, 3)}),
    "expand": ([node("Expand", "x s")], (4, 1), {"s": ints(1, 1, 3)}),
    "expand to more axes": (
        [node("Expand", "x s", "e"), node("Transpose", "e", perm=[1, 0, 2])], (4,), {"s": ints(2, 1, 4)}
    ),
    "tile": ([node("Tile", "x r")], ROWS, {"r": ints(1, 2, 3)}),
    "squeeze": ([node("Squeeze", "x a", "h"), node("Unsqueeze", "h b")], (1, 5), {"a": ints(1), "b": ints(1, 3)}),
    "pad": ([node("Pad", "x p v")], IMAGE, {"p": ints(0, 1, 0, 2, 0, 0, 3, 0), "v": np.float32(2)}),
    "pad by reflection": ([node("Pad", "x p", mode="reflect")], IMAGE, {"p": ints(0, 0, 1, 2, 0, 0, 3, 0)}),
    "pad by attributes": ([node("Pad", pads=[0, 0, 1, 1, 0, 0, 0, 2], mode="edge")], IMAGE, {}, 10),
    "nearest": (
        [node("Resize", "x  s", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        IMAGE,
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "linear": ([node("Resize", "x   s", mode="linear")], IMAGE, {"s": ints(1, 4, 9, 13)}),
    "linear, corners": (
        [node("Resize", "x  s", mode="linear", coordinate_transformation_mode="align_corners")],
        IMAGE,
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "cubic": ([node("Resize", "x  s", mode="cubic")], IMAGE, {"s": np.array([1, 1, 2, 2], np.float32)}),
    "upsample": ([node("Upsample", "x s", mode="nearest")], IMAGE, {"s": np.array([1, 1, 2, 3], np.float32)}, 9),
    "depth to space": ([node("DepthToSpace", blocksize=2)], (8, 3, 5), {}),
    "depth to space, columns": ([node("DepthToSpace", blocksize=2, mode="CRD")], (8, 3, 5), {}),
    "space to depth": ([node("SpaceToDepth", blocksize=2)], (3, 4, 6), {}),
    "triangle": ([node("Trilu", "x k", upper=0)], ROWS, {"k": np.int64(1)}),
    "constant weights": (
        [node("Constant", "", "w", value=numpy_helper.from_array(random(3, 6))), node("Gemm", "x w", transB=1)],
        (6,),
        {},
    ),
    "a computed weight": (
        [node("Transpose", "w", "t", perm=[1, 0]), node("Gemm", "x t")], (6,), {"w": random(3, 6)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_as_it_is_written(name: str) -> None:
    nodes, shape, weights, *opset = CASES[name]
    for each in nodes:
        if each.op_type == "Resize" and len(each.input) == 2:  # "x  s" splits into two
            last = each.input.pop()
            each.input.extend(["", last] if weights["s"].dtype == np.float32 else ["", "", last])
    compared(made(nodes, shape, weights, opset[0] if opset else 17, 1, np.float32), shape)


def test_several_outputs() -> None:
    top = made([node("TopK", "x k", "y z", axis=1)], ROWS, {"k": ints(2)}, 17, 2, np.float32)
    compared(top, ROWS)
    parts = made([node("Split", "x s", "y z c", axis=1)], ROWS, {"s": SPLIT}, 17, 3, np.float32)
    compared(parts, ROWS)
    alike = made([node("Split", "x", "y z", axis=2)], ROWS, {}, 13, 2, np.float32)
    compared(alike, ROWS)


def test_a_table_of_vectors_is_an_embedding() -> None:
    model = made([node("Gather", "w x")], (5,), {"w": random(20, 3)}, 17, 1, np.int64)
    module = compared(model, (5,), np.int64)
    assert isinstance(module.net_Gather, nn.Embedding)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_recurrent_layer(kind: str, both: bool, bias: bool) -> None:
    gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 1 + both
    weights = {"w": random(directions, gates * 5, 6), "r": random(directions, gates * 5, 5, seed=1)}
    weights |= {"b": random(directions, gates * 10, seed=2)} if bias else {}
    more: Any = {"linear_before_reset": 1} if kind == "GRU" else {}
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node(kind, "t w r b" if bias else "t w r", "h z", hidden_size=5, **more)
        if not both
        else node(kind, "t w r b" if bias else "t w r", "h z", hidden_size=5, direction="bidirectional", **more),
        node("Transpose", "h", "y", perm=[2, 0, 1, 3]),
    ]
    model = made(nodes, ROWS, weights, 17, 1, np.float32)
    module = compared(model, ROWS)
    assert isinstance(getattr(module, f"net_{kind}_h_z"), getattr(nn, kind))


def test_a_start_of_one_sample_serves_any_batch() -> None:
    weights = {"w": random(1, 20, 6), "r": random(1, 20, 5), "b": random(1, 40)}
    weights |= {"h": random(1, 1, 5), "c": random(1, 1, 5, seed=1)}
    recurrent = helper.make_node("LSTM", ["t", "w", "r", "b", "", "h", "c"], ["o", "s"], name="l", hidden_size=5)
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), recurrent, node("Transpose", "o", perm=[2, 0, 1, 3])]
    model = made(nodes, ROWS, weights, 17, 1, np.float32)
    module = read_module(model)
    x = random(3, *ROWS)
    one = HostSession(model)
    expected = np.concatenate([one({"x": x[i : i + 1]})["y"] for i in range(3)])
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_every_operator_of_the_table_is_tried_here() -> None:
    tried = {each.op_type for nodes, *_ in CASES.values() for each in nodes} | set(UNARY)
    tried |= {"TopK", "Split", "Gather", "LSTM", "GRU", "RNN"}
    # Those on shapes have tests of their own in test_shapes.py; the rest are one call of torch's function of the name.
    elsewhere = {"Shape", "Size", "Reshape", "ConstantOfShape", "Range", "GatherElements", "CastLike"}
    plain = {"Acos", "Asin", "Cosh", "Sinh", "Log", "Sqrt", "Or", "Xor", "GreaterOrEqual", "LessOrEqual"}
    assert set(OPERATORS) - tried == elsewhere | plain
