"""ONNX files as they come from the world: read them safely, say what is in them, freeze their shapes."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact import ConstantInput, Contract, TensorSpec
from edgebuild.errors import EdgebuildError, EnvironmentGap, ModelError
from edgebuild.models import external_data
from edgebuild.models.onnx_graphs import fault_of, graphs_of, label_of, tidy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

#: Operator sets whose operators every runtime we compile for may be asked to know.
STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
#: Operator sets of onnxruntime itself: fine there, unknown elsewhere.
RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc"})


@dataclass(frozen=True, kw_only=True)
class OnnxFacts:
    """What ``inspect`` reads from an ONNX file."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    parameters: int
    weight_bytes: int
    ops: tuple[tuple[str, int], ...]
    domains: tuple[str, ...]
    control_flow: bool
    macs: int | None


def load_onnx(path: Path) -> Any:
    """Return a model that someone wrote, checked, in today's form (``tidy``), with external data inside.

    Runs no native code but protobuf's on it. Raises ``ModelError`` naming what is wrong with the file, whatever that
    is: no exception of another library passes.
    """
    _require_onnx()
    with _reading(path):
        model = _parsed(path)
        if not model.graph.node:
            raise ModelError(f"{path} holds no operators.", hint=_COMPLETE)
        tensors = list(_tensors(model))
        external_data.take_in(tensors, path)
        _check_tensors(tensors, path)
        _check_operators(model, path)
        fault = fault_of(tidy(model))
        if fault is not None:
            raise ModelError(
                f"{path} is no sound graph: {fault}.",
                hint="onnx.checker.check_model says more. Export the model again, or mend what changed it.",
            )
    return model


def external_files(path: Path) -> tuple[Path, ...]:
    """Return the external data files that an ONNX file refers to; none for a file that can't be read (see above)."""
    _require_onnx()
    try:
        with _reading(path):
            return external_data.files_of(_tensors(_parsed(path)), path)
    except ModelError:
        return ()


def external_names(path: Path) -> tuple[str, ...]:
    """Return where an ONNX file says that its external data lies, as it says it; raises ``ModelError``."""
    _require_onnx()
    with _reading(path):
        return external_data.names_of(_tensors(_parsed(path)))


_COMPLETE = "Is it complete, and an .onnx file?"


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise EnvironmentGap("onnx is not installed.", hint="pip install onnx") from error


@contextlib.contextmanager
def _reading(what: object) -> Iterator[None]:
    """The boundary to foreign files: whatever reading one raises is a ``ModelError`` from here on."""
    try:
        yield
    except EdgebuildError:
        raise
    except MemoryError as error:
        raise ModelError(f"{what} is too large for this machine's memory.", hint=_COMPLETE) from error
    except Exception as error:  # onnx, protobuf and pydantic share no root, and a damaged file reaches all of them
        raise ModelError(f"{what} can't be read as ONNX: {first_line(error)}", hint=_COMPLETE) from error


def _parsed(path: Path) -> Any:
    import onnx

    if not path.is_file():
        wrong = "is no regular file" if path.exists() else "no such model file"
        raise ModelError(f"{path}: {wrong}.", hint="Check the path, or [model].onnx in edgebuild.toml.")
    return onnx.load(str(path), format="protobuf", load_external_data=False)


def _check_tensors(tensors: Iterable[Any], path: Path) -> None:
    """Refuse tensors that hold more or less than their shape says, before anything is computed with them."""
    import onnx

    for tensor in tensors:
        expected = external_data.bytes_of(tensor) if tensor.HasField("raw_data") else None
        if expected is None:
            fits = math.prod(tensor.dims) == onnx.numpy_helper.to_array(tensor).size
        else:
            fits = expected == len(tensor.raw_data)
        if not fits:
            raise ModelError(
                f"{path}: the tensor {tensor.name!r} doesn't hold what its type and its shape {list(tensor.dims)} say.",
                hint=_COMPLETE,
            )


def _check_operators(model: Any, path: Path) -> None:
    import onnx

    opsets = {entry.domain: entry.version for entry in model.opset_import}
    functions = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in STANDARD_DOMAINS or (node.domain, node.op_type) in functions:
            continue
        version = opsets.get(domain, opsets.get("ai.onnx", 1))
        try:
            schema = onnx.defs.get_schema(node.op_type, version, domain)
        except onnx.defs.SchemaError as error:
            raise ModelError(
                f"{path}: node {node.name or '(unnamed)'!r} is a {node.op_type!r}, "
                f"which opset {version} of {domain or 'ai.onnx'!r} doesn't have.",
                hint="Export the model again with a newer opset, or name its custom-op library.",
            ) from error
        ends = ((node.input, schema.min_input, "inputs"), (node.output, schema.min_output, "outputs"))
        for names, least, kind in ends:
            if len(names) < least:
                raise ModelError(
                    f"{path}: node {label_of(node)!r} has {len(names)} {kind}, and a {node.op_type} {least} at least.",
                    hint=_COMPLETE,
                )


def custom_domains(facts: OnnxFacts) -> tuple[str, ...]:
    """Return the operator domains that no runtime knows without a library of the user's."""
    return tuple(d for d in facts.domains if d not in STANDARD_DOMAINS | RUNTIME_DOMAINS)


def _nodes(graph: Any) -> Iterator[Any]:
    for each in graphs_of(graph):
        yield from each.node


