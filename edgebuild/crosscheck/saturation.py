"""What an int8 kernel without VNNI makes of a layer: products of two neighbours are added in 16 bits, and saturate.

VPMADDUBSW multiplies unsigned by signed bytes and adds each neighbouring pair with signed saturation to 16 bits (Intel
64 and IA-32 Architectures Software Developer's Manual, vol. 2, PMADDUBSW); the pairs are then added exactly. Kernels
shift signed activations by 128 first. Which products are neighbours is the kernel's choice: both usual orders of a
convolution's window, channels last and channels first, can be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.models.qdq import QdqGraph

#: More multiplications than this aren't simulated: about ten seconds.
MOST_PRODUCTS = 3_000_000_000
INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or matrix product whose operands are in 8 bits: ``source`` names its activation's codes."""

    node: Any
    source: str
    scale: float
    zero_point: int
    shift: int
    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.float32] | None


def layer_of(graph: QdqGraph, index: int) -> Layer | None:
    """Return a node as such a layer; None where it isn't one, or has a form that isn't simulated."""
    node = graph.nodes[index]
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    maker = graph.nodes[graph.producer[node.input[0]]] if node.input[0] in graph.producer else None
    stored = graph.weight(node.input[1])
    if maker is None or maker.op_type != "DequantizeLinear" or stored is None:
        return None
    activation = graph.quantised.get(maker.input[0])
    if activation is None or activation.scale.size != 1:
        return None
    weight, scale, axis = stored
    transposed = node.op_type == "Gemm" and _int(node, "transB", 0)
    own = 0 if node.op_type == "Conv" or transposed else 1
    if scale.size != 1 and axis % weight.ndim != own:
        return None
    bias = None
    if node.op_type != "MatMul" and len(node.input) > 2 and node.input[2]:
        bias = _real(graph, node.input[2])
        if bias is None:
            return None
    return Layer(
        node=node,
        source=activation.codes,
        scale=float(activation.scale.reshape(())),
        zero_point=int(activation.zero_point.reshape(())),
        shift=128 if activation.dtype == np.int8 else 0,
        weight=np.ascontiguousarray(weight.T) if transposed else weight,
        weight_scale=scale.reshape(-1),
        bias=bias,
    )


def saturated(layer: Layer, codes: NDArray[Any], *, channels_last: bool) -> NDArray[np.float32] | None:
    """Return the layer's float output with 16-bit saturation; None for a form or size that isn't simulated."""
    unsigned = codes.astype(np.int32) + layer.shift
    zero = layer.zero_point + layer.shift
    if layer.node.op_type == "Conv":
        return _convolution(layer, unsigned, zero, channels_last)
    if layer.weight.ndim != 2 or _int(layer.node, "transA", 0) or unsigned.size * layer.weight.shape[1] > MOST_PRODUCTS:
        return None
    rows = unsigned.reshape(-1, unsigned.shape[-1])
    sums = _sums(rows, layer.weight.T.astype(np.int32), zero)
    real = _reals(layer, sums, slice(None))
    return real.reshape(*unsigned.shape[:-1], -1)


def _convolution(
    layer: Layer, unsigned: NDArray[np.int32], zero: int, channels_last: bool
) -> NDArray[np.float32] | None:
    node, weight = layer.node, layer.weight.astype(np.int32)
    spatial = weight.ndim - 2
    if unsigned.ndim != spatial + 2 or _text(node, "auto_pad") not in ("", "NOTSET", "VALID"):
        return None
    strides, dilations = (_ints(node, name, [1] * spatial) for name in ("strides", "dilations"))
    pads = _ints(node, "pads", [0] * 2 * spatial)
    groups = _int(node, "group", 1)
    padded = np.pad(unsigned, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)], constant_values=zero)
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    axes = tuple(range(2, 2 + spatial))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
    windows = windows[(*(slice(None),) * (2 + spatial), *(slice(None, None, d) for d in dilations))]
    batch, places = windows.shape[0], windows.shape[2 : 2 + spatial]
    count = int(np.prod(places)) * batch
    if count * weight.size > MOST_PRODUCTS:
        return None
    # (batch, places, channels, kernel), the order in which a kernel walks through a window.
    moved = np.moveaxis(windows, 1, 1 + spatial)
    depth, width = weight.shape[1], weight.shape[0] // groups
    parts = []
    for group in range(groups):
        own = moved[(*[slice(None)] * (1 + spatial), slice(group * depth, (group + 1) * depth))]
        kernels = weight[group * width : (group + 1) * width]
        if channels_last:
            own, kernels = np.moveaxis(own, 1 + spatial, -1), np.moveaxis(kernels, 1, -1)
        sums = _sums(own.reshape(count, -1), kernels.reshape(width, -1), zero)
        parts.append(_reals(layer, sums, slice(group * width, (group + 1) * width)))
    real = np.concatenate(parts, axis=1).reshape(batch, *places, -1)
    return np.ascontiguousarray(np.moveaxis(real, -1, 1))


def _sums(rows: NDArray[np.int32], kernels: NDArray[np.int32], zero: int) -> NDArray[np.int64]:
    """Sums of products, neighbours added in 16 bits; the zero point's part is subtracted exactly."""
    if rows.shape[1] % 2:
        rows, kernels = (np.pad(part, [(0, 0), (0, 1)]) for part in (rows, kernels))
    found = np.empty((len(rows), len(kernels)), np.int64)
    for index, kernel in enumerate(kernels):
        products = rows * kernel
        pairs = np.clip(products[:, ::2] + products[:, 1::2], INT16.min, INT16.max)
        found[:, index] = pairs.sum(axis=1, dtype=np.int64) - zero * int(kernel.sum())
    return found


def _reals(layer: Layer, sums: NDArray[np.int64], channels: slice) -> NDArray[np.float32]:
    scale = layer.weight_scale if layer.weight_scale.size == 1 else layer.weight_scale[channels]
    real = sums * (layer.scale * scale.astype(np.float64))
    if layer.bias is not None:
        bias = layer.bias.reshape(-1)
        real = real + (bias if bias.size == 1 else bias[channels])
    return np.asarray(real, dtype=np.float32)


def _real(graph: QdqGraph, name: str) -> NDArray[np.float32] | None:
    """A constant as reals, stored so or dequantised."""
    plain = graph.constant(name)
    if plain is not None:
        return np.asarray(plain, dtype=np.float32)
    node = graph.nodes[graph.producer[name]] if name in graph.producer else None
    if node is None or node.op_type != "DequantizeLinear":
        return None
    codes, scale = graph.constant(node.input[0]), graph.constant(node.input[1])
    return None if codes is None or scale is None else np.asarray(codes * scale, dtype=np.float32)


def _int(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _ints(node: Any, name: str, default: list[int]) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), default)


def _text(node: Any, name: str) -> str:
    return next((a.s.decode() for a in node.attribute if a.name == name), "")
