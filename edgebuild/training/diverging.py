"""Where a loss stopped being a number: the first layer whose result is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgebuild.training.batches import call_on

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgebuild.training.batches import Batch


def finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())


def state_is_finite(module: nn.Module) -> bool:
    """Whether weights and buffers (running statistics, too) are finite."""
    return finite(module.state_dict().values())


def find_cause(module: nn.Module, batch: Batch) -> str:
    """Return what went wrong first when ``module`` runs on ``batch``, as the rest of a sentence.

    Runs the module once; its buffers may change.
    """
    if not finite(_tensors(batch.inputs)):
        return "the batch's inputs hold NaN or infinity"
    for name, parameter in module.named_parameters():
        if not finite([parameter]):
            return f"the weights {name!r} are not finite any more"
    found: list[str] = []
    handles = [
        layer.register_forward_hook(_watch(name, found))
        for name, layer in module.named_modules()
        if not any(layer.children())
    ]
    try:
        with torch.no_grad():
            outputs = call_on(module, batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return f"{found[0]!r} is the first layer whose result is not finite"
    if not finite(_tensors(outputs)):
        return "the model's result is not finite, though every layer's is"
    return "every layer's result is finite, so it is the loss itself"


def _watch(name: str, found: list[str]) -> Any:
    def hook(layer: nn.Module, inputs: Any, outputs: Any) -> None:
        del layer, inputs
        if not found and not finite(_tensors(outputs)):
            found.append(name)

    return hook


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, tuple | list) else []
