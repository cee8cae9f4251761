"""An ONNX model with its wiring indexed. Subgraphs (If, Loop, Scan) are looked at, never changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgebuild.errors import ModelError
from edgebuild.models.freezing import simplify
from edgebuild.models.onnx_graphs import Names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

#: DequantizeLinear has an axis from here on.
LOWEST_OPSET = 13


@dataclass(eq=False)
class Graph:
    """The model and who makes and takes each tensor. ``names`` holds a unique name for every node, in order."""

    model: Any
    producer: dict[str, int] = field(default_factory=dict)
    consumers: dict[str, list[int]] = field(default_factory=dict)
    captured: set[str] = field(default_factory=set)
    constants: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, node in enumerate(self.nodes):
            for name in node.output:
                self.producer[name] = index
            for name in node.input:
                self.consumers.setdefault(name, []).append(index)
            self.captured.update(captured_names(node))
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}

    @property
    def nodes(self) -> Any:
        """The top-level nodes, in topological order."""
        return self.model.graph.node

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The names of the graph's outputs, and of what subgraphs read: tensors that keep their own value."""
        return frozenset({value.name for value in self.model.graph.output} | self.captured)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for every node: its own where it has one that is unique."""
        names = Names(self.model)
        given: dict[str, None] = {}
        for index, node in enumerate(self.nodes):
            first = bool(node.name) and node.name not in given
            given[node.name if first else names.node(node.name or f"{node.op_type}_{index}")] = None
        return tuple(given)

    @cached_property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Every known shape; ``None`` for an axis that isn't fixed."""
        graph = self.model.graph
        shapes: dict[str, tuple[int | None, ...]] = {name: tuple(t.dims) for name, t in self.constants.items()}
        for value in [*graph.input, *graph.value_info, *graph.output]:
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
        return shapes

    @cached_property
    def float_tensors(self) -> frozenset[str]:
        """Names of the tensors known to be float32."""
        graph = self.model.graph
        typed = [*graph.input, *graph.value_info, *graph.output]
        return frozenset(v.name for v in typed if v.type.tensor_type.elem_type == 1)

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return a float32 initialiser as an array, or None."""
        import onnx

        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            return None
        array: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
        return array

    def is_quantised(self, node: Any) -> bool:
        """Whether a node computes between someone else's Q/DQ pairs: it reads what a DequantizeLinear makes."""
        makers = (self.nodes[self.producer[name]].op_type for name in node.input if name in self.producer)
        return "DequantizeLinear" in makers

    def only_consumer(self, name: str) -> int | None:
        """Return the one node that reads ``name``, if exactly one does and nothing else can see the tensor."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def is_kept(name: str, op_type: str, keep_float: Iterable[str]) -> bool:
    """Whether ``keep_float`` names the node, its op type, or a scope that it lies in.

    What the simplifier fuses is named after the first node, so that ``a/MatMul`` also keeps ``a/MatMul/…Fusion``.
    """
    return any(kept in {name, op_type} or name.startswith(f"{kept}/") for kept in keep_float)


def attribute(node: Any, name: str, default: Any) -> Any:
    """Return an attribute of a node as a Python value."""
    import onnx

    for item in node.attribute:
        if item.name == name:
            value = onnx.helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def add_constant(target: Any, name: str, value: Any) -> None:
    """Store an array, or a number without axes, in a graph."""
    import numpy as np
    from onnx import numpy_helper

    target.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))


def prepare(model: Any, *, library: Path | None = None) -> Graph:
    """Return the model with constants folded (Constant nodes too) and batch normalisation merged, shapes inferred.

    Raises ``ModelError`` if the model is older than opset 13 and can't be raised to it.
    """
    return Graph(_split_sums(_name_pooling(_constants_to_initializers(simplify(raised(model), library=library)))))


def raised(model: Any) -> Any:
    """Return the model in an opset that int8 per channel exists in; the model itself where it is new enough.

    Raises ``ModelError`` if it can't be raised.
    """
    from edgebuild.models.onnx_child import Refused, run_apart

    version = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), LOWEST_OPSET)
    if version >= LOWEST_OPSET:
        return model
    why, newer = "its converter crashed", None
    try:
        newer = run_apart(model, "opset-13")
    except Refused as refused:
        why = refused.reason
    if newer is None:
        raise ModelError(
            f"onnx can't raise the model from opset {version} to {LOWEST_OPSET}, which int8 needs: {why}",
            hint=f"Where it can be exported again, opset {LOWEST_OPSET} or newer needs no conversion.",
        )
    return newer


def _name_pooling(model: Any) -> Any:
    """Turn a mean over all spatial axes into GlobalAveragePool, which has an 8-bit kernel where ReduceMean has none."""
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in model.graph.value_info}
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or not attribute(node, "keepdims", 1):
            continue
        axes = _axes(node, constants)
        rank = ranks.get(node.input[0], 0)
        if rank >= 3 and {a % rank for a in axes} == set(range(2, rank)):
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
            del node.input[1:]
    return model


def _split_sums(model: Any) -> Any:
    """Undo what makes one Gemm of a product and a sum with something else than a bias: no integer kernel takes it."""
    from onnx import helper

    names, nodes = Names(model), []
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[1] not in shapes or not _is_plain(node):
            continue
        added, width = node.input[2], shapes[node.input[1]][1]
        if shapes.get(added) not in ([width], [1, width]):
            product = names.value(f"{node.output[0]}_product")
            nodes.append(helper.make_node("Add", [product, added], list(node.output), name=names.node(node.name)))
            node.op_type, node.output[0] = "MatMul", product
            del node.attribute[:], node.input[2:]
    if len(nodes) > len(model.graph.node):
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    return model


def _is_plain(node: Any) -> bool:
    """Whether a Gemm is a product and a sum, and nothing else."""
    factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    return factors == (1.0, 1.0) and not attribute(node, "transA", 0) and not attribute(node, "transB", 0)


def _axes(node: Any, constants: dict[str, Any]) -> list[int]:
    """Return the axes of a ReduceMean: an attribute up to opset 17, an input from then on; empty if not constant."""
    import onnx

    if len(node.input) > 1:
        tensor = constants.get(node.input[1])
        return [] if tensor is None else [int(a) for a in onnx.numpy_helper.to_array(tensor)]
    return list(attribute(node, "axes", []))


def _constants_to_initializers(model: Any) -> Any:
    """Move Constant nodes that the simplifier left behind into initialisers, which are no inputs."""
    kept: list[Any] = []
    for node in model.graph.node:
        tensor = attribute(node, "value", None) if node.op_type == "Constant" else None
        if tensor is None:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        model.graph.initializer.append(tensor)
    names = {tensor.name for tensor in model.graph.initializer}
    # Files up to IR version 3 list their weights among the inputs; without their initialisers they'd be asked for.
    inputs = [value for value in model.graph.input if value.name not in names]
    if len(inputs) < len(model.graph.input):
        kept_inputs = [type(value).FromString(value.SerializeToString()) for value in inputs]
        del model.graph.input[:]
        model.graph.input.extend(kept_inputs)
    if len(kept) < len(model.graph.node):
        copies = [type(node).FromString(node.SerializeToString()) for node in kept]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    return model


def captured_names(node: Any) -> Iterator[str]:
    """Yield the names that the subgraphs of a node read from outside (names of their own may be among them)."""
    for item in node.attribute:
        for graph in [item.g] if item.HasField("g") else item.graphs:
            for inner in graph.node:
                yield from inner.input
                yield from captured_names(inner)
            yield from (value.name for value in graph.output)
