"""A model that is stored and computed in float16, in float32: what every quantiser and every kernel starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.models.onnx_graphs import Names, graphs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Attributes that say in which type an operator answers, or computes.
TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type"})


def widened(model: Any) -> Any | None:
    """Return a copy that computes in float32 wherever ``model`` does in float16; None where it nowhere does.

    Inputs and outputs keep their types, with a Cast at each border, so that callers feed and get what they did.
    """
    import onnx

    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    changed = False
    for root in (wide.graph, *wide.functions):
        for graph in graphs_of(root):
            ends = () if graph is root else (*graph.input, *graph.output)
            changed |= _widen_types((*ends, *graph.value_info))
            changed |= _widen_tensors(getattr(graph, "initializer", ()))  # a function has none
            changed |= _widen_attributes(graph.node)
    changed |= _cast_borders(wide)
    return wide if changed else None


def _widen_tensors(tensors: Iterable[Any]) -> bool:
    from onnx import TensorProto, numpy_helper

    halves = [tensor for tensor in tensors if tensor.data_type == TensorProto.FLOAT16]
    for tensor in halves:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    return bool(halves)


def _widen_types(values: Iterable[Any]) -> bool:
    from onnx import TensorProto

    halves = [value for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT16]
    for value in halves:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return bool(halves)


def _widen_attributes(nodes: Iterable[Any]) -> bool:
    from onnx import TensorProto

    changed = False
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        if attribute.name in TYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
            changed = True
        held = (attribute.t,) if attribute.HasField("t") else ()
        changed |= _widen_tensors((*held, *attribute.tensors))
    return changed


def _cast_borders(model: Any) -> bool:
    """Let the float16 inputs be read, and the float16 outputs be made, through a Cast; return whether there are any."""
    from onnx import TensorProto, helper

    graph, names = model.graph, Names(model)
    read, made = (
        [value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT16]
        for values in (graph.input, graph.output)
    )
    inner = {name: names.value(f"{name}_wide") for name in dict.fromkeys((*read, *made))}
    _rename(graph, inner)

    def cast(source: str, target: str, kind: int) -> Any:
        return helper.make_node("Cast", [source], [target], name=names.node(f"{target}_Cast"), to=kind)

    first = [cast(name, inner[name], TensorProto.FLOAT) for name in read]
    last = [cast(inner[name], name, TensorProto.FLOAT16) for name in made if name not in read]
    nodes = [*first, *(type(node).FromString(node.SerializeToString()) for node in graph.node), *last]
    del graph.node[:]
    graph.node.extend(nodes)
    return bool(inner)


def _rename(graph: Any, new: Mapping[str, str]) -> None:
    """Rename values everywhere but at the graph's own inputs and outputs."""
    for each in graphs_of(graph):
        for node in each.node:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]
        for value in (*each.value_info, *(() if each is graph else each.output)):
            value.name = new.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
