"""Operators that move numbers about: shapes, slices, padding, resizing. Imports torch."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from edgebuild.models.onnx_torch import functions
from edgebuild.models.onnx_torch.graph import BATCHES, Sizes, Unreadable, is_known, settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.models.onnx_torch.call import Call
    from edgebuild.models.onnx_torch.graph import Entry

#: What an ONNX file gives as "to the end", or more.
FAR = 1 << 31


def _shape(call: Call) -> Any:
    x = call.value(0)
    if isinstance(x, Sizes):
        return np.array([] if x.scalar else [len(x.entries)], dtype=np.int64)
    assert isinstance(x, fx.Node)  # noqa: S101 - arrays were folded
    rank = call.builder.rank(x)
    axes = range(rank)[call.get("start", 0) : call.get("end", rank)]
    return settled(Sizes(tuple(call.builder.size(x, axis) for axis in axes)))


def _size(call: Call) -> Any:
    x = call.tensor(0)
    sizes = [call.builder.size(x, axis) for axis in range(call.builder.rank(x))]
    total: Entry = 1
    for size in sizes:
        total = call.builder.number(operator.mul, total, size)
    return settled(Sizes((total,), scalar=True))


def _reshape(call: Call) -> Any:
    x, wanted = call.tensor(0), call.entries("shape", 1) or ()
    if not call.get("allowzero", 0):
        wanted = tuple(call.builder.size(x, i) if size == 0 else size for i, size in enumerate(wanted))
    wanted = _batch_freed(call, x, wanted)
    shapes = call.builder.shapes(x)
    if len(wanted) == 2 and _keeps(call, x, wanted[0]) and len(shapes[0]) > 1:
        return call.builder.call(torch.flatten, x, 1)
    return call.builder.method("reshape", x, _narrowable(wanted, shapes[0]))


def _keeps(call: Call, x: fx.Node, first: Entry) -> bool:
    """Whether the first axis of a shape of two is that of ``x``, for both batches."""
    rest = [math.prod(shape[1:]) for shape in call.builder.shapes(x)]
    return (
        isinstance(first, fx.Node)
        and first.meta["tried"] == BATCHES
        and call.builder.follows_batch(x, 0)
        and rest[0] == rest[1]
    )


def _batch_freed(call: Call, x: fx.Node, wanted: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return the shape with the batch of 1, that the file was written with, as the batch there is.

    It is freed where the count of numbers proves it, or where the axis led and leads on.
    """
    if not all(is_known(size) for size in wanted) or not wanted:
        return wanted
    counts = [math.prod(shape) for shape in call.builder.shapes(x)]
    if -1 not in wanted:
        whole = math.prod(wanted)  # type: ignore[arg-type]
        if counts == [whole * batch for batch in BATCHES]:
            place = wanted.index(1) if 1 in wanted else 0
            leading = place == 0 and call.builder.follows_batch(x, 0)
            free = call.builder.size(x, 0) if leading else -1
            return (*wanted[:place], free, *wanted[place + 1 :])
    elif wanted[0] == 1 and call.builder.follows_batch(x, 0):
        return (call.builder.size(x, 0), *wanted[1:])
    elif wanted[0] == -1 and call.builder.follows_batch(x, 0):
        rest = math.prod(wanted[1:])  # type: ignore[arg-type]
        if counts == [rest * batch for batch in BATCHES]:
            return (call.builder.size(x, 0), *wanted[1:])
    return wanted


def _narrowable(wanted: tuple[Entry, ...], shape: tuple[int, ...]) -> tuple[Entry, ...]:
    """Return the shape with a size of channels left open, so that they may become fewer."""
    if -1 in wanted or is_known(wanted[0] if wanted else 0):
        return wanted
    for axis in (1, -1):
        if len(wanted) > 1 and len(shape) > 1 and wanted[axis] == shape[axis]:
            place = axis % len(wanted)
            return (*wanted[:place], -1, *wanted[place + 1 :])
    return wanted


def _flatten(call: Call) -> Any:
    x = call.tensor(0)
    axis, rank = call.get("axis", 1), call.builder.rank(x)
    axis = axis + rank if axis < 0 else axis
    if axis == 0:
        return call.builder.method("reshape", x, (1, -1))
    x = call.builder.call(torch.flatten, x, axis) if axis < rank else call.builder.call(torch.unsqueeze, x, rank)
    return call.builder.call(torch.flatten, x, 0, axis - 1) if axis > 1 else x


def _transpose(call: Call) -> Any:
    x = call.tensor(0)
    return call.builder.method("permute", x, list(call.get("perm", range(call.builder.rank(x))[::-1])))


def _unsqueeze(call: Call) -> Any:
    x, axes = call.tensor(0), call.known("axes", 1) or ()
    rank = call.builder.rank(x) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = call.builder.call(torch.unsqueeze, x, axis)
    return x


