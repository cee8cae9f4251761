"""How large a torch model is: MACs and parameters. Imports torch: import it inside functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import nn

from edgebuild.models.replacements import Monarch

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

#: Layers with weights; an attention whose parts are plain layers is counted by those.
COUNTED = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.MultiheadAttention, Monarch)


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers the module's parameters hold, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], run: Callable[[nn.Module, tuple[torch.Tensor, ...]], Any]
) -> int:
    """Return the MACs of weights for one sample: convolutions, dense, recurrent, attention layers."""
    return sum(layer_macs(module, inputs, run).values())


def layer_macs(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], run: Callable[[nn.Module, tuple[torch.Tensor, ...]], Any]
) -> dict[str, int]:
    """Return the MACs of each layer with weights, by name; a layer that is used twice counts twice."""
    import torch

    found: dict[str, int] = {}
    batch = max(1, len(inputs[0]) if inputs[0].dim() else 1)
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, COUNTED):

            def note(layer: nn.Module, args: Any, output: Any, name: str = name) -> None:
                found[name] = found.get(name, 0) + _macs(layer, args, output) // batch

            handles.append(layer.register_forward_hook(note))
    try:
        with torch.no_grad():
            run(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _macs(layer: Any, args: Any, output: Any) -> int:
    if isinstance(layer, nn.modules.conv._ConvNd):
        kernel = math.prod(layer.kernel_size)
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):
            return int(args[0].numel()) * layer.out_channels // layer.groups * kernel
        return int(output.numel()) * layer.in_channels // layer.groups * kernel
    if isinstance(layer, nn.Linear):
        return int(output.numel()) * layer.in_features
    if isinstance(layer, nn.RNNBase):
        steps = int(args[0].shape[0] * args[0].shape[1]) if args[0].dim() == 3 else int(args[0].shape[0])
        return steps * sum(p.numel() for n, p in layer.named_parameters() if n.startswith("weight"))
    if isinstance(layer, Monarch):
        rows = int(args[0].numel()) // int(args[0].shape[-1])
        return rows * (layer.left.numel() + layer.right.numel())
    rows = int(args[0].numel()) // int(args[0].shape[-1])
    return rows * int(layer.out_proj.weight.numel() + sum(w.numel() for w in _projections(layer)))


def _projections(attention: Any) -> list[torch.Tensor]:
    """The weights of an attention's inputs: read as attributes, for one that is masked or shared is no parameter."""
    names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return [weight for name in names if (weight := getattr(attention, name)) is not None]
