"""LSTM, GRU and RNN as torch's layers. Imports torch.

ONNX has gates in another order, weights with the directions on their first axis, and both biases in one tensor.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgebuild.models.onnx_torch import functions
from edgebuild.models.onnx_torch.graph import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import fx

    from edgebuild.models.onnx_torch.call import Call

#: Torch's gates, as places in ONNX's order: iofc → ifgo, zrh → rzn.
GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
#: The activations that torch's layers have.
ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


def _recurrent(call: Call) -> Any:
    """Outputs: of all steps (T, D, B, H), and the last states (D, B, H)."""
    kind = call.node.op_type
    weight, recurrence = call.array(1), call.array(2)
    directions, width = weight.shape[0], recurrence.shape[2]
    _refuse_variants(call, kind, directions)
    layer_kind: Any = LAYERS[kind]

    def make() -> Any:
        layer = layer_kind(weight.shape[2], width, bias=call.has(3), bidirectional=directions == 2)
        for direction in range(directions):
            ending = "_l0_reverse" if direction else "_l0"
            parts = {"weight_ih": weight[direction], "weight_hh": recurrence[direction]}
            if call.has(3):
                parts["bias_ih"], parts["bias_hh"] = np.split(call.array(3)[direction], 2)
            for name, array in parts.items():
                gates = np.split(array, len(GATES[kind]))
                ordered = np.concatenate([gates[place] for place in GATES[kind]])
                getattr(layer, name + ending).data = torch.from_numpy(ordered)
        layer.flatten_parameters()
        return layer

    x = call.tensor(0)
    states = [_state(call, x, index) for index in ((5, 6) if kind == "LSTM" else (5,))]
    given = [] if states[0] is None else [tuple(states) if kind == "LSTM" else states[0]]
    both = call.builder.layer(call.label, make, x, *given, key=call.key())
    output, last = (call.builder.call(operator.getitem, both, index) for index in (0, 1))
    output = call.builder.call(functions.by_direction, output, directions)
    if kind != "LSTM":
        return output, last
    return (output, *(call.builder.call(operator.getitem, last, index) for index in (0, 1)))


def _refuse_variants(call: Call, kind: str, directions: int) -> None:
    call.refuse("layout", 0)
    call.refuse("clip", 0.0)
    call.refuse("input_forget", 0)
    call.refuse("direction", "forward", "bidirectional")
    activations = [each.decode().lower() for each in call.get("activations") or ()]
    if activations and activations != ACTIVATIONS[kind] * directions:
        raise Unreadable(f"has the activations {', '.join(activations)}")
    if kind == "GRU" and not call.get("linear_before_reset", 0):
        raise Unreadable("has linear_before_reset = 0")
    if call.has(4):
        raise Unreadable("is given the length of each sequence")
    if call.has(7):
        raise Unreadable("has peepholes")


def _state(call: Call, x: fx.Node, index: int) -> fx.Node | None:
    """Return an initial state; None for zeros. One of batch 1 is repeated for the batch there is."""
    other = 11 - index if call.node.op_type == "LSTM" else index
    if all(_is_zero(call, each) for each in {index, other}):
        return None
    if not call.has(index):
        raise Unreadable("is given one of its two states only")
    state = call.tensor(index)
    if call.builder.dims(state)[1] == 1 and call.builder.dims(x)[1] is None:
        return call.builder.method("expand", state, [-1, call.builder.size(x, 1), -1])
    return state


def _is_zero(call: Call, index: int) -> bool:
    return not call.has(index) or (isinstance(value := call.value(index), np.ndarray) and not value.any())


OPERATORS: dict[str, Callable[[Call], Any]] = dict.fromkeys(LAYERS, _recurrent)
