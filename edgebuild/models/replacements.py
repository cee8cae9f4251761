"""The modules that may stand in another's place. Each is made of plain layers, so that later edits reach inside.

Imports torch: import it inside functions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from edgebuild.errors import ModelError
from edgebuild.models import edits
from edgebuild.models.narrowing import refuse

if TYPE_CHECKING:
    from collections.abc import Callable


def replacement(
    layer: nn.Module, where: str, by: edits.Replacement, user: Callable[[str], Callable[..., Any]]
) -> nn.Module:
    """Return what takes the layer's place, with weights yet to be set; raises ``ModelError`` where it doesn't fit."""
    match by:
        case edits.LowRankLinear():
            return _low_rank(layer, where, by.rank)
        case edits.Tucker2Conv():
            return _tucker2(layer, where, by.rank_in, by.rank_out)
        case edits.SeparableConv():
            return _separable(layer, where, norm=by.norm)
        case edits.MonarchLinear():
            return Monarch.like(_expect_linear(layer, where), by.blocks, where)
        case edits.Identity():
            return First()
        case edits.ShallowNet():
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(by.inputs, by.bottleneck, bias=False),
                nn.Linear(by.bottleneck, by.hidden),
                nn.ReLU(),
                nn.Linear(by.hidden, by.outputs),
            )
        case edits.UserModule():
            made = user(by.reference)(layer)
            if not isinstance(made, nn.Module):
                raise refuse(where, f"{by.reference} made a {type(made).__name__} of it, not a torch.nn.Module")
            return made


class First(nn.Module):
    """Returns its first argument, as a removed block does."""

    def forward(self, x: Any, *rest: Any, **named: Any) -> Any:
        """Return ``x``."""
        del rest, named
        return x


class Monarch(nn.Module):
    """Two block-diagonal matrices with a shuffle between: y = (R · shuffle · L) x + b.

    ``left`` is (blocks, inputs / blocks, inputs / blocks), ``right`` is (blocks, inputs / blocks, outputs / blocks).
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, *, bias: bool) -> None:
        super().__init__()
        inner = inputs // blocks
        self.left = nn.Parameter(torch.randn(blocks, inner, inner) / math.sqrt(inner))
        self.right = nn.Parameter(torch.randn(blocks, inner, outputs // blocks) / math.sqrt(inner))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    @classmethod
    def like(cls, layer: nn.Linear, blocks: int, where: str) -> Monarch:
        """Return one of the layer's size."""
        if layer.in_features % blocks or layer.out_features % blocks:
            raise refuse(where, f"{blocks} blocks don't divide its {layer.in_features} x {layer.out_features}")
        return cls(layer.in_features, layer.out_features, blocks, bias=layer.bias is not None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the last axis."""
        blocks, inner, _ = self.left.shape
        parts = x.reshape(*x.shape[:-1], blocks, 1, inner)
        mixed = (parts @ self.left).squeeze(-2).transpose(-1, -2)
        # What was (inner, blocks) is taken in blocks of another kind: every block now sees all others.
        shuffled = mixed.reshape(*x.shape[:-1], blocks, 1, inner)
        y: torch.Tensor = (shuffled @ self.right).squeeze(-2).flatten(-2)
        return y if self.bias is None else y + self.bias


class Heads(nn.Module):
    """Self-attention with fewer heads than ``torch.nn.MultiheadAttention`` can have, called as that is.

    Its weights are the plain layers ``query``, ``key``, ``value`` and ``out``. Returns no attention weights.
    """

    def __init__(self, width: int, heads: int, head_width: int, *, bias: bool, batch_first: bool) -> None:
        super().__init__()
        self.heads, self.head_width, self.batch_first = heads, head_width, batch_first
        inner = heads * head_width
        self.query, self.key, self.value = (nn.Linear(width, inner, bias=bias) for _ in range(3))
        self.out = nn.Linear(inner, width, bias=bias)
        # torch's own encoder layer looks at these before it takes a fused path, which this isn't made for.
        self._qkv_same_embed_dim, self.in_proj_bias = False, None

    @classmethod
    def of(cls, layer: nn.MultiheadAttention, where: str) -> Heads:
        """Return a module that computes as ``layer`` does, with its weights."""
        if not layer._qkv_same_embed_dim or layer.bias_k is not None or layer.add_zero_attn:
            raise refuse(where, "only a plain self-attention can lose heads")
        width, bias = layer.embed_dim, layer.in_proj_bias is not None
        made = cls(width, layer.num_heads, layer.head_dim, bias=bias, batch_first=layer.batch_first)
        with torch.no_grad():
            weights = layer.in_proj_weight.chunk(3)
            biases = layer.in_proj_bias.chunk(3) if layer.in_proj_bias is not None else (None,) * 3
            for part, weight, offset in zip((made.query, made.key, made.value), weights, biases, strict=True):
                part.weight.copy_(weight)
                if offset is not None:
                    part.bias.copy_(offset)
            made.out.load_state_dict(layer.out_proj.state_dict())
        for parameter in made.parameters():
            parameter.requires_grad_(layer.in_proj_weight.requires_grad)
        return made.train(layer.training)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, None]:
        """Attend; (batch, length, width) where ``batch_first``, else (length, batch, width)."""
        del need_weights, average_attn_weights
        if key_padding_mask is not None:
            raise NotImplementedError("attention that lost heads takes no padding mask")
        parts = [layer(x) for layer, x in zip((self.query, self.key, self.value), (query, key, value), strict=True)]
        if not self.batch_first:
            parts = [part.transpose(0, 1) for part in parts]
        q, k, v = (part.reshape(*part.shape[:-1], self.heads, self.head_width).transpose(1, 2) for part in parts)
        causal = is_causal and attn_mask is None
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=causal)
        joined = attended.transpose(1, 2).flatten(-2)
        return self.out(joined if self.batch_first else joined.transpose(0, 1)), None


class Head(nn.Module):
    """An early exit: the mean over all axes behind the channels, or over the cells of a grid, then dense layers."""

    def __init__(self, features: int, outputs: int, hidden: int, grid: int = 1) -> None:
        super().__init__()
        self.grid = grid
        features *= grid**2
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.out = nn.Linear(hidden or features, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the exit's own outputs."""
        if self.grid > 1:
            x = _cells(x, self.grid).flatten(1)
        elif x.dim() > 2:
            x = x.flatten(2).mean(-1)
        if self.hidden is not None:
            x = functional.relu(self.hidden(x))
        result: torch.Tensor = self.out(x)
        return result


def _cells(x: torch.Tensor, grid: int) -> torch.Tensor:
    """Return the means over ``grid`` by ``grid`` cells of an image, overlapping where its sides are no multiples.

    A plain pooling: runtimes have kernels for it, and none for an adaptive one.
    """
    sides = [int(side) for side in x.shape[2:]]
    if len(sides) != 2 or min(sides) < grid:
        raise ModelError(
            f"A head's grid of {grid}x{grid} cells doesn't fit an output of shape {list(x.shape)}.",
            hint="It is for images of at least that size: take a smaller one, or another layer.",
        )
    strides = [side // grid for side in sides]
    kernels = [side - (grid - 1) * stride for side, stride in zip(sides, strides, strict=True)]
    return functional.avg_pool2d(x, kernels, strides)


class WithHeads(nn.Module):
    """A model with early exits: returns the outputs of all heads in order, then the model's own."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.heads = nn.ModuleDict()
        self.after: dict[str, str] = {}

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        """Run the body once; heads read what their module gave."""
        seen: dict[str, torch.Tensor] = {}
        watched = {name: self.body.get_submodule(where) for name, where in self.after.items()}

        def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def note(module: nn.Module, args: Any, output: Any) -> None:
                del module, args
                seen[name] = output

            return note

        handles = [module.register_forward_hook(watch(name)) for name, module in watched.items()]
        try:
            own = self.body(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        exits = tuple(self.heads[name](seen[name]) for name in self.after)
        return (*exits, *(own if isinstance(own, tuple | list) else (own,)))


def _expect_linear(layer: nn.Module, where: str) -> nn.Linear:
    if not isinstance(layer, nn.Linear):
        raise refuse(where, f"it is a {type(layer).__name__}, not a dense layer")
    _expect_plain(layer, where)
    return layer


def _expect_plain(layer: nn.Module, where: str) -> None:
    """What a layer computes beyond its weights (standardising them, say, or by hooks) would be lost with it."""
    own = type(layer)
    base = next(kind for kind in own.__mro__ if kind.__module__.startswith("torch.nn.modules."))
    alike = all(getattr(own, name, None) is getattr(base, name, None) for name in ("forward", "_conv_forward"))
    if not alike or layer._forward_pre_hooks or layer._forward_hooks:
        raise refuse(where, f"as a {own.__name__} it computes in a way of its own, which would be lost")


def _expect_conv(layer: nn.Module, where: str) -> nn.modules.conv._ConvNd:
    if not isinstance(layer, nn.modules.conv._ConvNd) or isinstance(layer, nn.modules.conv._ConvTransposeNd):
        raise refuse(where, f"it is a {type(layer).__name__}, not a convolution")
    if layer.groups != 1:
        raise refuse(where, f"it has {layer.groups} groups already")
    _expect_plain(layer, where)
    return layer


def _low_rank(layer: nn.Module, where: str, rank: int) -> nn.Module:
    dense = _expect_linear(layer, where)
    if rank > min(dense.in_features, dense.out_features):
        raise refuse(where, f"rank {rank} is more than its {dense.in_features} x {dense.out_features} can have")
    return nn.Sequential(
        nn.Linear(dense.in_features, rank, bias=False),
        nn.Linear(rank, dense.out_features, bias=dense.bias is not None),
    )


def _tucker2(layer: nn.Module, where: str, rank_in: int, rank_out: int) -> nn.Module:
    conv = _expect_conv(layer, where)
    if rank_in > conv.in_channels or rank_out > conv.out_channels:
        raise refuse(
            where, f"ranks {rank_in}, {rank_out} are more than its {conv.in_channels} and {conv.out_channels} channels"
        )
    kind = _kind(conv)
    return nn.Sequential(
        kind(conv.in_channels, rank_in, 1, bias=False),
        kind(rank_in, rank_out, bias=False, **_geometry(conv)),
        kind(rank_out, conv.out_channels, 1, bias=conv.bias is not None),
    )


def _separable(layer: nn.Module, where: str, *, norm: bool) -> nn.Module:
    conv = _expect_conv(layer, where)
    kind, width = _kind(conv), conv.in_channels
    norms = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    depthwise = kind(width, width, groups=width, bias=not norm, **_geometry(conv))
    middle = [norms[len(conv.kernel_size)](width), nn.ReLU()] if norm else []
    return nn.Sequential(depthwise, *middle, kind(width, conv.out_channels, 1, bias=conv.bias is not None))


def _kind(conv: nn.modules.conv._ConvNd) -> Any:
    return {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(conv.kernel_size)]


def _geometry(conv: nn.modules.conv._ConvNd) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    return {name: getattr(conv, name) for name in names}
