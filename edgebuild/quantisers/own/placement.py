"""Which ops run in 8 bits, and where Q/DQ pairs go so that the runtimes really fuse them.

A pair stands after the fused activation, never between a convolution and its Relu. Ops that only move data share the
pair of their input. Joint ops (Add, Concat, pooling) are taken whole: every input has a pair, and the output too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.quantisers.own.graph import attribute, is_kept
from edgebuild.quantisers.own.tables import find_tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.tables import Table

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
FUSED = frozenset({"Relu", "Clip"})
#: Ops that move values and make none: their output has the 8-bit parameters of their first input.
MOVING = frozenset(
    {"DepthToSpace", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
JOINT = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool", "MatMul", "Mul"})


@dataclass(frozen=True, kw_only=True)
class WeightedOp:
    """A convolution or matrix product with a constant weight. ``axis`` is the weight's output channel axis.

    ``bias`` is a constant added to every output channel; ``bias_slot`` says which input of which node holds it, or
    where a new one can go (``None``: nowhere).
    """

    name: str
    node: int
    kind: str
    input: str
    weight: str
    output: str
    axis: int
    channels: int
    groups: int
    macs: int
    bias: str | None
    bias_slot: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A tensor with a Q/DQ pair. ``group`` names the tensor whose range it shares; ``readers`` read the pair."""

    tensor: str
    group: str
    readers: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The ops in 8 bits, the tensors with pairs, and why every other candidate stays float."""

    ops: tuple[WeightedOp, ...]
    points: tuple[Point, ...]
    joint: tuple[str, ...]
    left_float: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The tensors whose ranges are chosen, in topological order."""
        return tuple(dict.fromkeys(point.group for point in self.points))


@dataclass
class _Draft:
    graph: Graph
    scheme: Int8Scheme
    ops: dict[int, WeightedOp] = field(default_factory=dict)
    no_range: frozenset[str] = frozenset()
    joint: set[int] = field(default_factory=set)
    left_float: dict[str, str] = field(default_factory=dict)


def place(
    graph: Graph, scheme: Int8Scheme, *, keep_float: Iterable[str] = (), no_range: frozenset[str] = frozenset()
) -> Placement:
    """Decide what is quantised. ``keep_float`` holds node names, scopes and op types that stay float.

    ``no_range`` holds tensors with NaN or infinity: what reads or makes them in 8 bits stays float.
    """
    draft = _Draft(graph, scheme, no_range=no_range)
    kept = frozenset(keep_float)
    for index, node in enumerate(graph.nodes):
        _consider(draft, index, node, kept)
    if scheme.placement == "whole":
        _settle_joint(draft)
    else:
        draft.joint.clear()
    return Placement(
        ops=tuple(draft.ops[i] for i in sorted(draft.ops)),
        points=_points(draft),
        joint=tuple(graph.names[i] for i in sorted(draft.joint)),
        left_float=tuple(sorted(draft.left_float.items())),
        tables=find_tables(graph, draft.ops, kept),
    )


def _consider(draft: _Draft, index: int, node: object, kept: frozenset[str]) -> None:
    graph, op, name = draft.graph, node.op_type, draft.graph.names[index]  # type: ignore[attr-defined]
    if is_kept(name, op, kept):
        if op in WEIGHTED | JOINT:
            draft.left_float[name] = "kept float as asked"
    elif op in {"If", "Loop", "Scan"}:
        draft.left_float[name] = f"the bodies of {op} stay float"
    elif op in {"LSTM", "GRU", "RNN", "ConvTranspose"}:
        draft.left_float[name] = f"{op} has no 8-bit kernel in every runtime"
    elif op in WEIGHTED | JOINT and graph.is_quantised(node):
        draft.left_float[name] = "it is quantised already"
    elif op in WEIGHTED:
        found = _weighted(graph, index, draft.scheme)
        if isinstance(found, WeightedOp) and found.input in draft.no_range:
            draft.left_float[name] = "what it reads holds NaN or infinity on the calibration data"
        elif isinstance(found, WeightedOp):
            draft.ops[index] = found
        elif op == "MatMul" and found == _NO_WEIGHT:
            draft.joint.add(index)
        else:
            draft.left_float[name] = found
    elif (
        op in JOINT
        and draft.no_range.isdisjoint([*graph.nodes[index].input, end_of(graph, graph.nodes[index].output[0])])
        and all(i in graph.float_tensors and i not in graph.constants for i in graph.nodes[index].input)
    ):
        draft.joint.add(index)


