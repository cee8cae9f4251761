"""Cross-layer equalisation: channels between two layers are scaled to like ranges, and the function stays the same.

For a positive factor s, relu(x / s) * s = relu(x), so that a channel can be divided by s in the first layer and
multiplied by s in the second (Nagel et al. 2019, "Data-Free Quantization", section 4.1). A Clip has no such law: pairs
around one are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.quantisers.own.arithmetic import along

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.placement import Placement, WeightedOp
    from edgebuild.quantisers.own.simulator import QuantisationState

#: A channel is not scaled by more than this either way: what calibration hardly showed must not overflow.
MOST = 16.0


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two layers with nothing but an optional Relu and the tensor ``between`` them."""

    first: WeightedOp
    second: WeightedOp
    between: str


def pairs(graph: Graph, placement: Placement) -> tuple[Pair, ...]:
    """Return the pairs that can be scaled, in topological order."""
    by_node = {op.node: op for op in placement.ops}
    found: list[Pair] = []
    for op in placement.ops:
        name = op.output
        reader = graph.only_consumer(name)
        if reader is not None and graph.nodes[reader].op_type == "Relu":
            name = graph.nodes[reader].output[0]
            reader = graph.only_consumer(name)
        second = by_node.get(-1 if reader is None else reader)
        if second is None or second.input != name or op.kind == "MatMul" or (op.bias_slot is None):
            continue
        shared = op.weight == second.weight or any(len(graph.consumers[o.weight]) > 1 for o in (op, second))
        # A product runs over the last axis, whatever a convolution's channels are.
        if (
            not shared
            and (op.kind == "Conv") == (second.kind == "Conv")
            and _inputs(graph, second) == op.channels
            and second.groups in {1, op.channels}
        ):
            found.append(Pair(first=op, second=second, between=name))
    return tuple(found)


def _inputs(graph: Graph, op: WeightedOp) -> int:
    dims = graph.constants[op.weight].dims
    if op.kind == "Conv":
        return int(dims[1]) * op.groups
    return int(dims[1 - op.axis])


def equalised(
    numbers: QuantisationState,
    found: tuple[Pair, ...],
    channels: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    strength: float,
    *,
    per_channel: bool,
) -> tuple[QuantisationState, dict[str, NDArray[np.float32]]]:
    """Return weights and biases in which each pair's channels reach alike, and what each channel was divided by.

    ``channels`` holds the least and the greatest value of every channel ``between``. ``strength`` (0..1) says how much
    of the difference moves into the second layer; a depthwise second layer takes all of it at no cost where each of
    its channels has a scale of its own (``per_channel``).
    """
    weights, biases = dict(numbers.weights), dict(numbers.float_biases)
    factors: dict[str, NDArray[np.float32]] = {}
    for pair in found:
        first, second = pair.first, pair.second
        low, high = channels[pair.between]
        channel, into = np.maximum(-low, high), _input_reach(second, weights[second.name])
        power = 1.0 if second.groups > 1 and per_channel else strength
        factor = _floored(channel) ** power / _floored(into) ** (1 - power)
        factor = np.clip(factor / np.exp(np.mean(np.log(factor))), 1 / MOST, MOST).astype(np.float32)
        weights[first.name] = weights[first.name] / along(factor, weights[first.name].ndim, first.axis)
        biases[first.name] = biases[first.name] / factor.reshape((-1,) if biases[first.name].ndim == 1 else (1, -1))
        weights[second.name] = _scaled_inputs(second, weights[second.name], factor)
        factors[pair.between] = factor
    return replace(numbers, weights=weights, float_biases=biases, biases=biases), factors


def _floored(values: NDArray[Any]) -> NDArray[np.float64]:
    """Keep channels that are all but dead from dragging the rest along."""
    return np.maximum(values.astype(np.float64), max(float(values.max()) * 1e-3, 1e-12))


def _input_reach(op: WeightedOp, weight: NDArray[Any]) -> NDArray[Any]:
    axis = _input_axis(op)
    return np.asarray(np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis)))


def _input_axis(op: WeightedOp) -> int:
    """Return the weight's axis that runs over the input's channels (a depthwise weight: over its own)."""
    if op.groups > 1:
        return 0
    return 1 if op.axis == 0 else 0


def _scaled_inputs(op: WeightedOp, weight: NDArray[Any], factor: NDArray[Any]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = (weight * along(factor, weight.ndim, _input_axis(op))).astype(np.float32)
    return result
