"""What channels are worth: by the loss they would cost, by their weights' size, or at random.

Imports torch: import it inside functions.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models.interpreter import layer_at
from edgebuild.models.narrowing import GRU_GATES, LSTM_GATES, is_depthwise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgebuild.techniques.pruning.channel_groups import Group, Member
    from edgebuild.techniques.pruning.parameters import PruneParameters
    from edgebuild.techniques.workspace import Workspace

#: Samples that gradients are taken of at once, at most, and what may be kept for their backward pass.
TAYLOR_BATCH = 32
TAYLOR_BYTES = 512 * 1024 * 1024


def group_scores(work: Workspace, groups: list[Group], p: PruneParameters, turn: int) -> Iterator[torch.Tensor]:
    """Yield a score for every channel of every group, larger for what is worth more."""
    if p.importance == "random":
        generator = torch.Generator().manual_seed(work.ctx.seed * 1000 + turn)
        yield from (torch.rand(group.width, generator=generator) for group in groups)
    elif p.importance == "l2":
        for group in groups:
            total = torch.zeros(group.width, dtype=torch.float64)
            for member in group.members:
                _add(total, member, work.module, lambda tensor: tensor.detach().double().pow(2))
            yield total.sqrt()
    else:
        yield from _taylor(work, groups, p.samples)


def _taylor(work: Workspace, groups: list[Group], samples: int) -> list[torch.Tensor]:
    def of_batch(module: nn.Module) -> list[torch.Tensor]:
        found = []
        for group in groups:
            score = torch.zeros(group.width, dtype=torch.float64)
            for member in group.members:
                _add(score, member, module, times_gradient)
            found.append(score)
        return found

    return taylor_scores(work, samples, of_batch)


def taylor_scores(
    work: Workspace, samples: int, of_batch: Callable[[nn.Module], list[torch.Tensor]]
) -> list[torch.Tensor]:
    """Sum over batches of (sum of weight x gradient over a channel's weights) squared.

    ``of_batch`` gives that inner sum, after a backward pass, for every group. Source: Molchanov et al. 2019,
    "Importance Estimation for Neural Network Pruning", equation 8, over groups. Raises ``ModelError`` where the loss
    isn't finite.
    """
    module = copy.deepcopy(work.module).requires_grad_(True)
    totals: list[torch.Tensor] = []
    batch = max(1, min(TAYLOR_BATCH, TAYLOR_BYTES // max(1, kept_bytes(work, module))))
    for inputs, target in work.batches(work.dataset(train=True), batch, limit=samples, shuffle=True):
        module.zero_grad(set_to_none=True)
        torch.autograd.backward(work.loss(work.run(module, inputs), target))
        squares = [score.pow(2) for score in of_batch(module)]
        totals = [a + b for a, b in zip(totals, squares, strict=True)] if totals else squares
    if not all(bool(torch.isfinite(total).all()) for total in totals):
        raise ModelError("The loss is NaN or infinite on the training data.", hint="Look at the loss and at the data.")
    return totals


def kept_bytes(work: Workspace, module: nn.Module) -> int:
    """Return how many bytes a sample's forward pass keeps for the backward pass, weights not counted."""
    seen = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        results = work.run(module, work.examples)
    samples = max((len(example) for example in work.examples if example.dim()), default=1)
    del results
    return kept // max(1, samples)


def times_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Return weight x gradient, zero where there is none."""
    if tensor.grad is None:
        return torch.zeros_like(tensor, dtype=torch.float64)
    return tensor.detach().double() * tensor.grad.double()


def _add(total: torch.Tensor, member: Member, module: nn.Module, value: Any) -> None:
    """Add to each channel what its weights in one member are worth."""
    if isinstance(member.side, int):
        return
    layer = layer_at(module, member.layer)
    for name, parameter in layer.named_parameters(recurse=False):
        worth = _along(layer, name, value(parameter), member.side)
        if worth is not None:
            total.index_add_(0, torch.tensor(member.roots), worth[torch.tensor(member.indices)])


def _along(layer: nn.Module, name: str, worth: torch.Tensor, side: str) -> torch.Tensor | None:
    """Return the sum of ``worth`` for each channel of one side, or None where the parameter has none there."""
    if isinstance(layer, nn.LSTM | nn.GRU):
        return _along_gates(layer, name, worth, side)
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    if worth.dim() <= 1:
        return worth if side == "outputs" and worth.numel() > 1 else None
    groups = getattr(layer, "groups", 1)
    if is_depthwise(layer) and layer.in_channels == layer.out_channels:
        return worth.flatten(1).sum(1) if side == "outputs" else None
    axis = 0 if (side == "outputs") != transposed else 1
    summed = worth.transpose(0, axis).flatten(1)
    if axis == 0 or groups == 1:
        return summed.sum(1)
    # The second axis of a grouped weight counts inside the group.
    blocks = worth.reshape(groups, -1, *worth.shape[1:]).transpose(1, 2)
    return blocks.reshape(blocks.shape[0] * blocks.shape[1], -1).sum(1)


def _along_gates(layer: nn.LSTM | nn.GRU, name: str, worth: torch.Tensor, side: str) -> torch.Tensor | None:
    gates = LSTM_GATES if isinstance(layer, nn.LSTM) else GRU_GATES
    if side == "inputs":
        return worth.sum(0) if name == "weight_ih_l0" else None
    if layer.num_layers != 1:
        return None
    units = worth.reshape(gates, layer.hidden_size, -1).sum((0, 2))
    zero = torch.zeros_like(units)
    if not layer.bidirectional:
        return units
    return torch.cat([zero, units] if name.endswith("_reverse") else [units, zero])
