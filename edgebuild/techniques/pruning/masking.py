"""Which weights of a model can be held at zero one by one, and which of them go first. Imports torch: import it inside
functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models.interpreter import layer_at, layers
from edgebuild.models.weight_views import Masked, views_of

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAIN = (nn.modules.conv._ConvNd, nn.Linear)
#: A weight that is zero already is the first to stay so.
GONE = -1.0


@dataclass(frozen=True)
class WeightOf:
    """A parameter of a layer, by address and name."""

    layer: str
    parameter: str = "weight"

    def module(self, model: nn.Module) -> nn.Module:
        """Return the layer."""
        return layer_at(model, self.layer)

    def mask(self, model: nn.Module) -> Masked | None:
        """Return its mask, where it has one."""
        views = views_of(self.module(model), self.parameter)
        return next((view for view in views if isinstance(view, Masked)), None)

    def values(self, model: nn.Module) -> torch.Tensor:
        """Return what the layer computes with."""
        found: torch.Tensor = getattr(self.module(model), self.parameter)
        return found.detach()


def prunable(model: nn.Module) -> tuple[list[WeightOf], dict[str, str]]:
    """Return the weights that can be held at zero, and the layers that have weights but can't, with the reason."""
    found, left = [], {}
    for name, module in layers(model):
        if isinstance(module, PLAIN):
            found.append(WeightOf(name))
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            found.append(WeightOf(name, "in_proj_weight"))
        elif isinstance(module, nn.RNNBase):
            left[name] = "a recurrent layer computes with its plain weights only"
    return found, left


@torch.no_grad()
def prune_to(model: nn.Module, weights: Sequence[WeightOf], sparsity: float, *, uniform: bool, most: float) -> None:
    """Set masks so that the smallest weights are zero: this share of them over all layers, or ``uniform`` of each.

    ``most`` is the largest share that a layer loses where layers compete. What is zero already stays so. Raises
    ``ModelError`` for a share that would leave a layer empty.
    """
    scores = [_scores(model, weight) for weight in weights]
    counts = _uniform(weights, scores, sparsity) if uniform else _global(scores, sparsity, most)
    for weight, score, count in zip(weights, scores, counts, strict=True):
        mask = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
        mask[score.argsort(stable=True)[:count]] = False
        _set(model, weight, mask.view(weight.values(model).shape))


@torch.no_grad()
def prune_two_of_four(model: nn.Module, weights: Sequence[WeightOf]) -> None:
    """Set masks so that of four neighbouring inputs of each output the two smaller weights are zero.

    Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3.1.
    """
    for weight in weights:
        value = weight.values(model).abs().movedim(1, -1)
        order = value.reshape(-1, 4).argsort(dim=1, stable=True)
        mask = torch.ones_like(value.reshape(-1, 4), dtype=torch.bool).scatter_(1, order[:, :2], value=False)
        _set(model, weight, mask.view(value.shape).movedim(-1, 1))


def sparsity_of(model: nn.Module, weights: Sequence[WeightOf]) -> float:
    """Return the share of weights that masks hold at zero."""
    total = kept = 0
    for weight in weights:
        mask = weight.mask(model)
        size = weight.values(model).numel()
        total, kept = total + size, kept + (size if mask is None else int(mask.mask.sum()))
    return 1 - kept / total


def _scores(model: nn.Module, weight: WeightOf) -> torch.Tensor:
    values, mask = weight.values(model).abs().float(), weight.mask(model)
    return (values if mask is None else values.masked_fill(~mask.mask, GONE)).reshape(-1)


def _uniform(weights: Sequence[WeightOf], scores: Sequence[torch.Tensor], sparsity: float) -> list[int]:
    counts = []
    for weight, score in zip(weights, scores, strict=True):
        counts.append(round(sparsity * score.numel()))
        if counts[-1] >= score.numel():
            raise ModelError(
                f"A sparsity of {sparsity:g} would leave layer {weight.layer!r} none of its {score.numel()} weights.",
                hint="Lower `sparsity`, or name the layer in `skip`.",
            )
    return counts


def _global(scores: Sequence[torch.Tensor], sparsity: float, most: float) -> list[int]:
    caps = [max(int(most * score.numel()), int((score == GONE).sum())) for score in scores]
    total = sum(score.numel() for score in scores)
    count = round(sparsity * total)
    if count > sum(caps):
        raise ModelError(
            f"A sparsity of {sparsity:g} would leave layers empty: with at most {most:g} of each layer at zero, "
            f"{sum(caps) / total:.4f} is the most: {sum(caps)} of {total} weights.",
            hint="Lower `sparsity`, or raise `most`.",
        )
    lowest = torch.cat([score.sort(stable=True).values[:cap] for score, cap in zip(scores, caps, strict=True)])
    owner = torch.cat([torch.full((cap,), number) for number, cap in enumerate(caps)])
    chosen = owner[lowest.argsort(stable=True)[:count]]
    return [int(n) for n in torch.bincount(chosen, minlength=len(scores))]


def _set(model: nn.Module, weight: WeightOf, mask: torch.Tensor) -> None:
    view = weight.mask(model)
    if view is None:
        raise ModelError(f"Layer {weight.layer!r} has no mask to set.", hint="This is a bug of the technique.")
    view.mask.copy_(mask)
