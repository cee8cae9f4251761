"""Smoothing: where few channels of what a product reads are far larger than the rest, its weight takes the difference.

Each channel is divided by a factor before it is rounded, and the weight's row multiplied by it (Xiao et al. 2023,
"SmoothQuant", equation 4). Where a LayerNormalization makes the tensor for such products alone its scale and shift take
the division, at no cost; elsewhere a Mul is put in front, so that it has to be worth it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.models.onnx_graphs import Names
from edgebuild.quantisers.own.graph import Graph, add_constant
from edgebuild.quantisers.own.ladder import Rung
from edgebuild.quantisers.own.placement import MOVING
from edgebuild.quantisers.own.simulator import insert_after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from edgebuild.quantisers.own.error import Distance
    from edgebuild.quantisers.own.placement import Placement, WeightedOp
    from edgebuild.quantisers.own.workbench import Calibration

#: How much of the channels' difference moves into the weights; the best on held-out frames.
STRENGTHS = (0.7, 0.85)
#: Channels are uneven where the largest reaches this many times as far as half of them.
UNEVEN = 4.0
#: The noise at the outputs must fall at least to this share: a Mul takes time.
WORTHWHILE = 0.8
#: A channel that is all but dead counts as this share of the largest.
FLOOR = 1e-4


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A tensor and the products that read it; ``norm`` is the node that can take the division itself."""

    tensor: str
    ops: tuple[WeightedOp, ...]
    norm: int | None


def spots(graph: Graph, placement: Placement) -> tuple[Spot, ...]:
    """Return where products read what no 8-bit op makes: between two of those a Mul would be in the way."""
    by_tensor: dict[str, list[WeightedOp]] = {}
    for op in placement.ops:
        if op.kind != "Conv":
            by_tensor.setdefault(op.input, []).append(op)
    shared = {op.weight for op in placement.ops if len(graph.consumers[op.weight]) > 1}
    eight_bit = {op.node for op in placement.ops} | {i for i, n in enumerate(graph.names) if n in placement.joint}
    found: list[Spot] = []
    for tensor, ops in by_tensor.items():
        source = _source(graph, tensor)
        if source is not None and source not in eight_bit and shared.isdisjoint(op.weight for op in ops):
            found.append(Spot(tensor=tensor, ops=tuple(ops), norm=_own_norm(graph, tensor, ops)))
    return tuple(found)


def _source(graph: Graph, tensor: str) -> int | None:
    """Return the node that makes the values of a tensor; None for an input of the model."""
    index = graph.producer.get(tensor)
    while index is not None and graph.nodes[index].op_type in MOVING:
        index = graph.producer.get(graph.nodes[index].input[0])
    return index


def _own_norm(graph: Graph, tensor: str, ops: list[WeightedOp]) -> int | None:
    """Return the LayerNormalization that makes the tensor for the products alone, with constants of its own."""
    index = graph.producer.get(tensor)
    if index is None or graph.nodes[index].op_type != "LayerNormalization" or tensor in graph.outputs:
        return None
    constants = graph.nodes[index].input[1:]
    values = [graph.constant(name) for name in constants]
    fits = all(value is not None and value.size == _inputs(graph, ops[0]) for value in values)
    alone = set(graph.consumers[tensor]) == {op.node for op in ops}
    return index if fits and alone and all(len(graph.consumers[name]) == 1 for name in constants) else None


def _inputs(graph: Graph, op: WeightedOp) -> int:
    return int(graph.constants[op.weight].dims[1 - op.axis])


def uneven(found: tuple[Spot, ...], reach: Mapping[str, NDArray[Any]]) -> tuple[Spot, ...]:
    """Return the spots whose channels differ so much that smoothing can help."""
    return tuple(s for s in found if reach[s.tensor].max() > UNEVEN * max(float(np.median(reach[s.tensor])), 1e-30))


