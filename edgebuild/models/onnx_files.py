"""ONNX files as they come from the world: read them safely, say what is in them."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.errors import EdgebuildError, EnvironmentGap, ModelError
from edgebuild.models import external_data
from edgebuild.models.onnx_graphs import fault_of, graphs_of, label_of, tidy
from edgebuild.models.onnx_specs import COMPLETE, output_specs, spec_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from edgebuild.core.artifact import TensorSpec

#: Operators that int8 kernels exist for.
QUANTISABLE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Those whose weights dynamic int8 takes.
DENSE = frozenset({"Gather", "Gemm", "LSTM", "MatMul"})
#: Operators of a model that someone quantised, besides those named QLinear…: ONNX's, and onnxruntime's own.
QUANTISED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
    | {"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "QEmbedLayerNormalization", "GatherBlockQuantized"}
    | {"MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QGemm", "QMoE"}
)
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
    #: Convolutions and matrix products that are float32 once frozen, and so can be quantised.
    quantisable: int = 0
    #: Bytes in the file of the float weights of matrix products, LSTMs and tables.
    dense_bytes: int = 0
    #: Inputs whose shape the file doesn't say; theirs is empty here.
    unranked: tuple[str, ...] = ()
    #: What is to be said of the numbers that the model is stored in.
    notes: tuple[str, ...] = ()


def load_onnx(path: Path) -> Any:
    """Return a model that someone wrote, checked, in today's form (``tidy``), with external data inside.

    Runs no native code but protobuf's on it. Raises ``ModelError`` naming what is wrong with the file, whatever that
    is: no exception of another library passes.
    """
    _require_onnx()
    with _reading(path):
        model = _parsed(path)
        if not model.graph.node:
            raise ModelError(f"{path} holds no operators.", hint=COMPLETE)
        tensors = list(_tensors(model))
        external_data.take_in(tensors, path)
        _check_tensors(tensors, path)
        _check_versions(model, path)
        _check_operators(model, path)
        _make_dense(model.graph, path)
        fault = fault_of(tidy(model))
        if fault is not None:
            raise ModelError(
                f"{path} is no sound graph: {fault}.",
                hint="onnx.checker.check_model says more. Export the model again, or mend what changed it.",
            )
    return model


def import_inputs(path: Path) -> dict[str, Path]:
    """Return what ``ImportOnnx`` reads of a model: its file, and its external data, each under a name of its own."""
    return {"model": path, **{f"external-{i}": file for i, file in enumerate(external_files(path))}}


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


#: Sparse weights are made dense up to here: a gigabyte in float32.
MOST_DENSE_ELEMENTS = 1 << 28


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
        raise ModelError(f"{what} is too large for this machine's memory.", hint=COMPLETE) from error
    except Exception as error:  # onnx, protobuf and pydantic share no root, and a damaged file reaches all of them
        raise ModelError(f"{what} can't be read as ONNX: {first_line(error)}", hint=COMPLETE) from error


def _parsed(path: Path) -> Any:
    import onnx

    if not path.is_file():
        wrong = "is no regular file" if path.exists() else "no such model file"
        raise ModelError(f"{path}: {wrong}.", hint="Check the path, or [model].onnx in edgebuild.toml.")
    if path.stat().st_size > external_data.LARGEST_BYTES:
        raise ModelError(f"{path} is larger than the 2 GB that an ONNX file can have.", hint=external_data.SMALLER)
    return onnx.load(str(path), format="protobuf", load_external_data=False)


def _check_tensors(tensors: Iterable[Any], path: Path) -> None:
    """Refuse tensors that hold more or less than their shape says, before anything is computed with them."""
    for tensor in tensors:
        if not _holds_what_it_says(tensor):
            raise ModelError(
                f"{path}: the tensor {tensor.name!r} doesn't hold what its type and its shape {list(tensor.dims)} say.",
                hint=COMPLETE,
            )


def _holds_what_it_says(tensor: Any) -> bool:
    import onnx

    if any(size < 0 for size in tensor.dims):
        return False
    try:
        if tensor.HasField("raw_data"):
            return external_data.bytes_of(tensor) == len(tensor.raw_data)
        return bool(math.prod(tensor.dims) == onnx.numpy_helper.to_array(tensor).size)
    except (KeyError, ValueError, TypeError):  # a type that ONNX doesn't define, numbers that make no such shape
        return False


def _check_versions(model: Any, path: Path) -> None:
    import onnx

    known = onnx.defs.onnx_opset_version()
    opset = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=known)
    if opset > known or model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{path} is newer than what is installed here: opset {opset}, IR version {model.ir_version}; "
            f"onnx {onnx.__version__} knows them up to {known} and {onnx.IR_VERSION}.",
            hint="Export it with an older opset, or upgrade onnx and onnxruntime.",
        )


def _make_dense(graph: Any, path: Path) -> None:
    """Put sparse weights, which few runtimes and no shape inference know, among the others."""
    import numpy as np
    import onnx

    elements = 0
    for sparse in graph.sparse_initializer:
        elements += math.prod(sparse.dims)
        if elements > MOST_DENSE_ELEMENTS:
            raise ModelError(
                f"{path}: its sparse tensors, up to {sparse.values.name!r}, are too large to be stored densely.",
                hint="Export the model with dense weights.",
            )
        values, indices = (onnx.numpy_helper.to_array(part) for part in (sparse.values, sparse.indices))
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        places = (indices,) if indices.ndim == 1 else (np.ravel_multi_index(tuple(indices.T), dense.shape),)
        dense.reshape(-1)[places] = values
        graph.initializer.append(onnx.numpy_helper.from_array(dense, sparse.values.name))
    del graph.sparse_initializer[:]


def _check_operators(model: Any, path: Path) -> None:
    import onnx

    opsets = {entry.domain: entry.version for entry in model.opset_import}
    functions = {(function.domain, function.name) for function in model.functions}
    for node in nodes_of(model.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in STANDARD_DOMAINS or (node.domain, node.op_type) in functions:
            continue
        version = opsets.get(domain, opsets.get("ai.onnx", 1))
        try:
            schema = onnx.defs.get_schema(node.op_type, version, domain)
        except (onnx.defs.SchemaError, TypeError) as error:  # a TypeError for a version beyond 32 bits
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
                    hint=COMPLETE,
                )


def custom_domains(facts: OnnxFacts) -> tuple[str, ...]:
    """Return the operator domains that no runtime knows without a library of the user's."""
    return tuple(d for d in facts.domains if d not in STANDARD_DOMAINS | RUNTIME_DOMAINS)


