"""Takes out what passes its input on as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.models.folding.wiring import OWN_DOMAINS

if TYPE_CHECKING:
    from edgebuild.models.folding.wiring import Wiring

#: What keeps every element in its order: nothing, where the shape stays too.
SHAPERS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand"})
#: What does nothing to a single input.
JOINERS = frozenset({"Concat", "Sum", "Max", "Min", "Mean"})
#: The constant that an operator does nothing with, and the places that it may stand in.
NEUTRAL = {"Add": (0, (0, 1)), "Sub": (0, (1,)), "Mul": (1, (0, 1)), "Div": (1, (1,))}
#: A Dropout trains from here on only where it says so.
DROPOUT_OPSET = 7


def take_out(wiring: Wiring) -> int:
    """Take out operators whose output equals what they read; return how many."""
    count = 0
    for node in wiring.standing():
        source = source_of(wiring, node)
        count += source is not None and wiring.splice(node, source)
    return count


def source_of(wiring: Wiring, node: Any) -> str | None:
    """Return the tensor that a node's output surely equals, if any."""
    if node.domain not in OWN_DOMAINS or not node.input or not wiring.one_output(node):
        return None
    first, kind = node.input[0], node.op_type
    same = (
        kind == "Identity"
        or (kind in JOINERS and len(node.input) == 1)
        or (kind in SHAPERS and _same_shape(wiring, first, node.output[0]))
        or (kind == "Cast" and attribute(node, "to", 0) == wiring.types.get(first))
        or (kind == "Dropout" and _passes(wiring, node))
        or (kind == "Pad" and _pads_nothing(wiring, node))
    )
    if same:
        return str(first)
    if kind == "Transpose":
        return _unmoved(wiring, node)
    return _neutral(wiring, node) if kind in NEUTRAL else None


def attribute(node: Any, name: str, default: Any) -> Any:
    """Return an attribute of a node as a Python value."""
    import onnx

    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def _same_shape(wiring: Wiring, one: str, other: str) -> bool:
    shape = wiring.static_shape(one)
    return bool(shape) and shape == wiring.static_shape(other)


def _passes(wiring: Wiring, node: Any) -> bool:
    if wiring.opset < DROPOUT_OPSET:
        return False
    training = wiring.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.array(False)
    return training is not None and not training.any()


def _pads_nothing(wiring: Wiring, node: Any) -> bool:
    pads = attribute(node, "pads", None)
    values = wiring.array(node.input[1]) if pads is None and len(node.input) > 1 else pads
    return values is not None and not np.any(values)


def _unmoved(wiring: Wiring, node: Any) -> str | None:
    """Follow a Transpose, and one before it: what both together leave in place."""
    perm = attribute(node, "perm", None)
    if perm is None:
        return None
    if list(perm) == sorted(perm):
        return str(node.input[0])
    before = wiring.makers.get(node.input[0])
    if before is None or before.op_type != "Transpose" or before.domain not in OWN_DOMAINS:
        return None
    first = attribute(before, "perm", None)
    if first is not None and [first[axis] for axis in perm] == sorted(perm):
        return str(before.input[0])
    return None


def _neutral(wiring: Wiring, node: Any) -> str | None:
    """What an addition of zeros or a product with ones leaves; its constants must not widen the shape."""
    number, places = NEUTRAL[node.op_type]
    for place in places:
        values = wiring.array(node.input[place])
        kept = node.input[1 - place]
        rank = len(wiring.shapes.get(kept, ()))
        if values is not None and values.size == 1 and values.ndim <= rank and values.item() == number:
            return str(kept)
    return None