def _squeeze(call: Call) -> Any:
    x, axes = call.tensor(0), call.known("axes", 1)
    rank = call.builder.rank(x)
    if axes is None:
        axes = tuple(axis for axis, size in enumerate(call.builder.dims(x)) if size == 1)
    for axis in sorted((axis % rank for axis in axes), reverse=True):
        x = call.builder.call(torch.squeeze, x, axis)
    return x


def _expand(call: Call) -> Any:
    x, wanted = call.tensor(0), call.entries("shape", 1) or ()
    rank = call.builder.rank(x)
    wanted = (*(1,) * (rank - len(wanted)), *wanted)
    new = len(wanted) - rank
    return call.builder.method("expand", x, [*wanted[:new], *_kept_sizes(call, x, wanted[new:])])


def _kept_sizes(call: Call, x: fx.Node, wanted: tuple[Entry, ...]) -> list[Entry]:
    """Return sizes to expand to, -1 for those that stay as they are: one, or what the axis has."""
    asked = [(size,) * len(BATCHES) if is_known(size) else size.meta["tried"] for size in wanted]  # type: ignore[union-attr]
    own = zip(*call.builder.shapes(x), strict=True)
    return [-1 if a in {o, (1, 1)} else size for a, o, size in zip(asked, own, wanted, strict=True)]


def _tile(call: Call) -> Any:
    return call.builder.method("repeat", call.tensor(0), list(call.entries("repeats", 1) or ()))


def _concat(call: Call) -> Any:
    """A constant of batch 1, such as a class token, is repeated for the batch there is."""
    tensors = call.tensors()
    leading = next((x for x in tensors if call.builder.rank(x) and call.builder.follows_batch(x, 0)), None)
    axis = call.axis(0, tensors[0])
    if leading is not None and axis != 0:
        size = call.builder.size(leading, 0)
        tensors = [
            call.builder.method("expand", x, [size, *[-1] * (call.builder.rank(x) - 1)])
            if call.builder.dims(x)[0] == 1
            else x
            for x in tensors
        ]
    return call.builder.call(torch.cat, tensors, axis)


def _split(call: Call) -> Any:
    x, parts = call.tensor(0), call.known("split", 1)
    axis, count = call.axis(0, x), len(call.node.output)
    if parts is None or len(set(parts)) == 1:
        pieces = call.builder.call(torch.chunk, x, count, axis)
    else:
        pieces = call.builder.call(torch.split, x, [int(size) for size in parts], axis)
    return tuple(call.builder.call(operator.getitem, pieces, index) for index in range(count))


def _slice(call: Call) -> Any:
    x = call.tensor(0)
    starts, ends = call.entries("starts", 1) or (), call.entries("ends", 2) or ()
    axes, steps = call.known("axes", 3) or tuple(range(len(starts))), call.known("steps", 4) or (1,) * len(starts)
    rank = call.builder.rank(x)
    places: list[Any] = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            if step != -1 or not (_reaches(start, 1) or start == -1) or not _reaches(end, -1):
                raise Unreadable(f"slices backwards by {step}")
            x = call.builder.call(torch.flip, x, [axis % rank])
        else:
            stop = None if _reaches(end, 1) else end
            places[axis % rank] = slice(start or None, stop, None if step == 1 else step)
    if all(place == slice(None) for place in places):
        return x
    return call.builder.call(operator.getitem, x, tuple(places))


def _reaches(place: Entry, sign: int) -> bool:
    return not isinstance(place, fx.Node) and place * sign >= FAR


def _gather(call: Call) -> Any:
    table, indices = call.value(0), call.value(1)
    if isinstance(table, np.ndarray) and table.ndim == 2 and table.dtype.kind == "f" and call.get("axis", 0) == 0:
        return call.builder.layer(
            call.label, lambda: _embedding(table), call.tensor(1), key=(*call.key(0)[:1], call.node.input[0])
        )
    x = call.tensor(0)
    axis = call.axis(0, x)
    if isinstance(indices, np.ndarray) and indices.ndim == 0:
        return call.builder.method("select", x, axis, int(indices))
    if isinstance(indices, Sizes) and indices.scalar:
        return call.builder.method("select", x, axis, indices.entries[0])
    return call.builder.call(functions.gather, x, axis, call.tensor(1))


def _embedding(table: Any) -> nn.Module:
    layer = nn.Embedding(*table.shape)
    layer.weight = nn.Parameter(torch.from_numpy(np.array(table)))
    return layer


def _gather_elements(call: Call) -> Any:
    x = call.tensor(0)
    return call.builder.call(torch.gather, x, call.axis(0, x), call.tensor(1))


