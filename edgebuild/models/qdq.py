"""Explicit Q/DQ in an ONNX file: which tensors are quantised, and variants of the file that show or take their codes.

A *quantised tensor* is what a QuantizeLinear of the main graph makes of something that isn't a constant. A *segment* is
what lies between quantised tensors: it reads codes, computes in float, and writes the codes of one quantised tensor or
an output of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.models.onnx_graphs import Names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

#: Operators that move values without changing them: a tensor behind them has the scale of the one before.
MOVING = frozenset({"Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Gather", "Slice"})
#: Operators whose accumulation int8 kernels do in integers.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
EIGHT_BITS = (np.dtype("uint8"), np.dtype("int8"))


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """One quantised tensor: the name of its codes, and the constant parameters of its QuantizeLinear ``node``."""

    codes: str
    node: int
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the codes."""
        return np.dtype(self.zero_point.dtype)

    def shaped(self, parameter: NDArray[Any], rank: int) -> NDArray[Any]:
        """Return scale or zero point so that it broadcasts over a tensor of ``rank``."""
        if parameter.size == 1:
            return parameter.reshape(())
        return parameter.reshape([-1 if axis == self.axis % rank else 1 for axis in range(rank)])

    def exact_codes_of(self, reals: NDArray[Any]) -> NDArray[np.float64]:
        """Return what these reals are on the scale of the codes, before they are rounded and clipped."""
        zero, scale = (self.shaped(p, reals.ndim) for p in (self.zero_point, self.scale))
        exact: NDArray[np.float64] = np.asarray(reals, dtype=np.float64) / scale + zero
        return exact

    def codes_of(self, reals: NDArray[Any]) -> NDArray[Any]:
        """Return the codes that stand for these reals, clipped to the type."""
        zero, scale = (self.shaped(p, reals.ndim) for p in (self.zero_point, self.scale))
        limits = np.iinfo(self.dtype)
        codes = np.rint(np.asarray(reals, dtype=np.float64) / scale) + zero
        clipped: NDArray[Any] = np.clip(np.nan_to_num(codes), limits.min, limits.max).astype(self.dtype)
        return clipped