def _tensors(model: Any) -> Iterator[Any]:
    """Yield every stored tensor: weights, and constants inside nodes."""
    for graph in graphs_of(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    nodes = [*_nodes(model.graph), *(node for function in model.functions for node in function.node)]
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (part for part in (sparse.values, sparse.indices) if part.data_type)


def read_facts(model: Any) -> OnnxFacts:
    """Return what is in a loaded model; raises ``ModelError`` where its inputs or outputs are nothing to build for."""
    with _reading("The model"):
        return _facts(model)


def _facts(model: Any) -> OnnxFacts:
    from collections import Counter

    initializers = {tensor.name for tensor in model.graph.initializer}
    counts = Counter(node.op_type for node in _nodes(model.graph))
    tensors = list(_tensors(model))
    return OnnxFacts(
        inputs=tuple(_spec(value) for value in model.graph.input if value.name not in initializers),
        outputs=tuple(_spec(value) for value in model.graph.output),
        opset=max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=0),
        parameters=sum(math.prod(tensor.dims) for tensor in tensors),
        weight_bytes=sum(external_data.bytes_of(tensor) or 0 for tensor in tensors),
        ops=tuple(sorted(counts.items())),
        domains=tuple(sorted({node.domain for node in _nodes(model.graph)})),
        control_flow=bool({"If", "Loop", "Scan"} & set(counts)),
        macs=count_macs(model),
    )


def count_macs(model: Any) -> int | None:
    """Return the multiply-accumulates of the Conv, Gemm and MatMul nodes, or None where shapes are unknown."""
    shapes = _known_shapes(model)
    total = 0
    for node in _nodes(model.graph):
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            continue
        out, weight = shapes.get(node.output[0]), shapes.get(node.input[1])
        if out is None or weight is None:
            return None
        if node.op_type == "Conv":
            total += math.prod(out) * math.prod(weight[1:])
        else:
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            inner = weight[-1] if transposed else weight[-2] if len(weight) > 1 else weight[0]
            total += math.prod(out) * inner
    return total


def _known_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if node.op_type == "Constant" and a.name == "value"), None)
        if value is not None:
            shapes[node.output[0]] = tuple(value.dims)
    for typed in [*model.graph.value_info, *model.graph.output, *model.graph.input]:
        tensor = typed.type.tensor_type
        dims = tensor.shape.dim
        # A tensor without a shape has an unknown rank; only one with an empty shape is a scalar.
        if tensor.HasField("shape") and all(d.dim_value > 0 for d in dims):
            shapes.setdefault(typed.name, tuple(d.dim_value for d in dims))
    return shapes


def _spec(value: Any) -> TensorSpec:
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(
            f"{value.name!r} is a {kind or 'value of unknown type'}, not a tensor.",
            hint="edgebuild builds models whose inputs and outputs are tensors.",
        )
    tensor = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except (KeyError, ValueError) as error:
        raise ModelError(f"{value.name!r} has an element type that ONNX doesn't define.") from error
    if dtype not in TensorSpec.model_fields["dtype"].annotation.__args__:  # type: ignore[union-attr]
        raise ModelError(f"{value.name!r} has the element type {dtype}, which edgebuild can't feed.")
    return TensorSpec(
        name=value.name, shape=tuple(_dimension(d, i) for i, d in enumerate(tensor.shape.dim)), dtype=dtype
    )


def _dimension(dim: Any, index: int) -> int | str:
    if dim.dim_value > 0:  # some exporters write 0 or -1 for "any"
        return int(dim.dim_value)
    return str(dim.dim_param) or f"axis{index}"


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


def simplify(model: Any, *, library: Path | None = None) -> Any:
    """Return the model with constants folded, batch normalisation merged and shapes inferred, in standard operators.

    onnxruntime's *basic* optimisations do it: they keep the meaning, know no instruction set, and, unlike pure
    rewriters, follow shapes through padding and control flow. A model that crashes the optimiser is returned without.
    Raises ``ModelError`` naming what onnxruntime refuses.
    """
    return _rewritten(model, "infer", library)


def _rewritten(model: Any, infer: str, library: Path | None) -> Any:
    from edgebuild.models.onnx_child import Refused, run_apart

    try:
        simplified = run_apart(model, "simplify", infer, library=library) or run_apart(model, infer)
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
        raise ModelError("The model crashes onnx's shape inference.", hint=_COMPLETE)
    used = {node.domain for node in _nodes(simplified.graph)} | {f.domain for f in simplified.functions}
    kept = [entry for entry in simplified.opset_import if entry.domain in used | {""}]
    del simplified.opset_import[:]
    simplified.opset_import.extend(kept)
    return simplified


def first_line(said: object) -> str:
    """Return what onnxruntime says, without its codes and without the scratch file that it read."""
    import re

    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed: ?", "", lines[0] if lines else "")
    return text[:300] or type(said).__name__


def _constant_tensor(constant: ConstantInput) -> Any:
    import onnx

    from edgebuild.models.host_session import constant_array

    return onnx.numpy_helper.from_array(constant_array(constant), constant.name)


def _refuse_other_shape(value: Any, shape: tuple[int | str, ...]) -> None:
    """A size that contradicts the graph's own would only be noticed when some operator runs, or never."""
    if not value.type.tensor_type.HasField("shape"):
        return
    own = tuple(_dimension(d, i) for i, d in enumerate(value.type.tensor_type.shape.dim))
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
