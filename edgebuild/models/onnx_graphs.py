"""ONNX graphs as edgebuild writes them: no two things of one name, and nothing read before it is made.

Every graph of ours leaves through ``save`` or ``serialised``, which check that; ``Names`` makes up names that are free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Set
    from pathlib import Path

#: From here on an initialiser need not be listed among the inputs, and what is listed may be overridden.
LEAST_IR_VERSION = 8


class Names:
    """Names for what is added to a model: never one that the model has, in its subgraphs either, nor one given before.

    The name that is asked for is given as it is while it is free, and with a number behind it otherwise.
    """

    def __init__(self, model: Any) -> None:
        self._values = _Taken(_value_names(model.graph))
        self._nodes = _Taken(node.name for graph in graphs_of(model.graph) for node in graph.node)

    def value(self, wanted: str) -> str:
        """Return a name for a tensor."""
        return self._values.free(wanted)

    def node(self, wanted: str) -> str:
        """Return a name for a node."""
        return self._nodes.free(wanted)


class _Taken:
    """Names that are taken. Remembers where it was with each, so that many of one name take no longer than others."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = set(names)
        self._next: dict[str, int] = {}

    def free(self, wanted: str) -> str:
        name, number = wanted, self._next.get(wanted, 2)
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        self._next[wanted] = number
        return name


def graphs_of(graph: Any) -> Iterator[Any]:
    """Yield a graph and the bodies of its control flow."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from graphs_of(body)


def bodies_of(node: Any) -> Iterator[Any]:
    """Yield the graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _value_names(graph: Any) -> Iterator[str]:
    for each in graphs_of(graph):
        yield from (value.name for value in (*each.input, *each.output, *each.value_info))
        yield from _stored(each)
        for node in each.node:
            yield from (*node.input, *node.output)


def _stored(graph: Any) -> Iterator[str]:
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)


def save(model: Any, path: Path, *, writer: str = "edgebuild") -> None:
    """Write a model in one file; raises as ``serialised`` does."""
    path.write_bytes(serialised(model, writer=writer))


def serialised(model: Any, *, writer: str = "edgebuild") -> bytes:
    """Return the bytes of a model whose names are sound: see ``fault_of``.

    Raises ``ModelError`` naming the fault, and the ``writer`` whose it is, or that the model is too large for one file.
    """
    fault = fault_of(model)
    if fault is not None:
        raise ModelError(
            f"{writer} wrote a graph that means nothing: {fault}.",
            hint=f"That is a fault of {writer}'s, not of the model's: please report it.",
        )
    try:
        content: bytes = model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf's implementations raise different types
        raise ModelError(
            f"The model can't be written as one ONNX file: {error}", hint="Protobuf's limit is 2 GB."
        ) from error
    return content


def settle(path: Path, *, writer: str) -> None:
    """Check a file that another tool wrote, and mend what is only a matter of form; raises as ``serialised`` does."""
    import onnx

    model = onnx.load(str(path))
    if fault_of(model) is not None:
        save(tidy(model), path, writer=writer)


def fault_of(model: Any) -> str | None:
    """Return what is wrong with a model's names, or None.

    Every value has a name of its own, which no subgraph hides, an initialiser is no input, named nodes of one graph
    have different names, and what is read was made before.
    """
    graph = model.graph
    inputs, outputs = [v.name for v in graph.input], [v.name for v in graph.output]
    found = next(_faults([*inputs, *_stored(graph)], graph.node, outputs, frozenset()), None)
    for function in model.functions:
        found = found or next(_faults(function.input, function.node, function.output, frozenset()), None)
    return found


def _faults(given: Iterable[str], nodes: Iterable[Any], outputs: Iterable[str], outer: Set[str]) -> Iterator[str]:
    known: set[str] = set()
    for name in given:
        if name in known or name in outer:
            yield f"two values are named {name!r}"
        known.add(name)
    labels: set[str] = set()
    for node in nodes:
        if node.name in labels:
            yield f"two nodes are named {node.name!r}"
        labels.update({node.name} - {""})
        for name in node.input:
            if name and name not in known and name not in outer:
                yield f"node {label_of(node)!r} reads {name!r}, which nothing before it makes"
        for body in bodies_of(node):
            own = [*(value.name for value in body.input), *_stored(body)]
            yield from _faults(own, body.node, [value.name for value in body.output], known | outer)
        for name in node.output:
            if name and (name in known or name in outer):
                yield f"two values are named {name!r}"
            known.add(name)
    for name in outputs:
        if name not in known and name not in outer:
            yield f"nothing makes the output {name!r}"


def label_of(node: Any) -> str:
    """A node's name for people: its own, else the operator and what it writes."""
    return str(node.name or f"{node.op_type} of {', '.join(node.output)}")


def tidy(model: Any) -> Any:
    """Change a foreign model in place so that it says the same in today's form, and return it.

    Initialisers are no inputs, the IR version allows that, named nodes of one graph have different names, and nodes
    stand behind what they read.
    """
    stored = set(_stored(model.graph))
    _keep(model.graph.input, [value for value in model.graph.input if value.name not in stored])
    for graph in graphs_of(model.graph):
        _rename_nodes(graph.node)
        _sort(graph)
    model.ir_version = max(model.ir_version, LEAST_IR_VERSION)
    return model


def _keep(field: Any, kept: list[Any]) -> None:
    if len(kept) == len(field):
        return
    copies = [type(item).FromString(item.SerializeToString()) for item in kept]
    del field[:]
    field.extend(copies)


def _rename_nodes(nodes: Iterable[Any]) -> None:
    """Give every node that bears an earlier one's name another, which no node has."""
    names = _Taken(node.name for node in nodes)
    seen: set[str] = set()
    for node in nodes:
        if node.name in seen:
            node.name = names.free(node.name)
        seen.update({node.name} - {""})


def _sort(graph: Any) -> None:
    """Put nodes behind what they read, else in their order; nodes in a circle are left as they are."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [{maker[name] for name in reads_of(node) if name in maker} for node in graph.node]
    if all(index > max(need, default=-1) for index, need in enumerate(needs)):
        return
    order: list[int] = []
    done: set[int] = set()
    waiting = list(range(len(needs)))[::-1]
    path: set[int] = set()
    while waiting:
        index = waiting[-1]
        missing = sorted(needs[index] - done, reverse=True)
        if index in done or not missing:
            waiting.pop()
            path.discard(index)
            order += [] if index in done else [index]
            done.add(index)
        elif path & set(missing) or index in missing:
            return
        else:
            path.add(index)
            waiting += missing
    copies = [type(node).FromString(node.SerializeToString()) for node in (graph.node[index] for index in order)]
    del graph.node[:]
    graph.node.extend(copies)


def reads_of(node: Any) -> Iterator[str]:
    """Yield what a node reads, and what its bodies take from around them (names of their own may be among them)."""
    yield from (name for name in node.input if name)
    for body in bodies_of(node):
        for inner in body.node:
            yield from reads_of(inner)
        yield from (value.name for value in body.output)
