"""The factors of a layer's weight. Imports torch: import it inside functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from edgebuild.errors import EnvironmentGap, ModelError
from edgebuild.models.edits import LowRankLinear, MonarchLinear, ReplaceModule, Tucker2Conv
from edgebuild.models.weight_views import is_viewed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class Factorisation(NamedTuple):
    """The edit that makes a layer thin, and what sets the new layers' weights.

    ``error`` is how far the product is from the weight, relative to it.
    """

    edit: ReplaceModule
    fill: Callable[[Any], None]
    error: float


def thin(layer: nn.Module, name: str, rank_of: Callable[[NDArray[Any]], int], dense: str) -> Factorisation:
    """Return the factors of a layer: of a dense one those that are nearer to it, or those that ``dense`` names.

    ``dense`` is ``best``, ``low-rank`` or ``monarch``; a Monarch product is one with no more operations than the
    rank would take. Raises ``ModelError`` with the reason where the layer can't be.
    """
    if is_viewed(layer):
        raise ModelError("it is masked, shares weights or is quantised already")
    if isinstance(layer, nn.Linear):
        return _dense(layer, name, rank_of, dense)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise ModelError(f"a {type(layer).__name__} has no factors here")
    if layer.groups != 1:
        raise ModelError(f"it has {layer.groups} groups already")
    if max(layer.kernel_size) == 1:
        raise ModelError(
            "its kernel is 1x1: three such layers save nothing over two thin ones, which no edit makes yet"
        )
    return _conv(layer, name, rank_of)


def _dense(layer: nn.Linear, name: str, rank_of: Any, dense: str) -> Factorisation:
    rank = rank_of(layer.weight.detach().double().numpy())
    blocks = None if dense == "low-rank" else _blocks(layer.in_features, layer.out_features, rank)
    if dense == "monarch" and blocks is None:
        raise ModelError(f"no number of blocks divides both its sizes and costs no more than rank {rank}")
    found = [] if dense == "monarch" else [_low_rank(layer, name, rank)]
    if blocks is not None:
        found.append(_monarch(layer, name, blocks))
    return min(found, key=lambda factors: factors.error)


def _low_rank(layer: nn.Linear, name: str, rank: int) -> Factorisation:
    left, values, right = np.linalg.svd(layer.weight.detach().double().numpy(), full_matrices=False)
    root = np.sqrt(values[:rank])

    def fill(new: Any) -> None:
        with torch.no_grad():
            new[0].weight.copy_(torch.from_numpy(root[:, None] * right[:rank]))
            new[1].weight.copy_(torch.from_numpy(left[:, :rank] * root))
            if layer.bias is not None:
                new[1].bias.copy_(layer.bias)

    error = math.sqrt(float((values[rank:] ** 2).sum() / max((values**2).sum(), 1e-30)))
    return Factorisation(ReplaceModule(module=name, by=LowRankLinear(rank=rank)), fill, error)


def _blocks(inputs: int, outputs: int, rank: int) -> int | None:
    """Return the fewest blocks of a Monarch product that costs no more than two layers of this rank, or None."""
    common = math.gcd(inputs, outputs)
    fits = (b for b in range(2, common + 1) if common % b == 0 and inputs // b <= rank)
    # With more blocks than entries in each, some inputs would reach some outputs by no way at all.
    return next((b for b in fits if b <= inputs // b), None)


def _monarch(layer: nn.Linear, name: str, blocks: int) -> Factorisation:
    """Return the nearest Monarch product: every (output block, input block) of the weight has a rank of its own.

    Source: Dao et al. 2022, "Monarch", section 3.3 (the analytic projection), for any number of blocks.
    """
    weight = layer.weight.detach().double().numpy()
    inner, height = layer.in_features // blocks, layer.out_features // blocks
    left, right = np.zeros((blocks, inner, inner)), np.zeros((blocks, inner, height))
    lost = 0.0
    for source in range(blocks):
        # What leaves entry i of an input block enters the output blocks at i * blocks + source.
        places = np.arange(inner) * blocks + source
        for target in range(blocks):
            own = np.flatnonzero(places // inner == target)
            part = weight[target * height : (target + 1) * height, source * inner : (source + 1) * inner]
            outs, values, ins = np.linalg.svd(part, full_matrices=False)
            rank = min(len(own), len(values))
            root = np.sqrt(values[:rank])
            left[source][:, own[:rank]] = (root[:, None] * ins[:rank]).T
            right[target, places[own[:rank]] % inner] = root[:, None] * outs[:, :rank].T
            lost += float((values[rank:] ** 2).sum())

    def fill(new: Any) -> None:
        with torch.no_grad():
            new.left.copy_(torch.from_numpy(left))
            new.right.copy_(torch.from_numpy(right))
            if layer.bias is not None:
                new.bias.copy_(layer.bias)

    error = math.sqrt(lost / max(float((weight**2).sum()), 1e-30))
    return Factorisation(ReplaceModule(module=name, by=MonarchLinear(blocks=blocks)), fill, error)


def _conv(layer: Any, name: str, rank_of: Any) -> Factorisation:
    try:
        from tensorly.decomposition import partial_tucker
    except ImportError as error:
        raise EnvironmentGap("tensorly is not installed.", hint="pip install 'edgebuild[compress]'") from error
    weight = layer.weight.detach().double().numpy()
    outputs, inputs = weight.shape[:2]
    rank_out = rank_of(weight.reshape(outputs, -1))
    rank_in = rank_of(np.moveaxis(weight, 1, 0).reshape(inputs, -1))
    (core, (out_factor, in_factor)), _ = partial_tucker(weight, rank=[rank_out, rank_in], modes=[0, 1], init="svd")

    def fill(new: Any) -> None:
        ones = (1,) * (weight.ndim - 2)
        with torch.no_grad():
            new[0].weight.copy_(torch.from_numpy(in_factor.T.reshape(rank_in, inputs, *ones).copy()))
            new[1].weight.copy_(torch.from_numpy(np.ascontiguousarray(core)))
            new[2].weight.copy_(torch.from_numpy(out_factor.reshape(outputs, rank_out, *ones).copy()))
            if layer.bias is not None:
                new[2].bias.copy_(layer.bias)

    # The factors are orthonormal, so that what the core lacks of the weight's power is what is lost.
    kept = float((core**2).sum() / max((weight**2).sum(), 1e-30))
    edit = ReplaceModule(module=name, by=Tucker2Conv(rank_in=rank_in, rank_out=rank_out))
    return Factorisation(edit, fill, math.sqrt(max(0.0, 1 - kept)))
