"""Structured pruning of attention: whole heads. Imports torch: import it inside functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models.edits import KeepHeads
from edgebuild.models.interpreter import layer_at, layers
from edgebuild.models.replacements import Heads
from edgebuild.techniques.pruning.cutting import Cut
from edgebuild.techniques.pruning.importance import taylor_scores, times_gradient
from edgebuild.techniques.pruning.proof import require_proven
from edgebuild.techniques.skipping import is_skipped

if TYPE_CHECKING:
    from edgebuild.techniques.pruning.parameters import PruneParameters
    from edgebuild.techniques.workspace import Workspace


def cut_heads(work: Workspace, p: PruneParameters, turn: int) -> list[Cut]:
    """Let every attention keep its share of heads, the most important ones; at least one, and no fewer than the cap."""
    names = [name for name, layer in layers(work.module) if isinstance(layer, nn.MultiheadAttention | Heads)]
    names = [name for name in names if not is_skipped(name, p.skip)]
    if not names:
        return []
    done = []
    for name, score in zip(names, _scores(work, names, p, turn), strict=True):
        heads = len(score)
        share, least = p.keep ** (1 / p.rounds), p.least ** (1 / p.rounds)
        left = min(heads, max(1, math.ceil(least * heads), round(share * heads)))
        if left == heads:
            done.append(Cut(name, heads, heads, f"its {heads} heads are all needed"))
            continue
        kept = tuple(sorted(int(i) for i in score.argsort(descending=True, stable=True)[:left]))
        edit = KeepHeads(module=name, heads=kept)
        try:
            _prove(work, name, heads, edit)
        except ModelError as error:
            done.append(Cut(name, heads, heads, error.message))
            continue
        work.apply(edit)
        done.append(Cut(name, heads, left))
    return done


def _scores(work: Workspace, names: list[str], p: PruneParameters, turn: int) -> list[torch.Tensor]:
    modules = [layer_at(work.module, name) for name in names]
    if p.importance == "random":
        generator = torch.Generator().manual_seed(work.ctx.seed * 1000 + turn)
        return [torch.rand(_count(module), generator=generator) for module in modules]
    if p.importance == "l2":
        return [_by_head(module, _out(module).weight.detach().double().pow(2)) for module in modules]

    def of_batch(module: nn.Module) -> list[torch.Tensor]:
        found = [layer_at(module, name) for name in names]
        return [_by_head(each, times_gradient(_out(each).weight)) for each in found]

    return taylor_scores(work, p.samples, of_batch)


def _count(module: Any) -> int:
    return int(module.heads if isinstance(module, Heads) else module.num_heads)


def _out(module: Any) -> Any:
    return module.out if isinstance(module, Heads) else module.out_proj


def _by_head(module: Any, worth: torch.Tensor) -> torch.Tensor:
    """Return the sum over what each head hands to the layer that joins them."""
    return worth.sum(0).reshape(_count(module), -1).sum(1)


def _prove(work: Workspace, name: str, heads: int, edit: KeepHeads) -> None:
    """Raise ``ModelError`` unless the model without these heads runs and is the model that hears nothing of them."""

    def silence(module: nn.Module) -> None:
        weight = _out(layer_at(module, name)).weight
        width = weight.shape[1] // heads
        with torch.no_grad():
            for head in set(range(heads)) - set(edit.heads):
                weight[:, head * width : (head + 1) * width] = 0

    require_proven(work, name, [edit], silence)
