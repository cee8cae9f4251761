"""Writes the 8-bit model: explicit QuantizeLinear/DequantizeLinear pairs and integer constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.models.onnx_graphs import Names, reads_of
from edgebuild.quantisers.own import tables
from edgebuild.quantisers.own.graph import add_constant
from edgebuild.quantisers.own.simulator import insert_after, set_input

if TYPE_CHECKING:
    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.quantisers.own.arithmetic import Affine, Codes
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.placement import Placement, WeightedOp
    from edgebuild.quantisers.own.simulator import QuantisationState

INT32_REACH = 2**31 - 1


def write(graph: Graph, placement: Placement, numbers: QuantisationState, scheme: Int8Scheme) -> Any:
    """Return the model in 8 bits; what ``placement`` leaves float is untouched."""
    import onnx

    from edgebuild.models import trained_grids

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    trained_grids.detach(model)
    target, names = model.graph, Names(model)
    after: dict[int, list[Any]] = {}
    for table in placement.tables:
        stored = tables.store(target, graph, table, names)
        after.update({index: tables.look_up(target.node[index], stored, names) for index in table.readers})
    activation = np.uint8 if scheme.activations == "uint8" else np.int8
    parameters: dict[str, list[str]] = {}
    for group in placement.groups:
        found = numbers.ranges[group]
        scale, zero = names.value(f"{group}_scale"), names.value(f"{group}_zero_point")
        add_constant(target, scale, np.array(found.scale, np.float32))
        add_constant(target, zero, np.array(found.zero_point, activation))
        parameters[group] = [scale, zero]
    for point in placement.points:
        pair = _pair(point.tensor, parameters[point.group], names)
        for node, slot in point.readers:
            target.node[node].input[slot] = pair[-1].output[0]
        after.setdefault(graph.producer.get(point.tensor, -1), []).extend(pair)
    ranges = {(node, slot): p.group for p in placement.points for node, slot in p.readers}
    for op in placement.ops:
        dequantise = _weight(target, op, numbers.codes[op.name], scheme, names)
        after.setdefault(-1, []).append(dequantise)
        if op.bias_slot is not None and (op.bias is not None or np.any(numbers.biases[op.name])):
            after[-1].extend(_bias(target, op, numbers, numbers.ranges[ranges[op.node, 0]], names))
    insert_after(target, after)
    _drop_unused(target)
    model.producer_name = "edgebuild"
    return model


def _pair(tensor: str, parameters: list[str], names: Names) -> list[Any]:
    from onnx import helper

    codes, result = names.value(f"{tensor}_quantized"), names.value(f"{tensor}_dequantized")
    quantise, dequantise = (names.node(f"{tensor}_{op}") for op in ("QuantizeLinear", "DequantizeLinear"))
    return [
        helper.make_node("QuantizeLinear", [tensor, *parameters], [codes], name=quantise),
        helper.make_node("DequantizeLinear", [codes, *parameters], [result], name=dequantise),
    ]


def _weight(target: Any, op: WeightedOp, codes: Codes, scheme: Int8Scheme, names: Names) -> Any:
    dtype = np.uint8 if scheme.weights == "uint8" else np.int8
    values = (codes.codes.astype(dtype), codes.scale, np.full(codes.scale.shape, codes.zero_point, dtype))
    node = _dequantised(target, f"{op.name}_weight", values, op.axis if codes.scale.ndim else None, names)
    set_input(target.node[op.node], 1, node.output[0])
    return node


def _bias(target: Any, op: WeightedOp, numbers: QuantisationState, activation: Affine, names: Names) -> list[Any]:
    """Write the bias as int32 codes whose scale is that of the accumulator, as integer kernels want it.

    Behind a MatMul too: ONNX Runtime makes a Gemm of it and the Add, which has no integer kernel for a float bias. It
    stays float where its codes or scale would not fit.
    """
    assert op.bias_slot is not None  # noqa: S101 - the caller looked
    node, slot = op.bias_slot
    bias = numbers.biases[op.name]
    base = f"{op.name}_bias"
    with np.errstate(over="ignore", under="ignore"):
        scale = (np.float64(activation.scale) * numbers.codes[op.name].scale).astype(np.float32)
    limits = np.finfo(np.float32)
    codes = np.rint(bias.astype(np.float64) / np.clip(scale, limits.tiny, limits.max))
    unfit = bool(np.any(scale < limits.tiny) or np.any(scale > limits.max))
    if unfit or np.abs(codes).max(initial=0) > INT32_REACH:
        name = names.value(base)
        add_constant(target, name, bias)
        set_input(target.node[node], slot, name)
        return []
    values = (codes.reshape(-1).astype(np.int32), scale, np.zeros(scale.shape, np.int32))
    dequantise = _dequantised(target, base, values, 0 if scale.ndim else None, names)
    set_input(target.node[node], slot, dequantise.output[0])
    return [dequantise]


def _dequantised(target: Any, base: str, values: tuple[Any, Any, Any], axis: int | None, names: Names) -> Any:
    """Store codes, scale and zero point, and return the node that makes them real again.

    ``axis`` runs over the scales, None for one scale.
    """
    from onnx import helper

    inputs = [names.value(f"{base}_{part}") for part in ("quantized", "scale", "zero_point")]
    for name, value in zip(inputs, values, strict=True):
        add_constant(target, name, value)
    made, label = names.value(f"{base}_dequantized"), names.node(f"{base}_DequantizeLinear")
    node = helper.make_node("DequantizeLinear", inputs, [made], name=label)
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


def _drop_unused(target: Any) -> None:
    """Remove initialisers that nothing reads any more (a subgraph may read one too)."""
    used = {name for node in target.node for name in reads_of(node)} | {v.name for v in target.output}
    kept = [tensor for tensor in target.initializer if tensor.name in used]
    if len(kept) < len(target.initializer):
        copies = [type(t).FromString(t.SerializeToString()) for t in kept]
        del target.initializer[:]
        target.initializer.extend(copies)
