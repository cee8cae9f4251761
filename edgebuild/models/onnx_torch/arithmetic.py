"""Operators on sizes: what graphs compute from shapes before they reshape, with numbers in place of tensors."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from edgebuild.models.onnx_torch import functions
from edgebuild.models.onnx_torch.graph import Content, Sizes, Unreadable, settled, sizes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.models.onnx_torch.call import Call


def on_sizes(call: Call) -> Content | None:
    """Return what a node makes of sizes; None where it works on something else, or isn't known to work on sizes."""
    given = [sizes_of(value) for value in call.values]
    if not any(isinstance(value, Sizes) for value in call.values):
        return None
    read = OPERATORS.get(call.node.op_type)
    if read is not None:
        return settled(read(call, given[0])) if given[0] is not None else None
    function = NUMBER_BY_NUMBER.get(call.node.op_type)
    if function is None or any(each is None for each in given):
        return None
    return settled(_each(call, function, [each for each in given if each is not None]))


def _each(call: Call, function: Callable[..., Any], given: list[Sizes]) -> Sizes:
    length = max(len(each.entries) for each in given)
    if any(len(each.entries) not in {1, length} for each in given):
        raise Unreadable("works on sizes of different number")
    rows = [each.entries * (length // len(each.entries)) for each in given]
    entries = tuple(call.builder.number(function, *row) for row in zip(*rows, strict=True))
    return Sizes(entries, scalar=all(each.scalar for each in given))


def _gather(call: Call, x: Sizes) -> Sizes:
    indices = call.array(1)
    return Sizes(tuple(x.entries[int(i)] for i in indices.reshape(-1)), scalar=indices.ndim == 0)


def _slice(call: Call, x: Sizes) -> Sizes:
    starts, ends, steps = call.known("starts", 1), call.known("ends", 2), call.known("steps", 4) or (1,)
    if not starts or not ends:
        raise Unreadable("slices sizes by nothing")
    return Sizes(x.entries[slice(starts[0], ends[0], steps[0])])


def _concat(call: Call, x: Sizes) -> Sizes:
    del x
    parts = [sizes_of(value) for value in call.values]
    if None in parts:
        raise Unreadable("joins sizes and data")
    return Sizes(tuple(entry for part in parts if part is not None for entry in part.entries))


def _as_scalar(call: Call, x: Sizes) -> Sizes:
    del call
    if len(x.entries) != 1:
        raise Unreadable(f"squeezes {len(x.entries)} sizes")
    return Sizes(x.entries, scalar=True)


def _unsqueeze(call: Call, x: Sizes) -> Sizes:
    del call
    if not x.scalar:
        raise Unreadable("makes a matrix of sizes")
    return Sizes(x.entries)


def _reshape(call: Call, x: Sizes) -> Sizes:
    shape = call.known("shape", 1) or ()
    if len(shape) > 1:
        raise Unreadable("makes a matrix of sizes")
    return Sizes(x.entries, scalar=not shape)


def _cast(call: Call, x: Sizes) -> Sizes:
    change = float if call.dtype("to", 1).is_floating_point else _whole
    return Sizes(tuple(call.builder.number(change, entry) for entry in x.entries), x.scalar)


def _whole(number: Any) -> Any:
    """Whole numbers are left alone, for exporters have their own."""
    return int(number) if isinstance(number, float) else number


def _product(call: Call, x: Sizes) -> Sizes:
    total: Any = 1
    for entry in x.entries:
        total = call.builder.number(operator.mul, total, entry)
    return Sizes((total,), scalar=not call.get("keepdims", 1))


def _divided(a: Any, b: Any) -> Any:
    return a / b if isinstance(a, float) or isinstance(b, float) else a // b


OPERATORS: dict[str, Callable[[Call, Sizes], Sizes]] = {
    "Identity": lambda _, x: x,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _as_scalar,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Cast": _cast,
    "ReduceProd": _product,
}
NUMBER_BY_NUMBER: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _divided,
    "Mod": operator.mod,
    "Neg": operator.neg,
    "Floor": math.floor,
    "Ceil": math.ceil,
    "Max": max,
    "Min": min,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "Less": operator.lt,
    "Where": functions.choose,
}
