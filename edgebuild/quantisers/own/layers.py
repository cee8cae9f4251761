"""What one layer sees: the patches that its weight is multiplied with, and their second moments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.quantisers.own.graph import attribute

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.placement import WeightedOp

#: Output positions evaluated in one batch: neighbours are much alike.
POSITIONS = 64
#: Inputs whose patches are multiplied at once.
TOGETHER = 8


def weight_count(graph: Graph, op: WeightedOp) -> int:
    """Return how many weights a layer has."""
    return math.prod(graph.constants[op.weight].dims)


def as_rows(op: WeightedOp, weight: NDArray[Any]) -> NDArray[Any]:
    """Return the weight as (groups, channels per group, inputs per channel)."""
    rows = weight.reshape(op.channels, -1) if op.axis == 0 else weight.T
    return rows.reshape(op.groups, op.channels // op.groups, -1)


def from_rows(op: WeightedOp, rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Undo ``as_rows``."""
    flat = rows.reshape(op.channels, -1)
    return flat.reshape(shape) if op.axis == 0 else flat.T.reshape(shape)


def patches(graph: Graph, op: WeightedOp, x: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return (groups, positions, inputs per channel): a random few of the products' left sides in ``x``."""
    if op.kind != "Conv":
        rows = x.reshape(-1, x.shape[-1])
        some = rng.permutation(len(rows))[:POSITIONS]
        return rows[np.newaxis, some].astype(np.float32)
    return _convolution_patches(graph, op, x, rng)


def _convolution_patches(
    graph: Graph, op: WeightedOp, x: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float32]:
    windows = _windows(graph, op, x)
    spatial = (windows.ndim - 2) // 2
    grid = (windows.shape[0], *windows.shape[2 : 2 + spatial])
    some = rng.permutation(int(np.prod(grid)))[:POSITIONS]
    where = np.unravel_index(some, grid)
    picked = np.moveaxis(windows, 1, 1 + spatial)[where]  # (positions, input channels, *kernel)
    per_group = picked.reshape(len(some), op.groups, -1)
    return np.ascontiguousarray(per_group.swapaxes(0, 1), dtype=np.float32)


def mean_patch(graph: Graph, op: WeightedOp, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Return (groups, inputs per channel): the mean of the products' left sides, over all positions and inputs."""
    if op.kind != "Conv":
        total = sum(x.reshape(-1, x.shape[-1]).sum(axis=0, dtype=np.float64) for x in inputs)
        return np.asarray(total / sum(x.size // x.shape[-1] for x in inputs))[np.newaxis]
    image = np.zeros((1, *inputs[0].shape[1:]))
    for x in inputs:
        for one in x:
            image += one
    windows = _windows(graph, op, image / sum(len(x) for x in inputs))
    spatial = (windows.ndim - 2) // 2
    mean = np.empty((windows.shape[1], *windows.shape[2 + spatial :]))
    for place in np.ndindex(mean.shape[1:]):  # faster than all places of the kernel at once
        mean[:, *place] = windows[(..., *place)].mean(axis=(0, *range(2, 2 + spatial)))
    return mean.reshape(op.groups, -1)


def _windows(graph: Graph, op: WeightedOp, x: NDArray[Any]) -> NDArray[Any]:
    """Return a view (images, channels, *grid, *kernel) of what a convolution's weight is multiplied with."""
    node = graph.nodes[op.node]
    kernel = graph.constants[op.weight].dims[2:]
    spatial = len(kernel)
    strides = attribute(node, "strides", [1] * spatial)
    dilations = attribute(node, "dilations", [1] * spatial)
    pads = _pads(node, x.shape[2:], kernel, strides, dilations)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)]) if any(pads) else x
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + spatial)))
    windows = windows[:, :, *[slice(None, None, s) for s in strides]]
    everything = [slice(None)] * (2 + spatial)
    return windows[(*everything, *[slice(None, None, d) for d in dilations])]


def _pads(node: Any, size: tuple[int, ...], kernel: Any, strides: list[int], dilations: list[int]) -> list[int]:
    """Return the padding, all starts then all ends (ONNX Conv: auto_pad)."""
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode in {"NOTSET", ""}:
        return list(attribute(node, "pads", [0] * (2 * len(kernel))))
    if mode == "VALID":
        return [0] * (2 * len(kernel))
    totals = [
        max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return [*small, *large] if mode == "SAME_UPPER" else [*large, *small]


@dataclass(eq=False)
class Moments:
    """What a layer reads in 8 bits (``x``) and would read in float (``y``), per group, over sampled positions."""

    covariance: NDArray[np.float64]  # (groups, K, K): of x
    #: (groups, channels per group, K): covariance with x of what the weight makes of y - x
    missing: NDArray[np.float64]


def products(
    graph: Graph, op: WeightedOp, weight: NDArray[Any], inputs: Sequence[NDArray[Any]], seed: int
) -> list[NDArray[np.float32]]:
    """Return (groups, positions, channels per group) for each input: what the weight makes of its random patches."""
    rows = as_rows(op, weight).astype(np.float64).swapaxes(1, 2)
    drawn = (_drawn(graph, op, y, seed, index) for index, y in enumerate(inputs))
    return [np.matmul(some.astype(np.float64), rows).astype(np.float32) for some in drawn]


def _drawn(graph: Graph, op: WeightedOp, x: NDArray[Any], seed: int, index: int) -> NDArray[np.float32]:
    return patches(graph, op, x, np.random.default_rng([seed, op.node, index]))


def moments(
    graph: Graph,
    op: WeightedOp,
    weight: NDArray[Any],
    inputs: Iterable[tuple[NDArray[Any], NDArray[np.float32]]],
    seed: int,
    *,
    centred: bool = True,
) -> Moments:
    """Return the moments over pairs of an 8-bit input and the ``products`` of the float one with the same seed.

    Without ``centred`` they are taken about zero: a layer without a bias can't make up for a mean.
    """
    rows = as_rows(op, weight).astype(np.float64)
    shape = (op.groups, rows.shape[2])
    count, sum_x, sum_gap = 0, np.zeros(shape), np.zeros(rows.shape[:2])
    xx, gap_x = np.zeros((*shape, rows.shape[2])), np.zeros(rows.shape)
    for x, right in _together(graph, op, inputs, seed):
        gap = right - np.matmul(x, rows.swapaxes(1, 2))  # (groups, positions, channels)
        xx += np.matmul(x.swapaxes(1, 2), x)
        gap_x += np.matmul(gap.swapaxes(1, 2), x)
        sum_x, sum_gap, count = sum_x + x.sum(axis=1), sum_gap + gap.sum(axis=1), count + x.shape[1]
    xx /= count
    gap_x /= count
    if centred:
        mean_x, mean_gap = sum_x / count, sum_gap / count
        xx -= mean_x[:, :, None] * mean_x[:, None, :]
        gap_x -= mean_gap[:, :, None] * mean_x[:, None, :]
    return Moments(covariance=xx, missing=gap_x)


def _together(
    graph: Graph, op: WeightedOp, inputs: Iterable[tuple[NDArray[Any], NDArray[np.float32]]], seed: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the patches of many inputs at once: few large products are faster than many small ones."""
    waiting: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for index, (x, right) in enumerate(inputs):
        waiting.append((_drawn(graph, op, x, seed, index), right))
        if len(waiting) == TOGETHER:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(pairs: list[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = (np.concatenate(side, axis=1).astype(np.float64) for side in zip(*pairs, strict=True))
    return x, y
