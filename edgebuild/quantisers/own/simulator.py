"""The float graph with every scale, zero point, weight and bias as an *input*, so that a trial rebuilds nothing.

The Q/DQ operators in it are the ones that ship. A second graph without them is the float model: the calibrator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from edgebuild.models.onnx_graphs import Names, reads_of
from edgebuild.quantisers.own import tables
from edgebuild.quantisers.own.parallel import Workers, usable_cores
from edgebuild.quantisers.own.sessions import make_session, run_session
from edgebuild.quantisers.own.stages import Stages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.quantisers.own.arithmetic import Affine, Codes
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.placement import Placement, WeightedOp

    Arrays = dict[str, NDArray[Any]]

#: What a tensor is called behind its pair.
IN_8_BITS = "{} in 8 bits"
#: Batches run one at a time where the model takes fewer MACs, and fill no more memory than this otherwise.
PARALLEL_MACS = 5_000_000
MEMORY = 512 * 2**20
MOST_WORKERS = 8

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantisationState:
    """Everything that a trial can change. Ops by name, ranges by group; no ranges at all and a missing code mean float.

    ``weights`` and ``float_biases`` make the float function; ``codes`` and ``biases`` are what ships.
    """

    weights: Mapping[str, NDArray[np.float32]]
    float_biases: Mapping[str, NDArray[np.float32]]
    biases: Mapping[str, NDArray[np.float32]]
    ranges: Mapping[str, Affine] = field(default_factory=dict)
    codes: Mapping[str, Codes] = field(default_factory=dict)

    def with_range(self, group: str, value: Affine) -> QuantisationState:
        """Return the same with one range changed."""
        return replace(self, ranges={**self.ranges, group: value})


def float_numbers(graph: Graph, placement: Placement) -> QuantisationState:
    """Return the model's own weights and biases; zeros where an op has no bias but can have one."""
    weights: dict[str, NDArray[np.float32]] = {}
    biases: dict[str, NDArray[np.float32]] = {}
    for op in placement.ops:
        weight = graph.constant(op.weight)
        assert weight is not None  # noqa: S101 - placement only takes ops with a constant weight
        weights[op.name] = weight
        if op.bias_slot is not None:
            bias = None if op.bias is None else graph.constant(op.bias)
            biases[op.name] = np.zeros(op.channels, np.float32) if bias is None else bias
    return QuantisationState(weights=weights, float_biases=biases, biases=biases)


class _Slots:
    """What the simulator adds to a graph, by what it is for and whose it is: names that the model doesn't have."""

    def __init__(self, model: Any) -> None:
        self._names = Names(model)
        self._given: dict[tuple[str, str], str] = {}

    def __call__(self, form: str, owner: str) -> str:
        if (form, owner) not in self._given:
            self._given[form, owner] = self._names.value(form.format(owner))
        return self._given[form, owner]

    @property
    def free(self) -> Names:
        """What makes up the names."""
        return self._names

    @property
    def names(self) -> tuple[str, ...]:
        """All that was added so far."""
        return tuple(self._given.values())