def _pad(call: Call) -> Any:
    x = call.tensor(0)
    amounts = call.entries("pads", 1) or call.entries("paddings") or ()
    value = (call.known("value", 2) or (0.0,))[0]
    rank, mode = call.builder.rank(x), {"edge": "replicate", "wrap": "circular"}.get(call.get("mode", "constant"))
    mode = mode or call.get("mode", "constant")
    axes = [int(axis) % rank for axis in call.known("axes", 3) or range(rank)]
    count = len(axes)
    pairs = {axis: (amounts[i], amounts[i + count]) for i, axis in enumerate(axes)}
    first = min((axis for axis, pair in pairs.items() if pair != (0, 0)), default=rank)
    if first == rank:
        return x
    if mode != "constant":
        if first == 0:
            raise Unreadable(f"pads the batch by {mode}")
        first = min(first, 2)
    last = [size for axis in range(rank - 1, first - 1, -1) for size in pairs.get(axis, (0, 0))]
    return call.builder.call(functions.pad, x, last, mode, value)


#: How ONNX's modes are called in torch, by the number of axes that are resized.
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _resize(call: Call) -> Any:
    """Upsample and Resize. Which pixels a mode takes differs in details: those that torch doesn't know are refused."""
    x = call.tensor(0)
    rank, place = call.builder.rank(x), {"Upsample": 1}.get(call.node.op_type, 1 if call.opset < 11 else 2)
    scales = call.known("scales", place) or None
    sizes = (call.entries("sizes", 3) or None) if not scales else None
    if call.get("axes") is not None and sorted(axis % rank for axis in call.get("axes")) != list(range(2, rank)):
        raise Unreadable(f"resizes the axes {list(call.get('axes'))}")
    count = rank - 2
    if (not scales and not sizes) or any(scale != 1 for scale in (scales or ())[: -count or None]):
        raise Unreadable("resizes the batch or channels")
    call.refuse("keep_aspect_ratio_policy", "stretch")
    call.refuse("antialias", 0)
    call.refuse("exclude_outside", 0)
    named: dict[str, Any] = {"mode": _resize_mode(call, count)}
    if named["mode"] not in {"nearest", "nearest-exact"}:
        named["align_corners"] = call.get("coordinate_transformation_mode", "half_pixel") == "align_corners"
    if scales:
        named["scale_factor"] = [float(scale) for scale in scales[-count:]]
    else:
        named["size"] = list((sizes or ())[-count:])
    return call.builder.call(functional.interpolate, x, **named)


def _resize_mode(call: Call, axes: int) -> str:
    mode = call.get("mode", "nearest")
    older = call.node.op_type == "Upsample" or call.opset < 11
    place = "asymmetric" if older else call.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        rounding = "floor" if older else call.get("nearest_mode", "round_prefer_floor")
        exact = place in {"half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"}
        if place == "asymmetric" and rounding in {"floor", "round_prefer_floor"}:
            return "nearest"
        if exact and rounding in {"round_prefer_floor", "round_prefer_ceil"}:
            return "nearest-exact"
    elif place in {"half_pixel", "pytorch_half_pixel", "align_corners"}:
        if mode == "linear" and axes in LINEAR:
            return LINEAR[axes]
        if mode == "cubic" and axes == 2 and call.get("cubic_coeff_a", -0.75) == -0.75:
            return "bicubic"
    raise Unreadable(f"resizes by {mode} with {place}")


def _depth_to_space(call: Call) -> Any:
    block = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return call.builder.layer(call.label, lambda: nn.PixelShuffle(block), call.tensor(0))
    return call.builder.call(functions.depth_to_space, call.tensor(0), block)


def _space_to_depth(call: Call) -> Any:
    return call.builder.call(functions.space_to_depth, call.tensor(0), call.get("blocksize"))


def _constant_of_shape(call: Call) -> Any:
    import onnx

    filled = call.get("value")
    value = np.zeros(1, np.float32) if filled is None else onnx.numpy_helper.to_array(filled)
    dtype = torch.from_numpy(np.array(value)).dtype
    return call.builder.call(torch.full, list(call.entries("shape", 0) or ()), value.item(), dtype=dtype)


def _range(call: Call) -> Any:
    numbers = [entry for index in range(3) for entry in call.entries("", index) or ()]
    return call.builder.call(torch.arange, *numbers)


def _trilu(call: Call) -> Any:
    function = torch.triu if call.get("upper", 1) else torch.tril
    return call.builder.call(function, call.tensor(0), int((call.known("k", 1) or (0,))[0]))


def _same(call: Call) -> Any:
    return call.value(0)


OPERATORS: dict[str, Callable[[Call], Any]] = {
    "Identity": _same,
    "Shape": _shape,
    "Size": _size,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Trilu": _trilu,
}
