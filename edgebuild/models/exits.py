"""Early exits in an ONNX graph: the graph cut behind each of them, into models that run one after the other.

A model with heads (``edgebuild.models.edits.AddHead``) is exported whole: the outputs of all heads, then its own.
``cut`` gives each head a model of its own with what it needs and no earlier one computed, and the rest to a last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact import BATCH_AXIS, Contract, TensorSpec
from edgebuild.errors import ModelError
from edgebuild.models.edits import AddHead
from edgebuild.models.onnx_graphs import Names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgebuild.models.edits import Edit

#: Above the confidence of any answer: nothing ends there.
NEVER = 2.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One model of a chain: its graph, and the names of its exit's answer and confidence; the last one has none."""

    model: Any
    output: str = ""
    confidence: str = ""


def heads_of(edits: Iterable[Edit]) -> tuple[AddHead, ...]:
    """Return the heads that edits add, in the order of their outputs."""
    return tuple(edit for edit in edits if isinstance(edit, AddHead))


def exit_output(head: AddHead) -> str:
    """Return what a head's output is called in an exported model."""
    return f"exit_{head.name}"


def with_exits(contract: Contract, edits: Iterable[Edit]) -> Contract:
    """Return a contract with the outputs of the heads that edits add before the model's own."""
    exits = tuple(TensorSpec(name=exit_output(head), shape=(BATCH_AXIS,), dtype="float32") for head in heads_of(edits))
    return contract.model_copy(update={"outputs": (*exits, *contract.outputs)})


def cut(model: Any, heads: Sequence[AddHead]) -> tuple[Part, ...]:
    """Return the chain of a model with heads, in a shipped shape: one part per head in the order they are reached.

    A part's inputs are the model's own and what earlier parts give. Raises ``ModelError`` where a head needs the whole
    model, or outputs aren't one row of classes.
    """
    import onnx

    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    exits = {exit_output(head) for head in heads}
    own = [value for value in typed.graph.output if value.name not in exits]
    _require_one_row(own, heads)
    graph = _Graph(typed)
    reached = sorted(heads, key=lambda head: len(graph.needed(exit_output(head))))
    groups: list[list[int]] = []
    taken: set[int] = set()
    for name in [*(exit_output(head) for head in reached), own[0].name]:
        fresh = graph.needed(name) - taken
        taken |= fresh
        groups.append(sorted(fresh))
    if not groups[-1]:
        raise ModelError(
            f"The exit {reached[-1].name!r} stands behind the whole model: nothing is left to be saved.",
            hint="Put it behind an earlier layer.",
        )
    parts = []
    for number, nodes in enumerate(groups):
        head = reached[number] if number < len(reached) else None
        later = {name for group in groups[number + 1 :] for index in group for name in graph.read[index]}
        answer = exit_output(head) if head else own[0].name
        made = {name for index in nodes for name in graph.nodes[index].output}
        outputs = [answer, *sorted(made & later - {answer})]
        parts.append(graph.part(nodes, outputs, head))
    return tuple(parts)


def _require_one_row(own: Sequence[Any], heads: Sequence[AddHead]) -> None:
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in own]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] != heads[0].outputs:
        raise ModelError(
            f"An early exit answers for one row of classes, and the model's outputs have the shapes: {shapes}.",
            hint="Leave exit-early out of the recipe.",
        )
    if shapes[0][0] != 1:
        raise ModelError(
            f"A chain with early exits takes one sample at a time, the model a batch of: {shapes[0][0] or 'any size'}.",
            hint="Set batch = 1 under [freeze] in edgebuild.toml.",
        )


class _Graph:
    """A graph by its nodes: who makes what, who reads what. Constants are everyone's."""

    def __init__(self, model: Any) -> None:
        self.model = model
        graph = model.graph
        constants = [node for node in graph.node if node.op_type == "Constant"]
        self.constants = {node.output[0]: node for node in constants} | {t.name: t for t in graph.initializer}
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.makers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.read = [_read(node) for node in self.nodes]
        self.names = Names(model)
        self.values = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}

    def needed(self, name: str) -> set[int]:
        """Return the nodes that a tensor comes from."""
        found: set[int] = set()
        waiting = [name]
        while waiting:
            index = self.makers.get(waiting.pop())
            if index is not None and index not in found:
                found.add(index)
                waiting.extend(self.read[index])
        return found

    def part(self, indices: Sequence[int], outputs: Sequence[str], head: AddHead | None) -> Part:
        """Return the model of some nodes with those outputs, the confidence of a head's answer behind it."""
        from onnx import TensorProto, helper

        nodes = [self.nodes[index] for index in indices]
        made = {name for node in nodes for name in node.output}
        wanted = sorted({name for index in indices for name in self.read[index]} - made - {""})
        inputs = [self._value(name) for name in wanted if name not in self.constants]
        constants = [self.constants[name] for name in wanted if name in self.constants]
        results = [self._value(name) for name in outputs]
        confidence = ""
        if head is not None:
            confidence = self.names.value(f"confidence_{head.name}")
            nodes = [*nodes, *_confidence(outputs[0], confidence, head, self.names)]
            results.append(helper.make_tensor_value_info(confidence, TensorProto.FLOAT, []))
        graph = helper.make_graph(
            [*(c for c in constants if hasattr(c, "op_type")), *nodes],
            "stage",
            inputs,
            results,
            [c for c in constants if not hasattr(c, "op_type")],
            value_info=[self.values[name] for name in sorted(made - set(outputs)) if name in self.values],
        )
        model = helper.make_model(graph, opset_imports=self.model.opset_import, functions=self.model.functions)
        model.ir_version = self.model.ir_version
        return Part(model=model, output=outputs[0] if head else "", confidence=confidence)

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise ModelError(
                f"The shape of {name!r}, where an early exit cuts the model, isn't known.",
                hint="Put the exit behind another layer.",
            )
        return self.values[name]


def _read(node: Any) -> set[str]:
    """Return what a node reads, what its inner graphs take from around them included."""
    found = set(node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            inner = {name for each in graph.node for name in _read(each)}
            inner |= {value.name for value in graph.output}
            inside = {name for each in graph.node for name in each.output}
            found |= inner - inside - {v.name for v in (*graph.input, *graph.initializer)}
    return found - {""}


def _confidence(answer: str, name: str, head: AddHead, names: Names) -> list[Any]:
    """Return the nodes of one number that says how sure an answer is. Reductions without axes take all of them."""
    from onnx import helper

    probabilities, logarithms, products = (names.value(f"{name}_{part}") for part in ("softmax", "log", "product"))

    def make(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(op, inputs, [output], name=names.node(output), **attributes)

    softmax = make("Softmax", [answer], probabilities, axis=-1)
    if head.confidence == "max-probability":
        return [softmax, make("ReduceMax", [probabilities], name, keepdims=0)]
    return [
        softmax,
        make("LogSoftmax", [answer], logarithms, axis=-1),
        make("Mul", [probabilities, logarithms], products),
        make("ReduceSum", [products], name, keepdims=0),
    ]
