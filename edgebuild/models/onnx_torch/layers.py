"""Operators that become layers: convolutions, normalisations, activations, pooling, tables. Imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn

from edgebuild.models.onnx_torch import functions
from edgebuild.models.onnx_torch.graph import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from edgebuild.models.onnx_torch.call import Call

    Reading = Callable[[Call], Any]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
MEAN_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
GLOBAL_MAX = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
GLOBAL_MEAN = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def _parameter(array: NDArray[Any]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(array)))


def _of_axes(kinds: Sequence[Any], axes: int) -> Any:
    if not 1 <= axes <= len(kinds):
        raise Unreadable(f"works on {axes} axes")
    return kinds[axes - 1]


class _Window:
    """Kernel, strides, dilations and padding of a node that slides over the axes behind the second."""

    def __init__(self, call: Call, kernel: Sequence[int]) -> None:
        self.kernel = tuple(int(size) for size in kernel)
        count = len(self.kernel)
        self.strides = tuple(call.get("strides", [1] * count))
        self.dilations = tuple(call.get("dilations", [1] * count))
        pads = self._auto(call) or tuple(call.get("pads", [0] * (2 * count)))
        self.before, self.after = pads[:count], pads[count:]
        if min((*self.before, *self.after), default=0) < 0:
            raise Unreadable(f"has pads = {list(pads)}")

    @property
    def symmetric(self) -> bool:
        return self.before == self.after

    @property
    def amounts(self) -> list[int]:
        """The padding as torch's functions take it: the last axis first."""
        return [size for pair in zip(self.before[::-1], self.after[::-1], strict=True) for size in pair]

    def _auto(self, call: Call) -> tuple[int, ...] | None:
        mode = call.get("auto_pad", "NOTSET")
        if not mode.startswith("SAME"):
            return None if mode == "NOTSET" else (0,) * (2 * len(self.kernel))
        spans = [(size - 1) * dilation for size, dilation in zip(self.kernel, self.dilations, strict=True)]
        if any(stride > 1 for stride in self.strides):
            sizes = call.builder.dims(call.tensor(0))[2:]
            if None in sizes:
                raise Unreadable(f"pads by auto_pad = {mode} over a dynamic size")
            spans = [
                max((-(-size // stride) - 1) * stride + span + 1 - size, 0)
                for size, stride, span in zip(sizes, self.strides, spans, strict=True)
                if size is not None
            ]
        less, more = [span // 2 for span in spans], [span - span // 2 for span in spans]
        return (*less, *more) if mode == "SAME_UPPER" else (*more, *less)

    def padded(self, call: Call, x: fx.Node, value: float) -> fx.Node:
        """Return the input padded by hand, for layers that pad both ends alike."""
        return call.builder.call(functions.pad, x, self.amounts, "constant", value)


def _conv(call: Call) -> Any:
    weight, bias = call.array(1), call.array(2) if call.has(2) else None
    window, groups, x = _Window(call, weight.shape[2:]), call.get("group", 1), call.tensor(0)
    kind = _of_axes(CONVOLUTIONS, len(window.kernel))
    if not window.symmetric:
        x = window.padded(call, x, 0.0)

    def make() -> Any:
        layer = kind(
            weight.shape[1] * groups,
            weight.shape[0],
            window.kernel,
            stride=window.strides,
            padding=window.before if window.symmetric else 0,
            dilation=window.dilations,
            groups=groups,
            bias=bias is not None,
        )
        return _weighted(layer, weight, bias)

    return call.builder.layer(call.label, make, x, key=call.key())


def _conv_transpose(call: Call) -> Any:
    weight, bias = call.array(1), call.array(2) if call.has(2) else None
    window, groups = _Window(call, weight.shape[2:]), call.get("group", 1)
    if not window.symmetric or call.get("auto_pad", "NOTSET").startswith("SAME") or call.get("output_shape"):
        raise Unreadable("pads both ends differently")
    kind = _of_axes(TRANSPOSED, len(window.kernel))

    def make() -> Any:
        layer = kind(
            weight.shape[0],
            weight.shape[1] * groups,
            window.kernel,
            stride=window.strides,
            padding=window.before,
            output_padding=tuple(call.get("output_padding", [0] * len(window.kernel))),
            dilation=window.dilations,
            groups=groups,
            bias=bias is not None,
        )
        return _weighted(layer, weight, bias)

    return call.builder.layer(call.label, make, call.tensor(0), key=call.key())


def _weighted(layer: Any, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
    layer.weight = _parameter(weight)
    if bias is not None:
        layer.bias = _parameter(bias)
    return layer


def _max_pool(call: Call) -> Any:
    window, x = _Window(call, call.get("kernel_shape")), call.tensor(0)
    padding = window.before
    if not window.symmetric or any(2 * pad > size for pad, size in zip(padding, window.kernel, strict=True)):
        x, padding = window.padded(call, x, -float("inf")), (0,) * len(padding)
    kind, ceil = _of_axes(MAX_POOLS, len(window.kernel)), bool(call.get("ceil_mode", 0))
    return call.builder.layer(
        call.label, lambda: kind(window.kernel, window.strides, padding, window.dilations, ceil_mode=ceil), x
    )


def _mean_pool(call: Call) -> Any:
    call.refuse("dilations", None, [1] * len(call.get("kernel_shape")))
    window, x = _Window(call, call.get("kernel_shape")), call.tensor(0)
    counted, ceil = bool(call.get("count_include_pad", 0)), bool(call.get("ceil_mode", 0))
    padding = window.before
    if not window.symmetric or any(2 * pad > size for pad, size in zip(padding, window.kernel, strict=True)):
        if not counted:
            if ceil or len(padding) != 2:
                raise Unreadable("averages over what isn't padding, and pads both ends differently")
            return call.builder.call(functions.mean_pool, x, window.kernel, window.strides, window.amounts)
        x, padding = window.padded(call, x, 0.0), (0,) * len(padding)
    kind = _of_axes(MEAN_POOLS, len(window.kernel))
    return call.builder.layer(
        call.label, lambda: kind(window.kernel, window.strides, padding, ceil_mode=ceil, count_include_pad=counted), x
    )


def _global_pool(kinds: Sequence[Any]) -> Reading:
    def read(call: Call) -> Any:
        x = call.tensor(0)
        kind = _of_axes(kinds, call.builder.rank(x) - 2)
        return call.builder.layer(call.label, lambda: kind(1), x)

    return read


def _batch_norm(call: Call) -> Any:
    call.refuse("training_mode", 0)
    call.refuse("spatial", 1)
    x, (scale, bias, mean, variance) = call.tensor(0), (call.array(i) for i in range(1, 5))
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    kind = kinds.get(call.builder.rank(x))
    if kind is None:
        raise Unreadable(f"normalises a tensor of {call.builder.rank(x)} axes")

    def make() -> Any:
        layer = kind(len(scale), eps=call.get("epsilon", 1e-5), momentum=1.0 - call.get("momentum", 0.9))
        layer.running_mean, layer.running_var = (torch.from_numpy(np.array(each)) for each in (mean, variance))
        return _weighted(layer, scale, bias)

    return call.builder.layer(call.label, make, x, key=call.key())


def _instance_norm(call: Call) -> Any:
    x, scale, bias = call.tensor(0), call.array(1), call.array(2)
    kind = _of_axes(INSTANCE_NORMS, call.builder.rank(x) - 2)
    epsilon = call.get("epsilon", 1e-5)
    return call.builder.layer(
        call.label, lambda: _weighted(kind(len(scale), eps=epsilon, affine=True), scale, bias), x, key=call.key()
    )


def _layer_norm(call: Call) -> Any:
    x, scale = call.tensor(0), call.array(1)
    bias = call.array(2) if call.has(2) else None
    shape = call.builder.shapes(x)[0][call.axis(-1, x) :]
    if scale.size != int(np.prod(shape)):
        raise Unreadable(f"scales {list(shape)} by {list(scale.shape)}")

    def make() -> Any:
        layer = nn.LayerNorm(shape, eps=call.get("epsilon", 1e-5), bias=bias is not None)
        return _weighted(layer, scale.reshape(shape), None if bias is None else bias.reshape(shape))

    return call.builder.layer(call.label, make, x, key=call.key())


def _group_norm(call: Call) -> Any:
    x, scale, bias, groups = call.tensor(0), call.array(1), call.array(2), call.get("num_groups")
    channels = call.builder.shapes(x)[0][1]
    if len(scale) != channels:
        scale, bias = (np.repeat(each, channels // groups) for each in (scale, bias))
    epsilon = call.get("epsilon", 1e-5)
    return call.builder.layer(
        call.label, lambda: _weighted(nn.GroupNorm(groups, channels, eps=epsilon), scale, bias), x, key=call.key()
    )


def _response_norm(call: Call) -> Any:
    size, bias = call.get("size"), call.get("bias", 1.0)
    alpha, beta = call.get("alpha", 1e-4), call.get("beta", 0.75)
    return call.builder.layer(call.label, lambda: nn.LocalResponseNorm(size, alpha, beta, bias), call.tensor(0))


def _activation(make: Callable[[Call], nn.Module]) -> Reading:
    return lambda call: call.builder.layer(call.label, lambda: make(call), call.tensor(0))


def _prelu(call: Call) -> Any:
    x, slope = call.tensor(0), call.array(1)
    width = call.builder.shapes(x)[0][1] if call.builder.rank(x) > 1 else 1
    if slope.size not in {1, width}:
        raise Unreadable(f"has slopes of shape {list(slope.shape)}")

    def make() -> Any:
        layer = nn.PReLU(slope.size)
        layer.weight = _parameter(slope.reshape(-1))
        return layer

    return call.builder.layer(call.label, make, x, key=call.key())


def _clip(call: Call) -> Any:
    lowest, highest = (call.known(name, index) for name, index in (("min", 1), ("max", 2)))
    low, high = (None if each is None else each[0] for each in (lowest, highest))
    x = call.tensor(0)
    if low is None or high is None or not x.meta["tried"][0].dtype.is_floating_point:
        return call.builder.call(torch.clamp, x, low, high) if (low, high) != (None, None) else x
    kind = nn.ReLU6() if (low, high) == (0.0, 6.0) else nn.Hardtanh(low, high)
    return call.builder.layer(call.label, lambda: kind, x)


def _hard_sigmoid(call: Call) -> Any:
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-4 and beta == 0.5:
        return call.builder.layer(call.label, nn.Hardsigmoid, call.tensor(0))
    return call.builder.call(functions.hard_sigmoid, call.tensor(0), alpha, beta)


def _dropout(call: Call) -> Any:
    ratio = (call.known("ratio", 1) or (0.5,))[0]
    if call.has(2) and bool(call.array(2)):
        raise Unreadable("drops out at inference, too")
    return call.builder.layer(call.label, lambda: nn.Dropout(float(ratio)), call.tensor(0))


OPERATORS: dict[str, Reading] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _mean_pool,
    "GlobalMaxPool": _global_pool(GLOBAL_MAX),
    "GlobalAveragePool": _global_pool(GLOBAL_MEAN),
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "LRN": _response_norm,
    "PRelu": _prelu,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "Dropout": _dropout,
    "Relu": _activation(lambda _: nn.ReLU()),
    "LeakyRelu": _activation(lambda call: nn.LeakyReLU(call.get("alpha", 0.01))),
    "Elu": _activation(lambda call: nn.ELU(call.get("alpha", 1.0))),
    "Celu": _activation(lambda call: nn.CELU(call.get("alpha", 1.0))),
    "Gelu": _activation(lambda call: nn.GELU(call.get("approximate", "none"))),
    "HardSwish": _activation(lambda _: nn.Hardswish()),
    "Mish": _activation(lambda _: nn.Mish()),
    "Selu": _activation(lambda _: nn.SELU()),
    "Sigmoid": _activation(lambda _: nn.Sigmoid()),
    "Softplus": _activation(lambda _: nn.Softplus()),
    "Softsign": _activation(lambda _: nn.Softsign()),
    "Tanh": _activation(lambda _: nn.Tanh()),
}
