"""Takes channels out of layers, one function per sort of layer. Imports torch: import it inside functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

Indices = tuple[int, ...]
#: Gates of a recurrent layer: its weights are that many matrices, one below the other.
LSTM_GATES, GRU_GATES = 4, 3


def refuse(where: str, reason: str) -> ModelError:
    """Return the error for a layer that an edit doesn't fit."""
    return ModelError(f"The layer {where!r} can't be changed: {reason}.", hint="The edits belong to another model.")


def keep_channels(layer: nn.Module, where: str, outputs: Indices | None, inputs: Indices | None) -> None:
    """Keep these outputs and inputs of a layer, in place; raises ``ModelError`` naming the layer."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        _conv(layer, where, outputs, inputs)
    elif isinstance(layer, nn.Linear):
        _linear(layer, where, outputs, inputs)
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        _norm(layer, where, _same(outputs, inputs, where))
    elif isinstance(layer, nn.GroupNorm):
        _group_norm(layer, where, _same(outputs, inputs, where))
    elif isinstance(layer, nn.LayerNorm):
        _layer_norm(layer, where, _same(outputs, inputs, where))
    elif isinstance(layer, nn.PReLU):
        _prelu(layer, where, _same(outputs, inputs, where))
    elif isinstance(layer, nn.Embedding) and inputs is None:
        kept = _all(outputs, layer.embedding_dim, where, "outputs")
        select(layer, "weight", 1, kept)
        layer.embedding_dim = len(kept)
    elif isinstance(layer, nn.LSTM | nn.GRU):
        _recurrent(layer, where, outputs, inputs)
    else:
        raise refuse(where, f"channels can't be taken out of a {type(layer).__name__}")


def kept_by_group(kept: Indices, size: int, groups: int) -> list[list[int]]:
    """Return for each group the kept positions inside it."""
    width = size // groups
    found: list[list[int]] = [[] for _ in range(groups)]
    for index in kept:
        found[index // width].append(index % width)
    return found


def is_depthwise(layer: nn.Module) -> bool:
    """Whether every group of a convolution has one input."""
    return isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == layer.in_channels > 1


def _all(kept: Indices | None, size: int, where: str, side: str) -> Indices:
    if kept is None:
        return tuple(range(size))
    if kept[-1] >= size:
        raise refuse(where, f"{side} {kept[-1]} is to be kept, and it has {size}")
    return kept


def _same(outputs: Indices | None, inputs: Indices | None, where: str) -> Indices:
    """Layers that keep channels apart have one list of them."""
    if outputs is not None and inputs is not None and outputs != inputs:
        raise refuse(where, "its inputs and outputs are the same channels, and different ones are to be kept")
    kept = outputs if outputs is not None else inputs
    if kept is None:
        raise refuse(where, "no channels are named")
    return kept


def select(layer: nn.Module, name: str, axis: int, kept: Sequence[int]) -> None:
    """Keep these entries of one axis of a parameter or buffer, in place; an absent one is fine."""
    value = getattr(layer, name, None)
    if value is None:
        return
    with torch.no_grad():
        narrow = value.detach().index_select(axis, torch.tensor(kept, dtype=torch.long, device=value.device))
    _set(layer, name, narrow, value)


def _set(layer: nn.Module, name: str, narrow: torch.Tensor, before: torch.Tensor) -> None:
    """Put a new tensor in place of ``before``: a parameter that was frozen stays frozen."""
    if isinstance(before, nn.Parameter):
        setattr(layer, name, nn.Parameter(narrow.contiguous(), requires_grad=before.requires_grad))
    else:
        setattr(layer, name, narrow.contiguous())


def _conv(layer: nn.modules.conv._ConvNd, where: str, outputs: Indices | None, inputs: Indices | None) -> None:
    groups, transposed = layer.groups, isinstance(layer, nn.modules.conv._ConvTransposeNd)
    if is_depthwise(layer):
        outputs, inputs = _both_sides(layer, where, outputs, inputs)
    outs = kept_by_group(_all(outputs, layer.out_channels, where, "output"), layer.out_channels, groups)
    ins = kept_by_group(_all(inputs, layer.in_channels, where, "input"), layer.in_channels, groups)
    left = [g for g in range(groups) if outs[g] or ins[g]]
    counts = {(len(outs[g]), len(ins[g])) for g in left}
    if len(counts) != 1 or 0 in next(iter(counts)):
        raise refuse(where, f"its {groups} groups would keep different numbers of channels")
    ((each_out, each_in),) = counts
    rows, columns, height = (ins, outs, layer.in_channels) if transposed else (outs, ins, layer.out_channels)
    height //= groups
    with torch.no_grad():
        parts = [layer.weight[[g * height + row for row in rows[g]]][:, columns[g]] for g in left]
        _set(layer, "weight", torch.cat(parts), layer.weight)
    width = layer.out_channels // groups
    select(layer, "bias", 0, [g * width + out for g in left for out in outs[g]])
    layer.groups = len(left)
    layer.out_channels, layer.in_channels = each_out * len(left), each_in * len(left)


def _both_sides(
    layer: nn.modules.conv._ConvNd, where: str, outputs: Indices | None, inputs: Indices | None
) -> tuple[Indices | None, Indices | None]:
    """A depthwise convolution loses a channel on both sides where one side is named."""
    each = layer.out_channels // layer.groups
    if outputs is None and inputs is not None:
        kept = _all(inputs, layer.in_channels, where, "input")
        return tuple(i * each + j for i in kept for j in range(each)), inputs
    if inputs is None and outputs is not None:
        kept = _all(outputs, layer.out_channels, where, "output")
        return outputs, tuple(sorted({o // each for o in kept}))
    return outputs, inputs


def _linear(layer: nn.Linear, where: str, outputs: Indices | None, inputs: Indices | None) -> None:
    outs = _all(outputs, layer.out_features, where, "output")
    ins = _all(inputs, layer.in_features, where, "input")
    select(layer, "weight", 0, outs)
    select(layer, "bias", 0, outs)
    select(layer, "weight", 1, ins)
    layer.out_features, layer.in_features = len(outs), len(ins)


def _norm(layer: nn.modules.batchnorm._NormBase, where: str, kept: Indices) -> None:
    kept = _all(kept, layer.num_features, where, "channel")
    for name in ("weight", "bias", "running_mean", "running_var"):
        select(layer, name, 0, kept)
    layer.num_features = len(kept)


def _group_norm(layer: nn.GroupNorm, where: str, kept: Indices) -> None:
    kept = _all(kept, layer.num_channels, where, "channel")
    counts = [len(group) for group in kept_by_group(kept, layer.num_channels, layer.num_groups) if group]
    if len(set(counts)) != 1:
        raise refuse(where, f"its {layer.num_groups} groups would keep different numbers of channels")
    for name in ("weight", "bias"):
        select(layer, name, 0, kept)
    layer.num_groups, layer.num_channels = len(counts), len(kept)


def _layer_norm(layer: nn.LayerNorm, where: str, kept: Indices) -> None:
    if len(layer.normalized_shape) != 1:
        raise refuse(where, f"it normalises over {len(layer.normalized_shape)} axes at once")
    kept = _all(kept, layer.normalized_shape[0], where, "channel")
    for name in ("weight", "bias"):
        select(layer, name, 0, kept)
    layer.normalized_shape = (len(kept),)


def _prelu(layer: nn.PReLU, where: str, kept: Indices) -> None:
    if layer.num_parameters == 1:
        return
    kept = _all(kept, layer.num_parameters, where, "channel")
    select(layer, "weight", 0, kept)
    layer.num_parameters = len(kept)


def _recurrent(layer: nn.LSTM | nn.GRU, where: str, outputs: Indices | None, inputs: Indices | None) -> None:
    if getattr(layer, "proj_size", 0):
        raise refuse(where, "it projects its hidden state")
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    if inputs is not None:
        kept_inputs = _all(inputs, layer.input_size, where, "input")
        for suffix in directions:
            select(layer, f"weight_ih_l0{suffix}", 1, kept_inputs)
        layer.input_size = len(kept_inputs)
    if outputs is None:
        return
    if layer.num_layers != 1:
        raise refuse(where, f"it has {layer.num_layers} layers, whose hidden units can't be distinguished from outside")
    size = layer.hidden_size
    kept = _all(outputs, size * len(directions), where, "output")
    units = kept_by_group(kept, size * len(directions), len(directions))
    if len({len(each) for each in units}) != 1:
        raise refuse(where, "its two directions would keep different numbers of hidden units")
    gates = LSTM_GATES if isinstance(layer, nn.LSTM) else GRU_GATES
    for suffix, own in zip(directions, units, strict=True):
        rows = [gate * size + unit for gate in range(gates) for unit in own]
        for name in (f"weight_ih_l0{suffix}", f"weight_hh_l0{suffix}", f"bias_ih_l0{suffix}", f"bias_hh_l0{suffix}"):
            select(layer, name, 0, rows)
        select(layer, f"weight_hh_l0{suffix}", 1, own)
    layer.hidden_size = len(units[0])
    layer.flatten_parameters()
