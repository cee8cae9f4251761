"""The float graph with every scale, zero point, weight and bias as an *input*, so that a trial rebuilds nothing.

The Q/DQ operators in it are the ones that ship; a flag per pair passes the float value through instead. With all flags
up it is the float model, and serves as the calibrator.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.errors import EnvironmentGap, ModelError
from edgebuild.models.onnx_graphs import Names, serialised
from edgebuild.quantisers.own import tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.quantisers.own.arithmetic import Affine, Codes
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.placement import Placement, WeightedOp

    Arrays = dict[str, NDArray[Any]]

#: What a tensor is called behind its pair.
IN_8_BITS = "{} in 8 bits"
#: Whether tables are read in float.
FLOAT_TABLES = ("float {}", "tables")


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantisationState:
    """Everything that a trial can change. Ops by name, ranges by group; a missing range or code means float.

    ``weights`` and ``float_biases`` make the float function; ``codes`` and ``biases`` are what ships.
    """

    weights: Mapping[str, NDArray[np.float32]]
    float_biases: Mapping[str, NDArray[np.float32]]
    biases: Mapping[str, NDArray[np.float32]]
    ranges: Mapping[str, Affine] = field(default_factory=dict)
    codes: Mapping[str, Codes] = field(default_factory=dict)

    def with_range(self, group: str, value: Affine | None) -> QuantisationState:
        """Return the same with one range changed (``None``: float)."""
        ranges = {name: r for name, r in self.ranges.items() if name != group}
        return replace(self, ranges=ranges if value is None else {**ranges, group: value})


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
    """One onnxruntime session, graph optimisation off, for the float model and for every trial of an 8-bit one."""

    def __init__(self, graph: Graph, placement: Placement, scheme: Int8Scheme, *, library: Path | None = None) -> None:
        self._placement = placement
        self._zero_type = np.uint8 if scheme.activations == "uint8" else np.int8
        self._slots = _Slots(graph.model)
        model = _simulation(graph, placement, scheme, self._slots)
        self.outputs = tuple(value.name for value in graph.model.graph.output)
        self._session = _session(model, library)

    def feeds(self, numbers: QuantisationState) -> Arrays:
        """Return the inputs that make the graph compute with ``numbers``."""
        feeds: Arrays = {}
        for op in self._placement.ops:
            codes = numbers.codes.get(op.name)
            feeds[self._slots("weight of {}", op.name)] = (
                numbers.weights[op.name] if codes is None else codes.reals(op.axis)
            )
            if op.bias_slot is not None:
                feeds[self._slots("bias of {}", op.name)] = numbers.biases[op.name]
        for group in self._placement.groups:
            chosen = numbers.ranges.get(group)
            feeds[self._slots("float at {}", group)] = np.array(chosen is None)
            feeds[self._slots("scale of {}", group)] = np.array(1.0 if chosen is None else chosen.scale, np.float32)
            zero = np.array(0 if chosen is None else chosen.zero_point, self._zero_type)
            feeds[self._slots("zero of {}", group)] = zero
        if self._placement.tables:
            feeds[self._slots(*FLOAT_TABLES)] = np.array(not numbers.codes)
        return feeds

    def raw_input(self, op: WeightedOp) -> str:
        """Return the name under which ``run`` gives what ``op`` really reads."""
        points = self._placement.points
        paired = {(node, slot): point.tensor for point in points for node, slot in point.readers}
        return self._slots(IN_8_BITS, paired[op.node, 0])

    def run(self, feeds: Mapping[str, NDArray[Any]], fetch: tuple[str, ...] = ()) -> Arrays:
        """Run once and return ``fetch`` (the model's outputs if empty)."""
        names = list(fetch or self.outputs)
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:  # onnxruntime's exceptions share no root of their own
            raise ModelError(f"onnxruntime can't run the model: {str(error).splitlines()[0][:300]}") from error
        return dict(zip(names, values, strict=True))


def _session(model: Any, library: Path | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentGap("onnxruntime is not installed.", hint="pip install 'edgebuild[onnxruntime]'") from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(str(library))
    try:
        return onnxruntime.InferenceSession(serialised(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ModelError(f"onnxruntime can't load the model: {str(error).splitlines()[0][:300]}") from error


def _simulation(graph: Graph, placement: Placement, scheme: Int8Scheme, slots: _Slots) -> Any:
    import onnx
    from onnx import TensorProto, helper

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    target = model.graph
    for op in placement.ops:
        weight = slots("weight of {}", op.name)
        set_input(target.node[op.node], 1, weight)
        target.input.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, None))
        if op.bias_slot is not None:
            bias = slots("bias of {}", op.name)
            set_input(target.node[op.bias_slot[0]], op.bias_slot[1], bias)
            target.input.append(helper.make_tensor_value_info(bias, TensorProto.FLOAT, None))
    zero_type = TensorProto.UINT8 if scheme.activations == "uint8" else TensorProto.INT8
    for group in placement.groups:
        kinds = {"float at {}": TensorProto.BOOL, "scale of {}": TensorProto.FLOAT, "zero of {}": zero_type}
        for form, kind in kinds.items():
            target.input.append(helper.make_tensor_value_info(slots(form, group), kind, []))
    pairs = _lookups(graph, placement, target, slots)
    for point in placement.points:
        for node, slot in point.readers:
            target.node[node].input[slot] = slots(IN_8_BITS, point.tensor)
        pairs.setdefault(graph.producer.get(point.tensor, -1), []).extend(_pair(point.tensor, point.group, slots))
    insert_after(target, pairs)
    expose(model, [p.tensor for p in placement.points] + [op.input for op in placement.ops])
    expose(model, [slots(IN_8_BITS, p.tensor) for p in placement.points] + [op.output for op in placement.ops])
    return model


def _lookups(graph: Graph, placement: Placement, target: Any, slots: _Slots) -> dict[int, list[Any]]:
    """Return what stands behind each look-up in a table: the row in 8 bits, and the choice between it and the float."""
    from onnx import TensorProto, helper

    if placement.tables:
        target.input.append(helper.make_tensor_value_info(slots(*FLOAT_TABLES), TensorProto.BOOL, []))
    after: dict[int, list[Any]] = {}
    for table in placement.tables:
        stored = tables.store(target, graph, table, slots.free)
        for index in table.readers:
            node, coded = target.node[index], type(target.node[index])()
            coded.CopyFrom(node)
            name = node.output[0]
            node.output[0], coded.output[0] = (slots(form, name) for form in ("{} of floats", "{} of codes"))
            choice = [slots(*FLOAT_TABLES), node.output[0], coded.output[0]]
            behind = tables.look_up(coded, stored, slots.free)
            after[index] = [coded, *behind, helper.make_node("Where", choice, [name])]
    return after


def _pair(tensor: str, group: str, slots: _Slots) -> list[Any]:
    from onnx import helper

    parameters = [slots("scale of {}", group), slots("zero of {}", group)]
    codes, rounded, result = (slots(form, tensor) for form in ("{} codes", "{} rounded", IN_8_BITS))
    return [
        helper.make_node("QuantizeLinear", [tensor, *parameters], [codes]),
        helper.make_node("DequantizeLinear", [codes, *parameters], [rounded]),
        helper.make_node("Where", [slots("float at {}", group), tensor, rounded], [result]),
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
