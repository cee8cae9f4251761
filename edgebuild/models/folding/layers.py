"""Layers that take in what scales and shifts around them: where their weights lie, and what becomes of these.

New weights are computed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.models.folding.affine import Channels
from edgebuild.models.folding.idle import attribute
from edgebuild.models.folding.wiring import OWN_DOMAINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.models.folding.affine import Affine, Vector
    from edgebuild.models.folding.wiring import Wiring

#: A weight that others read too is copied up to here: beyond, a file that grows is worth more than an operator less.
MOST_COPIED_BYTES = 1 << 20
KINDS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with constant float32 weights.

    ``weight`` runs over the output's channels along ``axis``; ``bias`` has one value per channel, or is None.
    ``factor`` is what the layer itself multiplies its products by. ``output`` says where its channels lie.
    """

    node: Any
    weight: NDArray[np.float32]
    axis: int
    bias: Vector | None
    output: Channels
    factor: float = 1.0

    @property
    def takes_shift(self) -> bool:
        """Whether the layer has a place for a bias."""
        return bool(self.node.op_type != "MatMul")


def layer_of(wiring: Wiring, node: Any) -> Layer | None:
    """Return a node as a layer; None for what is none, or has weights or a bias that can't be changed."""
    if node.domain not in OWN_DOMAINS or node.op_type not in KINDS or len(node.input) < 2:
        return None
    weight, kind = wiring.array(node.input[1]), node.op_type
    if weight is None or weight.dtype != np.float32 or wiring.array(node.input[0]) is not None:
        return None
    if (weight.ndim != 2) if kind in {"Gemm", "MatMul"} else weight.ndim < 3:
        return None
    if kind == "ConvTranspose" and attribute(node, "group", 1) != 1:
        return None
    axis = 0 if kind == "Conv" or attribute(node, "transB", 0) else 1
    rank: int | None = weight.ndim
    if kind == "MatMul":
        shape = wiring.shapes.get(node.output[0])
        rank = None if shape is None else len(shape)
    output = Channels(count=weight.shape[axis], axis=1 - weight.ndim, rank=rank)
    bias = None
    if len(node.input) > 2 and node.input[2]:
        values = wiring.array(node.input[2])
        where = output if kind == "Gemm" else Channels(count=output.count, axis=-1, rank=1)
        bias = None if values is None or values.dtype != np.float32 else where.vector(values)
        if bias is None:
            return None
        bias = bias * float(attribute(node, "beta", 1.0))
    factor = float(attribute(node, "alpha", 1.0))
    return Layer(node=node, weight=weight, axis=axis, bias=bias, output=output, factor=factor)


def scale_output(wiring: Wiring, layer: Layer, affine: Affine) -> Vector | str:
    """Let a layer do ``affine`` to its output; return the shift that is left over, or the reason why it can't.

    A product has no bias: what it would be is left over.
    """
    scale = affine.scale * layer.factor
    shape = [1] * layer.weight.ndim
    shape[layer.axis] = -1
    bias = affine.shift if layer.bias is None else affine.shift + affine.scale * layer.bias
    if not layer.takes_shift:
        refused = rewrite(wiring, layer, layer.weight * scale.reshape(shape), None)
        return refused or bias
    keeps_none = layer.bias is None and not bias.any()
    refused = rewrite(wiring, layer, layer.weight * scale.reshape(shape), None if keeps_none else bias)
    return refused or np.zeros_like(bias)


def scale_input(wiring: Wiring, layer: Layer, affine: Affine) -> str:
    """Let a convolution do ``affine`` to its input; return the reason why it can't, or nothing."""
    weight, groups = layer.weight.astype(np.float64), attribute(layer.node, "group", 1)
    if layer.node.op_type == "ConvTranspose":
        return rewrite(wiring, layer, weight * affine.scale.reshape(-1, *[1] * (weight.ndim - 1)), layer.bias)
    # (groups, outputs of a group, inputs of a group, kernel …) times (groups, 1, inputs of a group, 1 …).
    split = weight.reshape(groups, -1, *weight.shape[1:])
    shape = (groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    scaled = (split * affine.scale.reshape(shape)).reshape(weight.shape)
    added = (split * affine.shift.reshape(shape)).reshape(len(weight), -1).sum(axis=1)
    bias = added if layer.bias is None else layer.bias + added
    return rewrite(wiring, layer, scaled, bias if layer.bias is not None or added.any() else None)


def inputs_of(layer: Layer) -> Channels | None:
    """Return where the channels of a convolution's input lie; None for other layers."""
    if layer.node.op_type == "Conv":
        count = layer.weight.shape[1] * attribute(layer.node, "group", 1)
    elif layer.node.op_type == "ConvTranspose":
        count = layer.weight.shape[0]
    else:
        return None
    return Channels(count=count, axis=1 - layer.weight.ndim, rank=layer.weight.ndim)


def sees_edges(layer: Layer) -> bool:
    """Whether some outputs of a convolution are computed from fewer inputs than others: it pads, or is transposed."""
    node = layer.node
    automatic = attribute(node, "auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID", b""}
    return bool(node.op_type != "Conv" or automatic or any(attribute(node, "pads", [0])))


def rewrite(wiring: Wiring, layer: Layer, weight: NDArray[Any], bias: Vector | None) -> str:
    """Give a layer these weights under new names; return the reason why not, or nothing.

    A Gemm then multiplies by 1. Others that read the old weights keep them.
    """
    node, name = layer.node, layer.node.input[1]
    with np.errstate(all="ignore"):
        rounded = weight.astype(np.float32)
        offset = None if bias is None else bias.astype(np.float32)
    same = np.array_equal(rounded, layer.weight)
    if not same and layer.weight.nbytes > MOST_COPIED_BYTES and (len(wiring.readers(name)) > 1 or name in wiring.fixed):
        return "others read its layer's weights, which are too large to be copied"
    small = np.abs(rounded) < np.finfo(np.float32).tiny
    lost = bool((small & (np.abs(layer.weight) >= np.finfo(np.float32).tiny)).any())
    if lost or not np.isfinite(rounded).all() or not (offset is None or np.isfinite(offset).all()):
        return "its layer's weights would leave the range of float32"
    names = [node.input[0], name if same else wiring.add_constant(f"{name}_folded", rounded)]
    if offset is not None:
        old = node.input[2] if len(node.input) > 2 and node.input[2] else f"{name}_bias"
        names.append(wiring.add_constant(f"{old}_folded", offset))
    wiring.read(node, names)
    for index in reversed(range(len(node.attribute))):
        if node.op_type == "Gemm" and node.attribute[index].name in {"alpha", "beta"}:
            del node.attribute[index]
    return ""
