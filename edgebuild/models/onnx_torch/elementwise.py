"""Operators that work number by number, on whole axes, and on dtypes. Imports torch."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn

from edgebuild.models.onnx_torch import functions

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.models.onnx_torch.call import Call

    Reading = Callable[[Call], Any]


def _unary(function: Any) -> Reading:
    return lambda call: call.builder.call(function, call.tensor(0))


def _binary(function: Callable[..., Any]) -> Reading:
    return lambda call: call.builder.call(function, call.operand(0), call.operand(1))


def _comparison(function: Callable[..., Any]) -> Reading:
    return lambda call: call.builder.call(function, call.tensor(0), call.operand(1))


def _variadic(function: Callable[..., Any]) -> Reading:
    def read(call: Call) -> Any:
        tensors = call.tensors()
        return tensors[0] if len(tensors) == 1 else call.builder.call(function, *tensors)

    return read


def _add(call: Call) -> Any:
    """A constant that is added to a layer without bias, such as MatMul's, is its bias."""
    for index in (0, 1):
        x, constant = call.value(index), call.value(1 - index)
        if (
            isinstance(x, fx.Node)
            and isinstance(constant, np.ndarray)
            and call.node.input[index] in call.only
            and call.builder.add_bias(x, constant)
        ):
            return x
    return _binary(operator.add)(call)


def _div(call: Call) -> Any:
    a, b = call.operand(0), call.operand(1)
    kinds = [each.meta["tried"][0].dtype for each in (a, b) if isinstance(each, fx.Node)]
    if any(kind.is_floating_point for kind in kinds):
        return call.builder.call(operator.truediv, a, b)
    return call.builder.call(torch.div, call.tensor(0), b, rounding_mode="trunc")


def _cast(call: Call) -> Any:
    x, dtype = call.tensor(0), call.dtype("to", 1)
    return x if x.meta["tried"][0].dtype == dtype else call.builder.method("to", x, dtype)


def _cast_like(call: Call) -> Any:
    return call.builder.method("to", call.tensor(0), call.tensor(1).meta["tried"][0].dtype)


def _where(call: Call) -> Any:
    return call.builder.call(torch.where, call.tensor(0), call.operand(1), call.operand(2))


def _pow(call: Call) -> Any:
    return call.builder.call(torch.pow, call.tensor(0), call.operand(1))


def _mod(call: Call) -> Any:
    function = torch.fmod if call.get("fmod", 0) else torch.remainder
    return call.builder.call(function, call.tensor(0), call.operand(1))


