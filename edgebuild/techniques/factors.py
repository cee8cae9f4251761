"""The factors of a layer's weight. Imports torch: import it inside functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgebuild.errors import EnvironmentGap, ModelError
from edgebuild.models.edits import LowRankLinear, ReplaceModule, Tucker2Conv
from edgebuild.models.weight_views import is_viewed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def thin(
    layer: nn.Module, name: str, rank_of: Callable[[NDArray[Any]], int]
) -> tuple[ReplaceModule, Callable[[Any], None]]:
    """Return the edit that makes a layer thin, and what sets the new layers' weights.

    Raises ``ModelError`` with the reason where the layer can't be.
    """
    if is_viewed(layer):
        raise ModelError("it is masked, shares weights or is quantised already")
    if isinstance(layer, nn.Linear):
        return _dense(layer, name, rank_of)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise ModelError(f"a {type(layer).__name__} has no factors here")
    if layer.groups != 1:
        raise ModelError(f"it has {layer.groups} groups already")
    if max(layer.kernel_size) == 1:
        raise ModelError(
            "its kernel is 1x1: three such layers save nothing over two thin ones, which no edit makes yet"
        )
    return _conv(layer, name, rank_of)


def _dense(layer: nn.Linear, name: str, rank_of: Any) -> tuple[ReplaceModule, Callable[[Any], None]]:
    weight = layer.weight.detach().double().numpy()
    rank = rank_of(weight)
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    root = np.sqrt(values[:rank])

    def fill(new: Any) -> None:
        with torch.no_grad():
            new[0].weight.copy_(torch.from_numpy(root[:, None] * right[:rank]))
            new[1].weight.copy_(torch.from_numpy(left[:, :rank] * root))
            if layer.bias is not None:
                new[1].bias.copy_(layer.bias)

    return ReplaceModule(module=name, by=LowRankLinear(rank=rank)), fill


def _conv(layer: Any, name: str, rank_of: Any) -> tuple[ReplaceModule, Callable[[Any], None]]:
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

    return ReplaceModule(module=name, by=Tucker2Conv(rank_in=rank_in, rank_out=rank_out)), fill
