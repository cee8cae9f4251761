"""Structured pruning of depth: which residual blocks there are, and which costs least. Imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models.edits import Identity, ReplaceModule
from edgebuild.models.interpreter import copied, layer_at, layers
from edgebuild.models.torch_models import flatten
from edgebuild.techniques.skipping import is_skipped

if TYPE_CHECKING:
    from edgebuild.techniques.pruning.parameters import PruneParameters
    from edgebuild.techniques.workspace import Workspace

#: Samples that a loss is taken of at once.
BATCH = 64


def cheapest_block(work: Workspace, p: PruneParameters, turn: int) -> str:
    """Return the residual block without which the loss is least; by chance where importance is ``random``.

    Raises ``ModelError`` where no block is left that could go.
    """
    names = [name for name in residual_blocks(work) if not is_skipped(name, p.skip)]
    if not names:
        raise ModelError(
            "prune-structured finds no residual block that could go.",
            hint="A block is one if it passes its input on when its weights are zero; lower `blocks`, or name a module "
            "in `remove`.",
        )
    if p.importance == "random":
        generator = torch.Generator().manual_seed(work.ctx.seed * 1000 + turn)
        return names[int(torch.randint(len(names), (1,), generator=generator))]
    return min(names, key=lambda name: _loss_without(work, name, p.samples))


def residual_blocks(work: Workspace) -> list[str]:
    """Return the innermost modules that pass their input on when all their weights are zero, and can be left out."""
    found: list[str] = []
    for name, module in sorted(layers(work.module), key=lambda pair: -pair[0].count(".")):
        inside = any(other.startswith(f"{name}.") for other in found)
        if name and not inside and _weighs(module) > 1 and _passes_on(work, name) and _can_go(work, name):
            found.append(name)
    order = [name for name, _ in layers(work.module)]
    return sorted(found, key=order.index)


def _weighs(module: nn.Module) -> int:
    return sum(isinstance(part, nn.modules.conv._ConvNd | nn.Linear) for part in module.modules())


@torch.no_grad()
def _passes_on(work: Workspace, name: str) -> bool:
    """Whether the module gives back its input, once all its weights are zero."""
    model = copied(work.module)
    block = layer_at(model, name)
    for parameter in block.parameters():
        parameter.zero_()
    for part in block.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is not None:
            part.running_mean.zero_()
    seen: list[bool] = []

    def compare(module: nn.Module, args: Any, output: Any) -> None:
        del module
        given, taken = flatten(output), [arg for arg in args if isinstance(arg, torch.Tensor)]
        same = len(given) == 1 and len(taken) == 1 and given[0].shape == taken[0].shape
        seen.append(same and torch.equal(given[0], taken[0]))

    handle = block.register_forward_hook(compare)
    try:
        work.run(model, work.examples)
    finally:
        handle.remove()
    return seen == [True]


def _can_go(work: Workspace, name: str) -> bool:
    try:
        work.tried(ReplaceModule(module=name, by=Identity()))
    except ModelError:
        return False
    return True


def _loss_without(work: Workspace, name: str, samples: int) -> float:
    module = work.tried(ReplaceModule(module=name, by=Identity()))
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, target in work.batches(work.dataset(train=True), BATCH, limit=samples, shuffle=True):
            total += float(work.loss(work.run(module, inputs), target)) * len(inputs[0])
            count += len(inputs[0])
    return total / count
