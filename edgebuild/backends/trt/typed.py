"""An ONNX file that says it all: explicit Q/DQ for int8, float16 types for fp16, nothing that TensorRT refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.models.onnx_graphs import Names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

#: Largest finite float16 (IEEE 754-2019, binary16).
LARGEST_HALF = 65504.0
#: Relative root-mean-square error beyond which a constant stays fp32: well above float16's 2**-11.
MOST_ERROR = 1e-3
#: Ops that stay fp32: bodies of control flow, inputs that ONNX wants in float32, sizes computed in floats.
FULL_OPS = frozenset(
    {"If", "Loop", "Scan", "Resize", "Upsample", "Range", "QuantizeLinear", "DequantizeLinear", "EyeLike", "STFT"}
    | {"NonMaxSuppression", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "MelWeightMatrix"}
)
#: Integer arithmetic without explicit Q/DQ: TensorRT's parser knows none of it.
INTEGER_OPS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def float_biases(model: Any) -> int:
    """Turn int32 constants behind a DequantizeLinear into float constants, in place; return how many.

    TensorRT refuses an int32 DequantizeLinear: it requantises a float bias itself.
    """
    import numpy as np
    from onnx import numpy_helper

    constants = _constants(model)
    kept, folded = [], {}
    for node in model.graph.node:
        codes = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if codes is None or codes.dtype != np.int32 or node.input[1] not in constants:
            kept.append(type(node).FromString(node.SerializeToString()))
        else:
            folded[node.output[0]] = codes.astype(np.float64) * constants[node.input[1]].astype(np.float64)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for name, values in folded.items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return len(folded)


def problems(model: Any) -> list[str]:
    """Return every way in which the file's Q/DQ is not TensorRT's, one sentence each with the node's name.

    The parser accepts a weight's DequantizeLinear on the wrong axis, so that is only ever found here.
    """
    constants = _constants(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    found: list[str] = []
    for node in model.graph.node:
        name = _name(node)
        if node.op_type in INTEGER_OPS:
            found.append(f"node {name!r}: {node.op_type} is integer arithmetic without explicit Q/DQ")
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            found += [f"node {name!r}: {what}" for what in _wrong_pair(node, constants)]
        elif node.op_type in WEIGHTED and len(node.input) > 1:
            weight = makers.get(node.input[1])
            if weight is not None and weight.op_type == "DequantizeLinear" and weight.input[0] in constants:
                scales = constants.get(weight.input[1])
                want, got = _weight_axis(node, constants[weight.input[0]].ndim), _attribute(weight, "axis", 1)
                rank = constants[weight.input[0]].ndim
                if scales is not None and scales.size > 1 and got % rank != want:
                    found.append(
                        f"node {_name(weight)!r}: the weight of {name!r} has its scales on axis {got}, not {want}"
                    )
    return found


def _wrong_pair(node: Any, constants: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    import numpy as np

    codes = constants.get(node.input[0])
    zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if node.input[1] not in constants:
        yield "its scale is not a constant"
    if (zero is None and node.op_type == "QuantizeLinear") or any(
        v is not None and v.dtype == np.uint8 for v in (codes, zero)
    ):
        yield "its codes are uint8; TensorRT takes int8"
    if any(v is not None and v.dtype == np.int32 for v in (codes, zero)):
        yield "its codes are int32; TensorRT takes int8, and biases in float"
    if zero is not None and np.any(zero):
        yield "its zero point is not 0; TensorRT's int8 is symmetric"


def _weight_axis(node: Any, rank: int) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else rank - 1


def expected_precisions(model: Any) -> dict[str, str]:
    """Map each named convolution and matrix product to the precision that the file asks for: int8, fp16 or fp32."""
    import onnx

    kinds = _types(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    names: dict[int, str] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.FLOAT: "fp32"}
    found = {}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or not node.name:
            continue
        sources = [makers.get(name) for name in node.input[:2]]
        if all(source is not None and source.op_type == "DequantizeLinear" for source in sources):
            found[node.name] = "int8"
        elif kinds.get(node.input[0]) in names:
            found[node.name] = names[kinds[node.input[0]]]
    return found


def to_half(model: Any) -> dict[str, str]:
    """Give every float tensor inside float16's type, in place; return the nodes that stay fp32, with the reason.

    A node stays fp32 where one of its constants is beyond float16's range, or too small for it, and where its op is in
    ``FULL_OPS``. Inputs and outputs of the graph stay float32; Casts stand at each border. A tensor's own name keeps
    meaning float32, its half is called ``<name>_half``, so the bodies of control flow need no change.
    """
    from onnx import TensorProto

    kinds = _types(model)
    floats = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}
    constants = {name: v for name, v in _constants(model).items() if name in floats}
    kept: dict[str, str] = {}
    half: set[int] = set()
    for index, node in enumerate(model.graph.node):
        reason = _why_full(node, constants)
        touches = any(name in floats for name in (*node.input, *node.output))
        if reason is None and touches:
            half.add(index)
        elif touches and node.op_type != "Constant":
            kept[_name(node)] = reason or ""
    _retype(model, half, floats, constants)
    return kept


def _why_full(node: Any, constants: Mapping[str, NDArray[Any]]) -> str | None:
    if node.op_type in FULL_OPS:
        return f"{node.op_type} stays fp32"
    if node.op_type == "Constant":
        return "its readers convert it"
    for name in node.input:
        reason = why_not_half(constants[name]) if name in constants else None
        if reason is not None:
            return f"{name}: {reason}"
    return None


def why_not_half(values: NDArray[Any]) -> str | None:
    """Return why a constant must stay float32, or None."""
    import numpy as np

    if values.size == 0:
        return None
    wide = values.astype(np.float64)
    largest = float(np.abs(wide).max())
    if not largest <= LARGEST_HALF:
        return f"a value of magnitude {largest:g} is beyond fp16's {LARGEST_HALF:g}"
    error = float(np.sqrt(np.mean((values.astype(np.float16).astype(np.float64) - wide) ** 2)))
    size = float(np.sqrt(np.mean(wide**2)))
    return f"values too small for fp16: relative error {error / size:.2g}" if error > MOST_ERROR * size else None


def _retype(model: Any, half: set[int], floats: set[str], constants: Mapping[str, NDArray[Any]]) -> None:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    made_half = {name for index in half for name in nodes[index].output if name in floats}
    wanted_full = {v.name for v in graph.output} | {
        name for index, node in enumerate(nodes) if index not in half for name in _reads(node)
    }
    written: list[Any] = []
    names = Names(model)
    halves: dict[str, str] = {}

    def ready(name: str) -> str:
        """Return the float16 name of a float32 tensor, made where it doesn't exist yet."""
        if name not in halves:
            halves[name] = names.value(f"{name}_half")
            if name in constants:
                graph.initializer.append(numpy_helper.from_array(constants[name].astype(np.float16), halves[name]))
            elif name not in made_half:
                written.append(_cast(name, halves[name], TensorProto.FLOAT16, names))
        return halves[name]

    for index, node in enumerate(nodes):
        if index in half:
            node.input[:] = [ready(name) if name in floats else name for name in node.input]
            outputs = [name for name in node.output if name in floats]
            node.output[:] = [ready(name) if name in floats else name for name in node.output]
            _retype_attributes(node)
            written.append(node)
            full = [name for name in outputs if name in wanted_full]
            written += [_cast(halves[name], name, TensorProto.FLOAT, names) for name in full]
        else:
            written.append(node)
    del graph.node[:]
    graph.node.extend(written)
    del graph.value_info[:]
    used = {name for node in written for name in _reads(node)} | {v.name for v in graph.output}
    tensors = [t for t in graph.initializer if t.name in used]
    copies = [type(t).FromString(t.SerializeToString()) for t in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _retype_attributes(node: Any) -> None:
    """What a node makes out of nothing (a Cast, a ConstantOfShape) becomes float16 too."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    if node.op_type == "Cast":
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    if node.op_type == "ConstantOfShape":
        values = [a.t for a in node.attribute if a.name == "value"]
        value = numpy_helper.to_array(values[0]) if values else np.zeros(1, np.float32)
        if value.dtype == np.float32:
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value.astype(np.float16))))


def _cast(source: str, target: str, kind: int, names: Names) -> Any:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], name=names.node(f"{target}_Cast"), to=kind)


def _reads(node: Any) -> set[str]:
    """Return what a node reads, in the bodies of control flow too."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names |= {name for inner in graph.node for name in _reads(inner)} | {v.name for v in graph.output}
    return names


def _types(model: Any) -> dict[str, int]:
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return {**kinds, **{tensor.name: tensor.data_type for tensor in model.graph.initializer}}


def _constants(model: Any) -> dict[str, NDArray[Any]]:
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values = [numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"]
            found.update(zip(node.output, values, strict=False))
    return found


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _name(node: Any) -> str:
    return str(node.name or (node.output[0] if node.output else node.op_type))