_NO_WEIGHT = "its weight is not a constant"


def _weighted(graph: Graph, index: int, scheme: Int8Scheme) -> WeightedOp | str:
    """Return the op, or why it stays float."""
    node = graph.nodes[index]
    weight = graph.constant(node.input[1])
    if weight is None:
        return _NO_WEIGHT if node.input[1] not in graph.constants else "its weight is not float32"
    if node.input[0] in graph.constants or (node.input[0] not in graph.float_tensors):
        return "its input is a constant or not float32"
    groups = int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1
    axis = _channel_axis(node, weight.ndim)
    if axis is None or weight.size == 0:
        return "its weight is not a matrix"
    if not np.isfinite(weight).all():
        return "its weight holds NaN or infinity"
    if any(0 in (graph.shapes.get(n) or ()) for n in (node.input[0], node.output[0])):
        return "it computes nothing: a side of it is empty"
    if node.op_type == "Gemm" and (
        attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0 or attribute(node, "transA", 0)
    ):
        return "alpha, beta or transA of its Gemm has no 8-bit kernel"
    if node.op_type == "Conv" and weight.shape[1] * groups < scheme.float_below_channels:
        return f"it has fewer than {scheme.float_below_channels} input channels"
    bias, slot = _bias(graph, index, weight.shape[axis])
    if node.op_type == "Gemm" and slot is None:
        return "what its Gemm adds is no bias, and has no 8-bit kernel"
    positions = _positions(graph.shapes.get(node.output[0]), weight.shape[axis])
    return WeightedOp(
        name=graph.names[index],
        node=index,
        kind=node.op_type,
        input=node.input[0],
        weight=node.input[1],
        output=node.output[0],
        axis=axis,
        channels=weight.shape[axis],
        groups=groups,
        macs=positions * int(weight.size),
        bias=bias,
        bias_slot=slot,
    )


def _channel_axis(node: object, ndim: int) -> int | None:
    op = node.op_type  # type: ignore[attr-defined]
    if op == "Conv":
        return 0 if ndim >= 3 else None
    if ndim != 2:
        return None
    return 0 if op == "Gemm" and attribute(node, "transB", 0) else 1