@dataclass(eq=False)
class QdqGraph:
    """A model with Q/DQ, its wiring indexed. The model is never changed; variants are copies."""

    model: Any
    producer: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, node in enumerate(self.nodes):
            for name in node.output:
                self.producer[name] = index

    @property
    def nodes(self) -> Any:
        """The top-level nodes, in topological order."""
        return self.model.graph.node

    @cached_property
    def quantised(self) -> dict[str, Quantised]:
        """Every quantised tensor with constant 8-bit parameters, by the name of its codes, in topological order."""
        found = {}
        for index, node in enumerate(self.nodes):
            if node.op_type != "QuantizeLinear" or self.constant(node.input[0]) is not None:
                continue
            scale = self.constant(node.input[1])
            zero = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            if scale is None or (zero is None and len(node.input) > 2 and node.input[2]):
                continue
            zero = np.zeros(scale.shape, np.uint8) if zero is None else zero
            if zero.dtype in EIGHT_BITS:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                name = node.output[0]
                found[name] = Quantised(
                    codes=name, node=index, scale=scale.astype(np.float32), zero_point=zero, axis=axis
                )
        return found

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return an initialiser or what a Constant node holds; else None."""
        import onnx

        if name in self._initialisers:
            array: NDArray[Any] = onnx.numpy_helper.to_array(self._initialisers[name])
            return array
        node = self.nodes[self.producer[name]] if name in self.producer else None
        if node is not None and node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            return None if value is None else onnx.numpy_helper.to_array(value)
        return None

    def weight(self, name: str) -> tuple[NDArray[Any], NDArray[np.float32], int] | None:
        """Return codes, scale and axis of a constant that is stored, or kept by a Q/DQ pair, in 8 bits without zero
        point; else None.
        """
        node = self.nodes[self.producer[name]] if name in self.producer else None
        if node is None or node.op_type != "DequantizeLinear":
            return None
        scale = self.constant(node.input[1])
        zero = self.constant(node.input[2]) if len(node.input) > 2 else None
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        codes = self.constant(node.input[0])
        if codes is None and node.input[0] in self.producer and scale is not None:
            before = self.nodes[self.producer[node.input[0]]]
            real = self.constant(before.input[0]) if before.op_type == "QuantizeLinear" else None
            if real is not None and zero is not None:
                stored = Quantised(codes=name, node=-1, scale=scale, zero_point=zero, axis=axis)
                codes = stored.codes_of(real)
        if codes is None or scale is None or codes.dtype != np.int8 or (zero is not None and np.any(zero)):
            return None
        return codes, scale.astype(np.float32), axis

    @cached_property
    def _initialisers(self) -> dict[str, Any]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    def sources(self, name: str, stop: frozenset[str] | None = None) -> set[str]:
        """Return the quantised tensors from which ``name`` is computed with none of ``stop`` (all) in between."""
        cut = frozenset(self.quantised) if stop is None else stop
        found: set[str] = set()
        for tensor in self._behind(name, cut):
            if tensor in cut:
                found.add(tensor)
        return found

    def segment(self, name: str, stop: frozenset[str] | None = None) -> list[int]:
        """Return the nodes between ``stop`` (all quantised tensors) and ``name``, in topological order.

        For the codes of a quantised tensor this is the segment that ends with its QuantizeLinear.
        """
        cut = frozenset(self.quantised) if stop is None else stop
        first = self.producer.get(name)
        if first is None:
            return []
        found = {first}
        for source in _reads(self.nodes[first]):
            for tensor in self._behind(source, cut):
                if tensor in self.producer and tensor not in cut:
                    found.add(self.producer[tensor])
        return sorted(found)

    def _behind(self, name: str, cut: frozenset[str]) -> Iterable[str]:
        """Every tensor that ``name`` is computed from, itself included; what is in ``cut`` isn't looked behind."""
        seen: set[str] = set()
        todo = [name]
        while todo:
            tensor = todo.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            if tensor not in cut and tensor in self.producer:
                todo.extend(_reads(self.nodes[self.producer[tensor]]))
        return seen

    def direct_step(self, output: str) -> NDArray[np.float32] | None:
        """Return the scale of an output that is itself a dequantised tensor, moved about at most; else None."""
        name = output
        while name in self.producer:
            node = self.nodes[self.producer[name]]
            if node.op_type == "DequantizeLinear" and node.input[0] in self.quantised:
                scale = self.quantised[node.input[0]].scale
                return scale.reshape(()) if scale.size == 1 else None
            if node.op_type not in MOVING:
                return None
            name = node.input[0]
        return None

    @cached_property
    def seen(self) -> dict[str, str]:
        """The quantised tensors that an output of the graph shows as they are: codes to output."""
        outputs = {value.name for value in self.model.graph.output}
        return {
            node.input[0]: node.output[0]
            for node in self.nodes
            if node.op_type == "DequantizeLinear" and node.output[0] in outputs and node.input[0] in self.quantised
        }

    @cached_property
    def shown(self) -> dict[str, str]:
        """What shows each quantised tensor as reals, by the name of its codes; the same for every copy of the file."""
        return self._called("{} shown")

    @cached_property
    def given(self) -> dict[str, str]:
        """What each tensor is called where it comes from outside."""
        return self._called("{} given")

    @cached_property
    def nudge(self) -> dict[str, str]:
        """What is added to each quantised tensor before it is rounded, by the name of its codes."""
        return self._called("{} nudge")

    def _called(self, form: str) -> dict[str, str]:
        names = Names(self.model)
        return {name: names.value(form.format(name)) for name in self.producer if name}

    def names(self) -> Names:
        """Return names that neither the model has nor one of these is."""
        names = Names(self.model)
        for name in (*self.shown.values(), *self.given.values(), *self.nudge.values()):
            names.value(name)
        return names

    def shown_as(self, name: str) -> str:
        """Return the tensor that shows what these codes stand for: an output of the graph, else one to be added."""
        return self.seen.get(name, self.shown[name])

    def layer(self, name: str, stop: frozenset[str] | None = None) -> int | None:
        """Return the node that a segment is named after: its last weighted one, else its last that computes."""
        nodes = [i for i in self.segment(name, stop) if self.nodes[i].op_type not in _NO_LAYER]
        weighted = [i for i in nodes if self.nodes[i].op_type in WEIGHTED]
        found = weighted or nodes
        return found[-1] if found else None

    def node_name(self, index: int) -> str:
        """A name for people: the node's own, else the operator and what it writes."""
        node = self.nodes[index]
        return str(node.name or f"{node.op_type} of {node.output[0]}")


_NO_LAYER = MOVING | {"QuantizeLinear", "DequantizeLinear", "Constant", "Shape", "Cast", "Concat"}


def _reads(node: Any) -> list[str]:
    """What a node reads, its subgraphs included."""
    names = [name for name in node.input if name]
    for item in node.attribute:
        for graph in [item.g] if item.HasField("g") else item.graphs:
            for inner in graph.node:
                names.extend(_reads(inner))
    return names