def nodes_of(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the bodies of its control flow."""
    for each in graphs_of(graph):
        yield from each.node


def _tensors(model: Any) -> Iterator[Any]:
    """Yield every stored tensor: weights, and constants inside nodes."""
    for graph in graphs_of(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    nodes = [*nodes_of(model.graph), *(node for function in model.functions for node in function.node)]
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
    nodes, tensors = list(nodes_of(model.graph)), list(_tensors(model))
    counts = Counter(node.op_type for node in nodes)
    makers = {name: node for node in nodes for name in node.output}
    kinds = {tensor.name: tensor.data_type for graph in graphs_of(model.graph) for tensor in graph.initializer}
    kinds |= {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    return OnnxFacts(
        inputs=tuple(spec_of(value) for value in model.graph.input if value.name not in initializers),
        outputs=output_specs(model.graph),
        opset=max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=0),
        parameters=sum(math.prod(tensor.dims) for tensor in tensors),
        weight_bytes=sum(external_data.bytes_of(tensor) or 0 for tensor in tensors),
        ops=tuple(sorted(counts.items())),
        domains=tuple(sorted({node.domain for node in nodes})),
        control_flow=bool({"If", "Loop", "Scan"} & set(counts)),
        macs=count_macs(model),
        quantisable=sum(_is_float(node, makers, kinds) for node in nodes if node.op_type in QUANTISABLE),
        dense_bytes=_dense_bytes(nodes, tensors),
        unranked=tuple(v.name for v in model.graph.input if not v.type.tensor_type.HasField("shape")),
        notes=(*_quantised_note(counts), *_half_note(tensors)),
    )


def _dense_bytes(nodes: Iterable[Any], tensors: Iterable[Any]) -> int:
    """Return the bytes of the float matrices that products, LSTMs and look-ups read; a bias is none."""
    read, kinds = {name for node in nodes if node.op_type in DENSE for name in node.input}, _float_kinds()
    found = (t for t in tensors if t.name in read and t.data_type in kinds and len(t.dims) > 1)
    return sum(external_data.bytes_of(tensor) or 0 for tensor in found)


def _float_kinds() -> frozenset[int]:
    """Return ONNX's numbers of the types that are float32 once the model is frozen: see ``widening``."""
    import onnx

    return frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16})


def _quantised_note(counts: Mapping[str, int]) -> tuple[str, ...]:
    found = [f"{count} {op}" for op, count in sorted(counts.items()) if op in QUANTISED or op.startswith("QLinear")]
    if not found:
        return ()
    return (f"the model is quantised already ({', '.join(found)}): that part stays as it is, only float is quantised",)


def _half_note(tensors: Iterable[Any]) -> tuple[str, ...]:
    import onnx

    said = {
        "FLOAT16": "widened to float32 when it is frozen, where that keeps its outputs",
        "BFLOAT16": "layers that compute in it aren't quantised",
    }
    sizes = dict.fromkeys(said, 0)
    for tensor in tensors:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        if name in sizes:
            sizes[name] += math.prod(tensor.dims)
    return tuple(
        f"{size:,} of the model's weights are {name.lower()}: {said[name]}" for name, size in sizes.items() if size
    )


def _is_float(node: Any, makers: Mapping[str, Any], kinds: Mapping[str, int]) -> bool:
    """Whether a layer is float32 once frozen, as far as what it reads tells: no constant of another type, no codes."""
    made = [makers[name] for name in node.input[:2] if name in makers]
    kept = {kinds[name] for name in node.input[:2] if name in kinds}
    return kept <= _float_kinds() and not any(each.op_type == "DequantizeLinear" for each in made)


def count_macs(model: Any) -> int | None:
    """Return the MACs of the Conv, Gemm and MatMul nodes, or None where shapes are unknown."""
    shapes = _known_shapes(model)
    total = 0
    for node in nodes_of(model.graph):
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


def first_line(said: object) -> str:
    """Return what onnxruntime says, without its codes, the place in its source, and the scratch file that it read."""
    import re

    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed: ?", "", lines[0] if lines else "")
    text = re.sub(r"^/\S+:\d+ .*?\) (?=[A-Z])", "", text)
    return text[:300] or type(said).__name__