def _positions(shape: tuple[int | None, ...] | None, channels: int) -> int:
    """How often the whole weight is used in one inference; unknown axes count as 1."""
    return max(math.prod(d or 1 for d in shape) // channels, 1) if shape else 1


def _bias(graph: Graph, index: int, channels: int) -> tuple[str | None, tuple[int, int] | None]:
    node = graph.nodes[index]
    if node.op_type in {"Conv", "Gemm"}:
        if len(node.input) < 3 or not node.input[2]:
            return None, (index, 2)
        return (node.input[2], (index, 2)) if _is_bias(graph.constant(node.input[2]), channels) else (None, None)
    reader = graph.only_consumer(node.output[0])
    if reader is None or graph.nodes[reader].op_type != "Add":
        return None, None
    rank = len(graph.shapes.get(node.output[0]) or (channels,))
    for slot, name in enumerate(graph.nodes[reader].input):
        value = graph.constant(name)
        # One with more axes than the product gives the sum its shape: it can't become a vector.
        if value is not None and value.ndim <= rank and _is_bias(value, channels):
            return name, (reader, slot)
    return None, None


def _is_bias(value: NDArray[Any] | None, channels: int) -> bool:
    """Whether a constant holds one finite number per output channel, on its last axis: a plain number has no axis."""
    if value is None or value.shape[-1:] != (channels,) or value.size != channels:
        return False
    return bool(np.isfinite(value).all())


def end_of(graph: Graph, name: str) -> str:
    """Return the tensor after the activation that is fused into the op that makes ``name``; ``name`` if none is."""
    reader = graph.only_consumer(name)
    if reader is None:
        return name
    node = graph.nodes[reader]
    constant = all(not n or n in graph.constants for n in node.input[1:])
    return str(node.output[0]) if node.op_type in FUSED and constant else name


def _settle_joint(draft: _Draft) -> None:
    """Drop joint ops until each of the rest has only 8-bit inputs and feeds an 8-bit op."""
    while True:
        able = _eight_bit(draft).keys() | {op.input for op in draft.ops.values()}
        wanted = _wanted(draft)
        dropped = {
            index
            for index in draft.joint
            if not able.issuperset(draft.graph.nodes[index].input)
            or not _feeds(draft, end_of(draft.graph, draft.graph.nodes[index].output[0]), wanted)
        }
        if not dropped:
            return
        draft.joint -= dropped
        for index in dropped:
            draft.left_float[draft.graph.names[index]] = "not between ops that run in 8 bits"


def _wanted(draft: _Draft) -> set[str]:
    """The tensors that an 8-bit op reads."""
    joint = {name for index in draft.joint for name in draft.graph.nodes[index].input}
    return joint | {op.input for op in draft.ops.values()}


def _feeds(draft: _Draft, name: str, wanted: set[str]) -> bool:
    """Whether the tensor reaches an 8-bit op, through ops that move data."""
    if name in draft.graph.outputs:
        return False
    if name in wanted:
        return True
    return any(
        _feeds(draft, draft.graph.nodes[reader].output[0], wanted)
        for reader in draft.graph.consumers.get(name, [])
        if draft.graph.nodes[reader].op_type in MOVING and draft.graph.nodes[reader].input[0] == name
    )


def _eight_bit(draft: _Draft) -> dict[str, str]:
    """Map every tensor that is, or may be, in 8 bits to the tensor whose range it shares."""
    graph = draft.graph
    groups = {op.input: op.input for op in draft.ops.values() if op.input not in graph.producer}
    for index, node in enumerate(graph.nodes):
        if index in draft.ops or index in draft.joint:
            end = end_of(graph, node.output[0])
            groups[end] = end
        elif node.op_type in MOVING and node.input[0] in groups:
            groups[node.output[0]] = groups[node.input[0]]
    return groups


def _points(draft: _Draft) -> tuple[Point, ...]:
    graph = draft.graph
    groups, wanted = _eight_bit(draft), _wanted(draft)
    made = _made_in_eight_bits(draft)
    points: list[Point] = []
    for name in [v.name for v in graph.model.graph.input] + [o for node in graph.nodes for o in node.output]:
        if (name not in wanted and name not in made) or name in draft.no_range:
            continue
        readers = _readers(draft, name, everyone=name in made)
        if readers:
            points.append(Point(tensor=name, group=groups.get(name, name), readers=readers))
    with_pair = {point.tensor for point in points}
    # A group is named after its first tensor *with a pair*: the ones before it may never be in 8 bits.
    first: dict[str, str] = {}
    for point in points:
        first.setdefault(point.group, point.group if point.group in with_pair else point.tensor)
    return tuple(Point(tensor=p.tensor, group=first[p.group], readers=p.readers) for p in points)


def _made_in_eight_bits(draft: _Draft) -> set[str]:
    """The tensors that an 8-bit kernel writes as 8 bits: all their readers read the pair, or the kernel isn't used.

    A matrix product also comes with a float result, so that its pair is only made if an 8-bit op reads it.
    """
    if draft.scheme.placement != "whole":
        return set()
    graph, wanted = draft.graph, _wanted(draft)
    made: set[str] = set()
    for index in sorted(draft.ops.keys() | draft.joint):
        node = graph.nodes[index]
        end = end_of(graph, node.output[0])
        if end in graph.outputs:
            continue
        if node.op_type == "Conv" or index in draft.joint or _feeds(draft, end, wanted):
            made.add(end)
    # What only moves data between two 8-bit ops stays in 8 bits.
    for node in graph.nodes:
        if node.op_type in MOVING and node.input[0] in made and _feeds(draft, node.output[0], wanted):
            made.add(node.output[0])
    return made


def _readers(draft: _Draft, name: str, *, everyone: bool) -> tuple[tuple[int, int], ...]:
    readers: list[tuple[int, int]] = []
    for index in dict.fromkeys(draft.graph.consumers.get(name, [])):
        for slot, read in enumerate(draft.graph.nodes[index].input):
            takes = index in draft.joint or (index in draft.ops and slot == 0)
            if read == name and (everyone or takes):
                readers.append((index, slot))
    return tuple(readers)