def smoothed(graph: Graph, found: tuple[Spot, ...], reach: Mapping[str, NDArray[Any]], strength: float) -> Graph:
    """Return the graph of the same function whose products at ``found`` read smoothed tensors."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    target, names = model.graph, Names(model)
    stored = {tensor.name: tensor for tensor in target.initializer}
    after: dict[int, list[Any]] = {}
    for spot in found:
        factor = factors(graph, spot, reach[spot.tensor], strength)
        for op in spot.ops:
            rows = factor if op.axis == 0 else factor[:, None]
            _replace(stored[op.weight], _value(graph, op.weight) * rows)
        if spot.norm is not None:
            for name in graph.nodes[spot.norm].input[1:]:
                _replace(stored[name], _value(graph, name) / factor)
            continue
        inverse, result = names.value(f"{spot.tensor}_smoothing"), names.value(f"{spot.tensor}_smoothed")
        add_constant(target, inverse, (1 / factor).astype(np.float32))
        label = names.node(f"{result}_Mul")
        node = onnx.helper.make_node("Mul", [spot.tensor, inverse], [result], name=label)
        after.setdefault(graph.producer[spot.tensor], []).append(node)
        for op in spot.ops:
            target.node[op.node].input[0] = result
        target.value_info.append(
            onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, graph.shapes.get(spot.tensor))
        )
    insert_after(target, after)
    return Graph(model)


def factors(graph: Graph, spot: Spot, reach: NDArray[Any], strength: float) -> NDArray[np.float32]:
    """Return by what each channel is divided, with a geometric mean of one."""
    into = np.max([np.abs(_value(graph, op.weight)).max(axis=op.axis) for op in spot.ops], axis=0)
    largest, heaviest = (np.maximum(v.astype(np.float64), max(v.max() * FLOOR, 1e-12)) for v in (reach, into))
    exponents = strength * np.log(largest) - (1 - strength) * np.log(heaviest)
    result: NDArray[np.float32] = np.exp(exponents - exponents.mean()).astype(np.float32)
    return result


def _value(graph: Graph, name: str) -> NDArray[Any]:
    value = graph.constant(name)
    assert value is not None  # noqa: S101 - whoever found the spot looked
    return value


def _replace(tensor: Any, value: NDArray[Any]) -> None:
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), tensor.name))


def planned(graph: Graph, placement: Placement, fit: int, held: int) -> float:
    """Return how many runs it takes at most, where ``fit`` and ``held`` are those of a pass over each half."""
    return fit + held + len(STRENGTHS) * (fit + 2 * held) if spots(graph, placement) else 0


def smoothest(
    bench: Calibration, again: Callable[[Graph], Calibration | frozenset[str]]
) -> tuple[Calibration, list[Rung]]:
    """Return the bench, or that of a smoothed graph where its outputs are clearly nearer on held-out frames.

    Also what was tried. ``again`` makes the bench of another graph on the same frames, or names tensors without range.
    """
    found = spots(bench.graph, bench.placement)
    chosen = uneven(found, reach := _reach(bench, found)) if found else ()
    if not chosen:
        return bench, []
    best, least, tried = bench, _distance(bench).total * WORTHWHILE, list[Rung]()
    other: Calibration | frozenset[str]
    for strength in STRENGTHS:
        other = frozenset()  # frees the one before: each is several times as large as the model
        other = again(smoothed(bench.graph, chosen, reach, strength))
        if isinstance(other, frozenset):
            continue
        distance = _distance(other)
        tried.append(Rung(name=f"smoothing {strength:g}", distance=distance, kept=distance.total < least))
        if distance.total < least:
            best, least = other, distance.total
    return best, tried


def _reach(bench: Calibration, found: tuple[Spot, ...]) -> dict[str, NDArray[Any]]:
    """Return the largest magnitude of every channel, over the fitted half."""
    names = tuple(spot.tensor for spot in found)
    reach: dict[str, NDArray[Any]] = {}
    for feeds in bench.fit:
        bench.tick(1.0)
        for name, value in bench.simulator.run(bench.original, feeds, names).items():
            some = value if bench.padding is None else bench.padding.live(value, feeds)
            seen = np.abs(some).reshape(-1, some.shape[-1]).max(axis=0)
            reach[name] = np.maximum(reach.get(name, seen), seen)
    return reach


def _distance(bench: Calibration) -> Distance:
    """Return the distance on held-out frames with ranges as wide as what was seen, and nearest codes."""
    ends = {group: (h.low, h.high) for group, h in bench.seen.histograms.items()}
    return bench.judge(bench.nearest(bench.with_ranges(bench.original, ends)))
