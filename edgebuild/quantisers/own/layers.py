"""What one layer sees: the patches that its weight is multiplied with, and their second moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.quantisers.own.graph import attribute

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.placement import WeightedOp

#: Output positions evaluated in one batch: neighbours are much alike.
POSITIONS = 64


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
    node = graph.nodes[op.node]
    kernel = graph.constants[op.weight].dims[2:]
    spatial = len(kernel)
    strides = attribute(node, "strides", [1] * spatial)
    dilations = attribute(node, "dilations", [1] * spatial)
    pads = _pads(node, x.shape[2:], kernel, strides, dilations)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + spatial)))
    windows = windows[:, :, *[slice(None, None, s) for s in strides]]
    everything = [slice(None)] * (2 + spatial)
    windows = windows[(*everything, *[slice(None, None, d) for d in dilations])]
    grid = (windows.shape[0], *windows.shape[2 : 2 + spatial])
    some = rng.permutation(int(np.prod(grid)))[:POSITIONS]
    where = np.unravel_index(some, grid)
    picked = np.moveaxis(windows, 1, 1 + spatial)[where]  # (positions, input channels, *kernel)
    per_group = picked.reshape(len(some), op.groups, -1)
    return np.ascontiguousarray(per_group.swapaxes(0, 1), dtype=np.float32)


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
    """Sums over what a layer reads in 8 bits (``x``) and would read in float (``y``), per group."""

    count: int
    mean_x: NDArray[np.float64]  # (groups, K)
    mean_y: NDArray[np.float64]
    xx: NDArray[np.float64]  # (groups, K, K): mean of x xᵀ
    yx: NDArray[np.float64]  # (groups, K, K): mean of y xᵀ

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance of what is read in 8 bits."""
        return self.xx - self.mean_x[:, :, None] * self.mean_x[:, None, :]

    @property
    def cross_covariance(self) -> NDArray[np.float64]:
        """Covariance of the float inputs (rows) with the 8-bit ones (columns)."""
        return self.yx - self.mean_y[:, :, None] * self.mean_x[:, None, :]


def moments(graph: Graph, op: WeightedOp, inputs: Iterable[tuple[NDArray[Any], NDArray[Any]]], seed: int) -> Moments:
    """Return the moments over pairs of (8-bit, float) inputs; the same random positions are taken from both."""
    count, sums = 0, [np.zeros(())] * 4
    for index, (in_eight_bits, in_float) in enumerate(inputs):
        x = patches(graph, op, in_eight_bits, np.random.default_rng([seed, op.node, index])).astype(np.float64)
        y = patches(graph, op, in_float, np.random.default_rng([seed, op.node, index])).astype(np.float64)
        turned = x.swapaxes(1, 2)
        parts = (x.sum(axis=1), y.sum(axis=1), np.matmul(turned, x), np.matmul(y.swapaxes(1, 2), x))
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
        count += x.shape[1]
    mean_x, mean_y, xx, yx = (total / count for total in sums)
    return Moments(count=count, mean_x=mean_x, mean_y=mean_y, xx=xx, yx=yx)
