"""Writes the 8-bit model: explicit QuantizeLinear/DequantizeLinear pairs and integer constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.techniques.quantise.simulator import insert_after, set_input

if TYPE_CHECKING:
    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.techniques.quantise.arithmetic import Affine, Codes
    from edgebuild.techniques.quantise.graph import Graph
    from edgebuild.techniques.quantise.placement import Placement, WeightedOp
    from edgebuild.techniques.quantise.simulator import Numbers

INT32_REACH = 2**31 - 1


def write(graph: Graph, placement: Placement, numbers: Numbers, scheme: Int8Scheme) -> Any:
    """Return the model in 8 bits; what ``placement`` leaves float is untouched."""
    import onnx

    from edgebuild.models import trained_grids

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    trained_grids.detach(model)
    target = model.graph
    after: dict[int, list[Any]] = {}
    activation = np.uint8 if scheme.activations == "uint8" else np.int8
    for group in placement.groups:
        parameters = numbers.ranges[group]
        _constant(target, f"{group}_scale", np.array(parameters.scale, np.float32))
        _constant(target, f"{group}_zero_point", np.array(parameters.zero_point, activation))
    for point in placement.points:
        for node, slot in point.readers:
            target.node[node].input[slot] = f"{point.tensor}_dequantized"
        after.setdefault(graph.producer.get(point.tensor, -1), []).extend(_pair(point.tensor, point.group))
    ranges = {(node, slot): p.group for p in placement.points for node, slot in p.readers}
    for op in placement.ops:
        dequantise = _weight(target, op, numbers.codes[op.name], scheme)
        after.setdefault(-1, []).append(dequantise)
        if op.bias_slot is not None and (op.bias is not None or np.any(numbers.biases[op.name])):
            after[-1].extend(_bias(target, op, numbers, numbers.ranges[ranges[op.node, 0]]))
    insert_after(target, after)
    _drop_unused(target)
    model.producer_name = "edgebuild"
    return model


def _pair(tensor: str, group: str) -> list[Any]:
    from onnx import helper

    parameters = [f"{group}_scale", f"{group}_zero_point"]
    codes, result = f"{tensor}_quantized", f"{tensor}_dequantized"
    return [
        helper.make_node("QuantizeLinear", [tensor, *parameters], [codes], name=f"{tensor}_QuantizeLinear"),
        helper.make_node("DequantizeLinear", [codes, *parameters], [result], name=f"{tensor}_DequantizeLinear"),
    ]


def _weight(target: Any, op: WeightedOp, codes: Codes, scheme: Int8Scheme) -> Any:
    dtype = np.uint8 if scheme.weights == "uint8" else np.int8
    base = f"{op.name}_weight"
    _constant(target, f"{base}_quantized", codes.codes.astype(dtype))
    _constant(target, f"{base}_scale", codes.scale)
    _constant(target, f"{base}_zero_point", np.full(codes.scale.shape, codes.zero_point, dtype))
    set_input(target.node[op.node], 1, f"{base}_dequantized")
    return _dequantise(base, op.axis if codes.scale.ndim else None)


def _bias(target: Any, op: WeightedOp, numbers: Numbers, activation: Affine) -> list[Any]:
    """Write the bias as int32 codes whose scale is that of the accumulator, as integer kernels want it.

    It stays float behind a matrix product (there it is added to a float), and where its codes would not fit.
    """
    assert op.bias_slot is not None  # noqa: S101 - the caller looked
    node, slot = op.bias_slot
    bias = numbers.biases[op.name]
    base = f"{op.name}_bias"
    scale = (np.float64(activation.scale) * numbers.codes[op.name].scale).astype(np.float32)
    codes = np.rint(bias.astype(np.float64) / np.maximum(scale, np.finfo(np.float32).tiny))
    if op.kind == "MatMul" or np.abs(codes).max(initial=0) > INT32_REACH:
        _constant(target, base, bias)
        set_input(target.node[node], slot, base)
        return []
    _constant(target, f"{base}_quantized", codes.reshape(-1).astype(np.int32))
    _constant(target, f"{base}_scale", scale)
    _constant(target, f"{base}_zero_point", np.zeros(scale.shape, np.int32))
    set_input(target.node[node], slot, f"{base}_dequantized")
    return [_dequantise(base, 0 if scale.ndim else None)]


def _dequantise(base: str, axis: int | None) -> Any:
    """Return the node that makes a constant real again; ``axis`` runs over its scales, None for one scale."""
    from onnx import helper

    inputs, outputs = [f"{base}_{part}" for part in ("quantized", "scale", "zero_point")], [f"{base}_dequantized"]
    node = helper.make_node("DequantizeLinear", inputs, outputs, name=f"{base}_DequantizeLinear")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


def _constant(target: Any, name: str, value: Any) -> None:
    from onnx import numpy_helper

    target.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))


def _drop_unused(target: Any) -> None:
    """Remove initialisers that nothing reads any more (a subgraph may read one too)."""
    from edgebuild.techniques.quantise.graph import captured_names

    used = {name for node in target.node for name in node.input} | {v.name for v in target.output}
    for node in target.node:
        used.update(captured_names(node))
    kept = [tensor for tensor in target.initializer if tensor.name in used]
    if len(kept) < len(target.initializer):
        copies = [type(t).FromString(t.SerializeToString()) for t in kept]
        del target.initializer[:]
        target.initializer.extend(copies)
