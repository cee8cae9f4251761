"""A model's main graph while it is rewired: who makes and who reads each tensor, and what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.models.onnx_graphs import Names, bodies_of, reads_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: The domains of ONNX's own operators.
OWN_DOMAINS = frozenset({"", "ai.onnx"})
#: The attributes of a Constant node that hold plain numbers.
CONSTANT_KINDS: dict[str, type[np.number[Any]]] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


class Wiring:
    """A copy of a model. The bodies of control flow are read, never changed.

    ``fixed`` are the tensors that keep their names and values: outputs of the graph, and what bodies read.
    ``shapes`` holds the shapes that are known, with None for an axis that isn't, and ``types`` element types.
    """

    def __init__(self, model: Any) -> None:
        self.model = type(model)()
        self.model.CopyFrom(model)
        graph = self.model.graph
        self.nodes: list[Any] = list(graph.node)
        self.fixed = {value.name for value in graph.output}
        self.makers: dict[str, Any] = {}
        self._readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            self.makers.update((name, node) for name in node.output if name)
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
            if any(True for _ in bodies_of(node)):
                self.fixed.update(reads_of(node))
        self._names = Names(self.model)
        self._removed: set[int] = set()
        self._read_types()

    def _read_types(self) -> None:
        graph = self.model.graph
        given = {value.name for value in graph.input}
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        self.types: dict[str, int] = {}
        # A stored tensor that is an input as well may be overridden: its value is no constant.
        self._stored = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in given}
        for tensor in graph.initializer:
            self.shapes[tensor.name], self.types[tensor.name] = tuple(tensor.dims), tensor.data_type
        for value in (*graph.input, *graph.value_info, *graph.output):
            typed = value.type.tensor_type
            self.types[value.name] = typed.elem_type
            if typed.HasField("shape"):
                dims = typed.shape.dim
                self.shapes[value.name] = tuple(d.dim_value if d.dim_value > 0 else None for d in dims)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators; 0 where the model doesn't say one."""
        return max((int(o.version) for o in self.model.opset_import if o.domain in OWN_DOMAINS), default=0)

    def static_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor that has axes, all of known sizes; else nothing."""
        shape = self.shapes.get(name, ())
        return tuple(size for size in shape if size is not None) if None not in shape else ()

    def standing(self) -> Iterator[Any]:
        """Yield the nodes that are left, in their order."""
        yield from (node for node in self.nodes if id(node) not in self._removed)

    def array(self, name: str) -> NDArray[Any] | None:
        """Return the value of a constant: a stored tensor that is no input, or a Constant node's."""
        import onnx

        value: Any = self._stored.get(name)
        maker, kind = self.makers.get(name), ""
        if maker is not None and maker.op_type == "Constant" and maker.domain in OWN_DOMAINS and maker.attribute:
            kind = maker.attribute[0].name
            value = onnx.helper.get_attribute_value(maker.attribute[0])
        if isinstance(value, onnx.TensorProto):
            return np.asarray(onnx.numpy_helper.to_array(value))
        return np.array(value, CONSTANT_KINDS[kind]) if kind in CONSTANT_KINDS else None

    def readers(self, name: str) -> tuple[Any, ...]:
        """Return the nodes that read a tensor, one for each time that they do."""
        return tuple(self._readers.get(name, ()))

    def only_reader(self, name: str) -> Any | None:
        """Return the one node that reads a tensor, if one does, once, and nothing else sees the tensor."""
        found = self.readers(name)
        return found[0] if len(found) == 1 and name not in self.fixed else None

    def one_output(self, node: Any) -> bool:
        """Whether nothing sees more of a node than its first output."""
        return not any(self._readers.get(name) or name in self.fixed for name in node.output[1:] if name)

    def add_constant(self, wanted: str, values: NDArray[Any]) -> str:
        """Store a float32 tensor under ``wanted`` or a name like it, and return the name."""
        import onnx

        tensor = onnx.numpy_helper.from_array(np.asarray(values, np.float32), self._names.value(wanted))
        self.model.graph.initializer.append(tensor)
        self._stored[tensor.name] = self.model.graph.initializer[-1]
        self.shapes[tensor.name], self.types[tensor.name] = tuple(tensor.dims), tensor.data_type
        return str(tensor.name)

    def read(self, node: Any, names: list[str]) -> None:
        """Let a node read these tensors in place of those that it reads."""
        before = list(node.input)
        node.input[:] = names
        for name in names:
            self._readers.setdefault(name, []).append(node)
        for name in before:
            self._forget(name, node)

    def splice(self, node: Any, source: str) -> bool:
        """Take out a node of one output that equals ``source``; return whether that could be done."""
        output = node.output[0]
        if output not in self.fixed:
            self._removed.add(id(node))
            for reader in {id(each): each for each in self.readers(output)}.values():
                self.read(reader, [source if name == output else name for name in reader.input])
            self._remove(node)
            return True
        maker = self.makers.get(source)
        if maker is None or self.only_reader(source) is not node:
            return False
        maker.output[list(maker.output).index(source)] = output
        self.makers[output] = self.makers.pop(source)
        self._remove(node)
        return True

    def _remove(self, node: Any) -> None:
        self._removed.add(id(node))
        for name in node.input:
            self._forget(name, node)

    def _forget(self, name: str, node: Any) -> None:
        """One reading less; what made the tensor goes too where nothing reads any of its outputs any more."""
        left = self._readers[name]
        del left[next(index for index, each in enumerate(left) if each is node)]
        maker = self.makers.get(name)
        if maker is None or id(maker) in self._removed:
            return
        if not any(self._readers.get(each) or each in self.fixed for each in maker.output):
            self._remove(maker)

    def finished(self) -> Any:
        """Return the model with what is left: nodes, the constants that they read, and what is known of tensors."""
        graph = self.model.graph
        left = list(self.standing())
        made = {name for node in left for name in node.output}
        read = {name for node in left for name in reads_of(node)} | self.fixed | {v.name for v in graph.input}
        _drop(graph.node, [id(node) in self._removed for node in self.nodes])
        _drop(graph.initializer, [tensor.name not in read for tensor in graph.initializer])
        _drop(graph.value_info, [value.name not in made for value in graph.value_info])
        return self.model


def _drop(field: Any, gone: list[bool]) -> None:
    for index in reversed(range(len(gone))):
        if gone[index]:
            del field[index]
