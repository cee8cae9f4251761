"""What an ONNX graph takes and gives, as edgebuild speaks of tensors."""

from __future__ import annotations

from typing import Any

from edgebuild.core.artifact import TensorSpec
from edgebuild.errors import ModelError

#: The first thing to ask of a file that makes no sense.
COMPLETE = "Is it complete, and an .onnx file?"


def output_specs(graph: Any) -> tuple[TensorSpec, ...]:
    """Return what a graph gives; where one of several outputs can't be kept, the error says how to leave it out."""
    found: list[TensorSpec] = []
    refused: ModelError | None = None
    for value in graph.output:
        try:
            found.append(spec_of(value))
        except ModelError as error:
            refused = refused or error
    if refused is not None and found:
        stored = {tensor.name for tensor in graph.initializer}
        inputs = [value.name for value in graph.input if value.name not in stored]
        kept = [spec.name for spec in found]
        raise ModelError(
            refused.message,
            hint=f"{refused.hint} Or leave it out: "
            f"onnx.utils.extract_model('MODEL.onnx', 'NEW.onnx', {inputs}, {kept}).",
        ) from refused
    if refused is not None:
        raise refused
    return tuple(found)


def spec_of(value: Any) -> TensorSpec:
    """Return an input or output of a graph; raises ``ModelError`` for one that no tensor of ours can be."""
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(
            f"{value.name!r} is a {kind.removesuffix('_type') if kind else 'value of unknown type'}, not a tensor.",
            hint="Export it with tensors instead (classifiers of skl2onnx: options={'zipmap': False}).",
        )
    tensor = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except (KeyError, ValueError) as error:
        raise ModelError(f"{value.name!r} has an element type that ONNX doesn't define.", hint=COMPLETE) from error
    dtype = "string" if dtype == "object" else dtype
    if dtype not in TensorSpec.model_fields["dtype"].annotation.__args__:  # type: ignore[union-attr]
        raise ModelError(
            f"{value.name!r} has the element type {dtype}, which edgebuild can't feed.",
            hint="Let the model take and give float32 or whole numbers, with a Cast behind or before them.",
        )
    return TensorSpec(
        name=value.name, shape=tuple(dimension(d, i) for i, d in enumerate(tensor.shape.dim)), dtype=dtype
    )


def dimension(dim: Any, index: int) -> int | str:
    """Return a dimension of a shape: its size, or the name of a dynamic axis, made up from ``index`` without one."""
    if dim.dim_value > 0:  # some exporters write 0 or -1 for "any"
        return int(dim.dim_value)
    return str(dim.dim_param) or f"axis{index}"
