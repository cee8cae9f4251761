"""Freezes the shapes of an ONNX model and simplifies what follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.errors import ModelError
from edgebuild.models.onnx_files import first_line, nodes_of
from edgebuild.models.onnx_specs import COMPLETE, dimension

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.artifact import ConstantInput, Contract
    from edgebuild.models.onnx_files import OnnxFacts


def freeze(
    model: Any,
    *,
    shapes: Mapping[str, tuple[int | str, ...]],
    constants: tuple[ConstantInput, ...],
    library: Path | None = None,
) -> Any:
    """Return a copy with static input shapes, constant inputs folded in, and what follows from both simplified.

    ``shapes`` maps an input to its shipped shape (a name keeps an axis dynamic). Raises ``ModelError`` when the shapes
    contradict the graph.
    """
    import onnx

    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    graph = frozen.graph
    fixed = {constant.name: constant for constant in constants}
    inputs = [value for value in graph.input if value.name not in fixed]
    for value in graph.input:
        if value.name in fixed:
            graph.initializer.append(_constant_tensor(fixed[value.name]))
        elif value.name in shapes:
            _refuse_other_shape(value, shapes[value.name])
            _set_shape(value, shapes[value.name])
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return _rewritten(frozen, "infer-strictly", library)


def _has_unknown_operators(model: Any) -> bool:
    """Whether a model has operators of which onnx infers no types."""
    functions = {function.domain for function in model.functions}
    return not {node.domain for node in nodes_of(model.graph)} <= {"", "ai.onnx"} | functions


def simplify(model: Any, *, library: Path | None = None) -> Any:
    """Return the model with constants folded, batch normalisation merged and shapes inferred, in standard operators.

    onnxruntime's *basic* optimisations do it: they keep the meaning, know no instruction set, and, unlike pure
    rewriters, follow shapes through padding and control flow. A model that crashes the optimiser is returned without.
    Raises ``ModelError`` naming what onnxruntime refuses.
    """
    return _rewritten(model, "infer", library)


def _rewritten(model: Any, infer: str, library: Path | None) -> Any:
    from edgebuild.models.onnx_child import Refused, run_apart

    # Strictly, what reads the outcome of an operator that onnx doesn't know contradicts it.
    tasks = ("infer", "note-types", "infer") if _has_unknown_operators(model) else (infer,)
    try:
        simplified = run_apart(model, "simplify", *tasks, library=library) or run_apart(model, *tasks, library=library)
    except Refused as refused:
        if refused.task == "simplify":
            raise ModelError(
                f"onnxruntime can't load the model: {first_line(refused.reason)}",
                hint="Check the shapes under [[inputs]] and [freeze], and that every operator is a standard one.",
            ) from refused
        raise ModelError(
            f"The model doesn't fit the shapes it shall be frozen to: {refused.reason}",
            hint="Check the shapes under [[inputs]] and the sizes under [freeze] in edgebuild.toml.",
        ) from refused
    if simplified is None:
        raise ModelError("The model crashes onnx's shape inference.", hint=COMPLETE)
    used = {node.domain for node in nodes_of(simplified.graph)} | {f.domain for f in simplified.functions}
    kept = [entry for entry in simplified.opset_import if entry.domain in used | {""}]
    del simplified.opset_import[:]
    simplified.opset_import.extend(kept)
    return simplified


def _constant_tensor(constant: ConstantInput) -> Any:
    import onnx

    from edgebuild.models.host_session import constant_array

    return onnx.numpy_helper.from_array(constant_array(constant), constant.name)


def _refuse_other_shape(value: Any, shape: tuple[int | str, ...]) -> None:
    """A size that contradicts the graph's own would only be noticed when some operator runs, or never."""
    if not value.type.tensor_type.HasField("shape"):
        return
    own = tuple(dimension(d, i) for i, d in enumerate(value.type.tensor_type.shape.dim))
    fits = len(own) == len(shape) and all(
        isinstance(a, str) or isinstance(b, str) or a == b for a, b in zip(own, shape, strict=True)
    )
    if not fits:
        raise ModelError(
            f"Input {value.name!r} has shape {list(own)} in the model and can't be frozen to {list(shape)}.",
            hint="Check the shapes under [[inputs]] and the sizes under [freeze] in edgebuild.toml.",
        )


def _set_shape(value: Any, shape: tuple[int | str, ...]) -> None:
    dims = value.type.tensor_type.shape
    dims.ClearField("dim")
    for size in shape:
        entry = dims.dim.add()
        if isinstance(size, int):
            entry.dim_value = size
        else:
            entry.dim_param = size


def shipped_contract(
    facts: OnnxFacts,
    contract: Contract,
) -> Contract:
    """Return ``contract`` with the output shapes that the frozen model really has; state outputs are not outputs."""
    states = {link.output for link in contract.state}
    inputs = {link.input for link in contract.state}
    return contract.model_copy(
        update={
            "inputs": tuple(spec for spec in facts.inputs if spec.name not in inputs),
            "outputs": tuple(spec for spec in facts.outputs if spec.name not in states),
            "state_specs": tuple(spec for spec in facts.inputs if spec.name in inputs),
        }
    )