class Simulator:
    """onnxruntime, graph optimisation off, for the float model and for every trial of an 8-bit one.

    Batches run on several cores at a time, as many as ``MEMORY`` has room for.
    """

    def __init__(self, graph: Graph, placement: Placement, scheme: Int8Scheme, *, library: Path | None = None) -> None:
        self.placement = placement
        self.scheme = scheme
        self._library = library
        self._zero_type = np.uint8 if scheme.activations == "uint8" else np.int8
        self._slots = _Slots(graph.model)
        self._models = {
            pairs: _simulation(graph, placement, scheme, self._slots, pairs=pairs) for pairs in (False, True)
        }
        self._real: dict[str, tuple[Codes, NDArray[np.float32]]] = {}
        self._stages: dict[bool, Stages] = {}
        self.outputs = tuple(value.name for value in graph.model.graph.output)
        self.workers = Workers(_at_a_time(graph, placement))
        threads = max(usable_cores() // self.workers.count, 1)
        shown = [point.tensor for point in placement.points]
        expose(self._models[False], shown)
        # Trials are many; the float model runs seldom, and what it would keep is large: all that is shown.
        self._sessions = {
            pairs: make_session(model, library, threads, arena=pairs) for pairs, model in self._models.items()
        }

    def feeds(self, numbers: QuantisationState) -> Arrays:
        """Return the inputs that make the graph compute with ``numbers``."""
        feeds: Arrays = {}
        for op in self.placement.ops:
            feeds[self._slots("weight of {}", op.name)] = self._weight(op, numbers)
            if op.bias_slot is not None:
                feeds[self._slots("bias of {}", op.name)] = numbers.biases[op.name]
        for group in self.placement.groups if numbers.ranges else ():
            chosen = numbers.ranges[group]
            feeds[self._slots("scale of {}", group)] = np.array(chosen.scale, np.float32)
            feeds[self._slots("zero of {}", group)] = np.array(chosen.zero_point, self._zero_type)
        return feeds

    def _weight(self, op: WeightedOp, numbers: QuantisationState) -> NDArray[np.float32]:
        """Return the weight that is computed with; that of the latest codes is kept for the next call."""
        codes = numbers.codes.get(op.name)
        if codes is None:
            return numbers.weights[op.name]
        if op.name not in self._real or self._real[op.name][0] is not codes:
            self._real[op.name] = codes, codes.reals(op.axis)
        return self._real[op.name][1]

    def stages(self, *, in_eight_bits: bool) -> Stages:
        """Return the graph in parts, cut before every op in 8 bits."""
        if in_eight_bits not in self._stages:
            model = self._models[in_eight_bits]
            self._stages[in_eight_bits] = Stages(model, self.placement.ops, self._library)
        return self._stages[in_eight_bits]

    def run(self, numbers: QuantisationState, feeds: Mapping[str, NDArray[Any]], fetch: tuple[str, ...] = ()) -> Arrays:
        """Run once and return ``fetch`` (the model's outputs if empty); without ranges it is the float model."""
        return self._run(bool(numbers.ranges), self.feeds(numbers), feeds, fetch or self.outputs)

    def each(
        self,
        numbers: QuantisationState,
        frames: Iterable[Mapping[str, NDArray[Any]]],
        work: Callable[[int, Arrays], R],
        fetch: tuple[str, ...] = (),
    ) -> Iterator[R]:
        """Yield ``work(index, values)`` for every batch, in order; it is called in the threads that run the model."""
        fixed, names = self.feeds(numbers), fetch or self.outputs
        pairs = bool(numbers.ranges)
        return self.workers.in_order(
            lambda item: work(item[0], self._run(pairs, fixed, item[1], names)), enumerate(frames)
        )

    def _run(self, pairs: bool, fixed: Arrays, feeds: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> Arrays:
        inner = list(dict.fromkeys(name for name in names if name not in feeds))
        values = run_session(self._sessions[pairs], inner, {**fixed, **feeds}) if inner else {}
        return {name: feeds[name] if name in feeds else values[name] for name in names}


def _at_a_time(graph: Graph, placement: Placement) -> int:
    """Return how many batches run at a time: one where a run is shorter than starting a thread for it."""
    if sum(op.macs for op in placement.ops) < PARALLEL_MACS:
        return 1
    shapes = (graph.shapes.get(point.tensor) or () for point in placement.points)
    values = sum(math.prod(size or 1 for size in shape) for shape in shapes)
    return max(min(usable_cores(), MOST_WORKERS, MEMORY // (8 * max(values, 1))), 1)


def _simulation(graph: Graph, placement: Placement, scheme: Int8Scheme, slots: _Slots, *, pairs: bool) -> Any:
    """Return the graph with its numbers as inputs; with ``pairs``, in 8 bits."""
    import onnx
    from onnx import TensorProto, helper

    source = graph.model
    model = onnx.ModelProto(ir_version=source.ir_version, opset_import=source.opset_import, functions=source.functions)
    target = model.graph
    target.name = source.graph.name
    for kind in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(target, kind).extend(getattr(source.graph, kind))
    for op in placement.ops:
        weight = slots("weight of {}", op.name)
        set_input(target.node[op.node], 1, weight)
        target.input.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, None))
        if op.bias_slot is not None:
            bias = slots("bias of {}", op.name)
            set_input(target.node[op.bias_slot[0]], op.bias_slot[1], bias)
            target.input.append(helper.make_tensor_value_info(bias, TensorProto.FLOAT, None))
    if pairs:
        _to_eight_bits(target, graph, placement, scheme, slots)
    read = {name for node in target.node for name in reads_of(node)} | {value.name for value in target.output}
    target.initializer.extend(tensor for tensor in source.graph.initializer if tensor.name in read)
    return model


def _to_eight_bits(target: Any, graph: Graph, placement: Placement, scheme: Int8Scheme, slots: _Slots) -> None:
    """Insert the pairs, and look rows up in tables of codes."""
    from onnx import TensorProto, helper

    zero_type = TensorProto.UINT8 if scheme.activations == "uint8" else TensorProto.INT8
    for group in placement.groups:
        for form, kind in {"scale of {}": TensorProto.FLOAT, "zero of {}": zero_type}.items():
            target.input.append(helper.make_tensor_value_info(slots(form, group), kind, []))
    after: dict[int, list[Any]] = {}
    for table in placement.tables:
        stored = tables.store(target, graph, table, slots.free)
        after.update({index: tables.look_up(target.node[index], stored, slots.free) for index in table.readers})
    for point in placement.points:
        for node, slot in point.readers:
            target.node[node].input[slot] = slots(IN_8_BITS, point.tensor)
        after.setdefault(graph.producer.get(point.tensor, -1), []).extend(_pair(point.tensor, point.group, slots))
    insert_after(target, after)


def _pair(tensor: str, group: str, slots: _Slots) -> list[Any]:
    from onnx import helper

    parameters = [slots("scale of {}", group), slots("zero of {}", group)]
    codes, result = (slots(form, tensor) for form in ("{} codes", IN_8_BITS))
    return [
        helper.make_node("QuantizeLinear", [tensor, *parameters], [codes]),
        helper.make_node("DequantizeLinear", [codes, *parameters], [result]),
    ]


def set_input(node: Any, slot: int, name: str) -> None:
    """Set one input of a node; missing ones before it become absent."""
    while len(node.input) <= slot:
        node.input.append("")
    node.input[slot] = name


def insert_after(graph: Any, after: Mapping[int, list[Any]]) -> None:
    """Insert nodes behind the node with that index (-1: first), keeping the order topological."""
    nodes = list(after.get(-1, []))
    for index, node in enumerate(graph.node):
        copy = type(node)()
        copy.CopyFrom(node)
        nodes.extend([copy, *after.get(index, [])])
    del graph.node[:]
    graph.node.extend(nodes)


def expose(model: Any, names: list[str]) -> None:
    """Make tensors outputs of the graph, each once."""
    from onnx import helper

    have = {value.name for value in model.graph.output}
    inputs = {value.name for value in model.graph.input}
    for name in dict.fromkeys(names):
        if name not in have and name not in inputs:
            model.graph.output.append(helper.make_empty_tensor_value_info(name))