def copy_of(model: Any) -> Any:
    """Return a model of the caller's own."""
    made = type(model)()
    made.CopyFrom(model)
    return made


def with_codes(graph: QdqGraph, codes: Iterable[str]) -> Any:
    """Return the model with these codes as outputs in addition to its own."""
    from onnx import helper

    model = copy_of(graph.model)
    have = {value.name for value in model.graph.output}
    for name in codes:
        if name not in have:
            model.graph.output.append(helper.make_tensor_value_info(name, _element(graph.quantised[name]), None))
    return model


def with_shown(graph: QdqGraph, shapes: Mapping[str, tuple[int | str, ...]]) -> Any:
    """Return the model with the reals of these quantised tensors as further outputs.

    Each is made by a DequantizeLinear of its own: what the runtime fuses keeps the readers that it had. One that an
    output shows already is left alone: with a second reader ONNX Runtime doesn't fuse the layer before it.
    """
    from onnx import TensorProto, helper

    model = copy_of(graph.model)
    names = Names(model)
    for name, shape in shapes.items():
        quantise = graph.nodes[graph.quantised[name].node]
        shown = graph.shown[name]
        node = helper.make_node("DequantizeLinear", [name, *quantise.input[1:]], [shown], name=names.node(shown))
        node.domain = quantise.domain
        node.attribute.extend(a for a in quantise.attribute if a.name == "axis")
        model.graph.node.append(node)
        model.graph.output.append(helper.make_tensor_value_info(shown, TensorProto.FLOAT, shape))
    return model


def with_nudges(graph: QdqGraph, codes: Iterable[str]) -> Any:
    """Return the model with a float input ``graph.nudge`` per quantised tensor, added to it before it is rounded."""
    from onnx import TensorProto, helper

    model = copy_of(graph.model)
    wanted = {graph.quantised[name].node: name for name in codes}
    names = graph.names()
    nodes = []
    for index, node in enumerate(model.graph.node):
        if index in wanted:
            nudge, added = graph.nudge[wanted[index]], names.value(f"{node.input[0]} nudged")
            nodes.append(helper.make_node("Add", [node.input[0], nudge], [added]))
            node.input[0] = added
            model.graph.input.append(helper.make_tensor_value_info(nudge, TensorProto.FLOAT, None))
        nodes.append(node)
    _set_nodes(model, nodes)
    return model


def tail(graph: QdqGraph, outputs: Iterable[str]) -> Any:
    """Return what lies behind the last quantised tensors before these outputs, whose codes are given: see ``given``."""
    wanted = [name for name in outputs if name in graph.producer]
    last = sorted(set().union(*(graph.sources(name) for name in wanted)))
    model = with_given(graph, last)
    needed = sorted(set().union(*(graph.segment(name) for name in wanted)))
    _set_nodes(model, [model.graph.node[index] for index in needed])
    kept = [type(v).FromString(v.SerializeToString()) for v in model.graph.output if v.name in set(wanted)]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


def _set_nodes(model: Any, nodes: list[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def with_given(graph: QdqGraph, codes: Iterable[str], *, replace: Iterable[str] = (), reals: Iterable[str] = ()) -> Any:
    """Return the model computing every segment from codes that are given, each next codes an output.

    ``codes`` become inputs named ``graph.given``; ``replace`` are float tensors that become inputs in the same way, in
    place of what makes them. Beside the graph's outputs, the codes that the segments compute are outputs, and
    ``reals``, float tensors that nodes make.
    """
    from onnx import TensorProto, helper

    wanted = list(codes)
    model = with_codes(graph, wanted)
    renamed = {name: graph.given[name] for name in (*wanted, *replace)}
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if name in renamed:
                node.input[slot] = renamed[name]
    for name in wanted:
        model.graph.input.append(helper.make_tensor_value_info(renamed[name], _element(graph.quantised[name]), None))
    for name in replace:
        model.graph.input.append(helper.make_tensor_value_info(renamed[name], TensorProto.FLOAT, None))
    have = {value.name for value in model.graph.output}
    for name in dict.fromkeys(reals):
        if name in graph.producer and name not in have:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model


def _element(quantised: Quantised) -> int:
    from onnx import TensorProto

    return int(TensorProto.UINT8 if quantised.dtype == np.uint8 else TensorProto.INT8)


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the static shapes that ONNX's inference finds; a tensor with a free axis is left out."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    found = {}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            found[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return found
