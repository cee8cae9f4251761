"""What one layer sees: the patches that its weight is multiplied with, and their second moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.techniques.quantise.graph import attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgebuild.techniques.quantise.graph import Graph
    from edgebuild.techniques.quantise.placement import WeightedOp

#: Output positions looked at in one batch: neighbours are much alike.
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
    windows = windows[(slice(None), slice(None), *[slice(None, None, s) for s in strides])]
    windows = windows[(..., *[slice(None, None, d) for d in dilations])]
    grid = (windows.shape[0], *windows.shape[2 : 2 + spatial])
    some = rng.permutation(int(np.prod(grid)))[:POSITIONS]
    where = np.unravel_index(some, grid)
    picked = windows[(where[0], slice(None), *where[1:])]  # (positions, input channels, *kernel)
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
    """Running mean and second moments of a layer's patches, per group: (groups, K) and (groups, K, K)."""

    total: NDArray[np.float64] | None = None
    squares: NDArray[np.float64] | None = None
    count: int = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Count (groups, positions, K) patches."""
        wide = rows.astype(np.float64)
        total, squares = wide.sum(axis=1), np.matmul(wide.swapaxes(1, 2), wide)
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares
        self.count += rows.shape[1]

    def covariance(self, *, centred: bool) -> NDArray[np.float64]:
        """Return the mean outer product of the patches, about their mean where ``centred``."""
        assert self.total is not None and self.squares is not None  # noqa: S101 - only asked for after ``add``
        mean = self.total / self.count
        second = self.squares / self.count
        return second - mean[:, :, None] * mean[:, None, :] if centred else second


def moments(graph: Graph, op: WeightedOp, inputs: Iterator[NDArray[Any]], seed: int) -> Moments:
    """Return the moments of a layer over what it reads."""
    rng = np.random.default_rng([seed, op.node])
    result = Moments()
    for x in inputs:
        result.add(patches(graph, op, x, rng))
    return result