def _axes(call: Call, x: fx.Node) -> list[int] | None:
    """Return the axes of a reduction; None where it reduces nothing."""
    rank = call.builder.rank(x)
    axes = call.known("axes", 1)
    if not axes:
        return None if call.get("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(axis) % rank for axis in axes)


def _reduce(function: Callable[..., Any], **more: Any) -> Reading:
    """``function`` takes the tensor, the axes and whether they are kept."""

    def read(call: Call) -> Any:
        x = call.tensor(0)
        axes = _axes(call, x)
        return (
            x if axes is None else call.builder.call(function, x, *more.values(), axes, bool(call.get("keepdims", 1)))
        )

    return read


def _arg(function: Callable[..., Any]) -> Reading:
    def read(call: Call) -> Any:
        call.refuse("select_last_index", 0)
        x = call.tensor(0)
        return call.builder.call(function, x, dim=call.axis(0, x), keepdim=bool(call.get("keepdims", 1)))

    return read


def _softmax(log: bool) -> Reading:
    def read(call: Call) -> Any:
        x = call.tensor(0)
        axis = call.axis(-1 if call.opset >= 13 else 1, x)
        if call.opset < 13 and axis != call.builder.rank(x) - 1:
            return call.builder.call(functions.flat_softmax, x, axis, log)
        return call.builder.layer(call.label, lambda: nn.LogSoftmax(axis) if log else nn.Softmax(axis), x)

    return read


def _cumsum(call: Call) -> Any:
    call.refuse("exclusive", 0)
    call.refuse("reverse", 0)
    return call.builder.call(torch.cumsum, call.tensor(0), int(call.array(1).item()))


def _top_k(call: Call) -> Any:
    x, count = call.tensor(0), call.known("k", 1) or (0,)
    both = call.builder.call(
        torch.topk, x, int(count[0]), call.axis(-1, x), bool(call.get("largest", 1)), bool(call.get("sorted", 1))
    )
    return tuple(call.builder.call(operator.getitem, both, index) for index in (0, 1))


def _einsum(call: Call) -> Any:
    return call.builder.call(torch.einsum, call.get("equation").replace(" ", ""), *call.tensors())


def _matmul(call: Call) -> Any:
    weight = call.value(1)
    if not isinstance(weight, np.ndarray) or weight.ndim != 2:
        return call.builder.call(torch.matmul, call.tensor(0), call.tensor(1))
    return _linear(call, weight.T, None)


def _linear(call: Call, weight: Any, bias: Any) -> Any:
    """``weight`` is (outputs, inputs)."""

    def make() -> nn.Module:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.weight = nn.Parameter(torch.from_numpy(np.array(weight)))
        if bias is not None:
            layer.bias = nn.Parameter(torch.from_numpy(np.array(bias)))
        return layer

    return call.builder.layer(call.label, make, call.tensor(0), key=call.key())


def _gemm(call: Call) -> Any:
    alpha, beta, weight = call.get("alpha", 1.0), call.get("beta", 1.0), call.value(1)
    bias = call.values[2] if call.has(2) else None
    plain = isinstance(weight, np.ndarray) and not call.get("transA", 0) and not isinstance(bias, fx.Node)
    if plain and isinstance(weight, np.ndarray):
        weight = weight if call.get("transB", 0) else weight.T
        if bias is None:
            return _linear(call, (alpha * weight).astype(weight.dtype), None)
        if isinstance(bias, np.ndarray) and bias.size in {1, len(weight)} and bias.shape[:-1] in {(), (1,)}:
            bias = np.broadcast_to((beta * bias).astype(bias.dtype).reshape(-1), (len(weight),))
            return _linear(call, (alpha * weight).astype(weight.dtype), bias)
    a, b = (
        call.builder.call(torch.transpose, call.tensor(i), 0, 1) if call.get(name, 0) else call.tensor(i)
        for i, name in enumerate(("transA", "transB"))
    )
    return call.builder.call(functions.gemm, a, b, call.operand(2) if call.has(2) else None, alpha, beta)


OPERATORS: dict[str, Reading] = {
    "Add": _add,
    "Sub": _binary(operator.sub),
    "Mul": _binary(operator.mul),
    "Div": _div,
    "Pow": _pow,
    "Mod": _mod,
    "Equal": _comparison(torch.eq),
    "Greater": _comparison(torch.gt),
    "GreaterOrEqual": _comparison(torch.ge),
    "Less": _comparison(torch.lt),
    "LessOrEqual": _comparison(torch.le),
    "And": lambda call: call.builder.call(torch.logical_and, call.tensor(0), call.tensor(1)),
    "Or": lambda call: call.builder.call(torch.logical_or, call.tensor(0), call.tensor(1)),
    "Xor": lambda call: call.builder.call(torch.logical_xor, call.tensor(0), call.tensor(1)),
    "Not": _unary(torch.logical_not),
    "Max": _variadic(functions.largest),
    "Min": _variadic(functions.smallest),
    "Sum": _variadic(functions.total),
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast_like,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Softmax": _softmax(log=False),
    "LogSoftmax": _softmax(log=True),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin),
    "ReduceProd": _reduce(functions.product),
    "ReduceL1": _reduce(torch.linalg.vector_norm, order=1),
    "ReduceL2": _reduce(torch.linalg.vector_norm, order=2),
    "ReduceLogSumExp": _reduce(torch.logsumexp),
    "ReduceSumSquare": _reduce(functions.square_sum),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "CumSum": _cumsum,
    "TopK": _top_k,
    **{
        name: _unary(function)
        for name, function in {
            "Abs": torch.abs,
            "Acos": torch.acos,
            "Asin": torch.asin,
            "Atan": torch.atan,
            "Ceil": torch.ceil,
            "Cos": torch.cos,
            "Cosh": torch.cosh,
            "Erf": torch.erf,
            "Exp": torch.exp,
            "Floor": torch.floor,
            "IsInf": torch.isinf,
            "IsNaN": torch.isnan,
            "Log": torch.log,
            "Neg": torch.neg,
            "Reciprocal": torch.reciprocal,
            "Round": torch.round,
            "Sign": torch.sign,
            "Sin": torch.sin,
            "Sinh": torch.sinh,
            "Sqrt": torch.sqrt,
            "Tan": torch.tan,
        }.items()
    },
}
