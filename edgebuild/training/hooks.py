"""What holds weights to a rule after every step of the optimiser: masks, bounds, codebooks, or the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from edgebuild.errors import ModelError

#: Called without gradients after each step with the module and the share of the run that is done. It must depend on
#: nothing else, or a run that goes on after a kill differs from one that wasn't stopped.
AfterStep: TypeAlias = Callable[[nn.Module, float], None]


@dataclass(frozen=True, kw_only=True)
class KeepMasks:
    """Keeps pruned weights at zero: a boolean mask per parameter, true where a weight lives."""

    masks: Mapping[str, torch.Tensor]

    def __call__(self, module: nn.Module, done: float) -> None:
        """Apply the masks."""
        del done
        for name, mask in self.masks.items():
            parameter = _parameter(module, name)
            parameter.mul_(mask.to(parameter.device))


@dataclass(frozen=True, kw_only=True)
class ClipWeights:
    """Keeps weights inside [-bound, bound] (BinaryConnect, Courbariaux 2015, section 2.4)."""

    names: tuple[str, ...]
    bound: float = 1.0

    def __call__(self, module: nn.Module, done: float) -> None:
        """Clip."""
        del done
        for name in self.names:
            _parameter(module, name).clamp_(-self.bound, self.bound)


@dataclass(frozen=True, kw_only=True)
class ShareWeights:
    """Keeps the weights of a cluster equal: ``codes`` names each weight's cluster, per parameter.

    The weights of a cluster move to their mean after the optimiser moved each by its own gradient, so that a centroid
    moves by the mean of its weights' steps (Han 2016, "Deep Compression", section 3.3, has the sum: for plain SGD the
    same with another learning rate).
    """

    codes: Mapping[str, torch.Tensor]

    def __call__(self, module: nn.Module, done: float) -> None:
        """Replace each weight by its cluster's mean."""
        del done
        for name, codes in self.codes.items():
            parameter = _parameter(module, name)
            flat = codes.to(parameter.device).reshape(-1).long()
            clusters = int(flat.max()) + 1
            sums = torch.zeros(clusters, device=parameter.device).index_add_(0, flat, parameter.reshape(-1).float())
            means = sums / torch.bincount(flat, minlength=clusters).clamp_(min=1)
            parameter.copy_(means[flat].reshape(parameter.shape))


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    try:
        return module.get_parameter(name)
    except AttributeError as error:
        raise ModelError(f"The model has no parameter {name!r} to hold to a rule.") from error
