"""Weight sharing: the weights of a layer take a few values only, which are then trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from edgebuild.errors import ModelError
from edgebuild.models.edits import Codebook
from edgebuild.techniques.learning import (
    HEADS,
    OPTIMISER,
    Optimiser,
    TrainingParameters,
    any_loader,
    learn,
    relearning_loss,
)
from edgebuild.techniques.skipping import is_skipped
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    from edgebuild.techniques.pruning.masking import WeightOf
    from edgebuild.techniques.workspace import Workspace


class ShareWeightsParameters(TrainingParameters):
    """Parameters of `share-weights`."""

    bits: int = Field(default=5, ge=1, le=8, description="A dense layer's weights take 2 to the power of this values.")
    conv_bits: int = Field(default=8, ge=1, le=8, description="The same for convolutions.")
    tune: bool = Field(default=True, description="Whether the values are trained afterwards.")
    optimiser: Optimiser = Field(default="adamw", description=OPTIMISER)
    learning_rate: float = Field(
        default=0.0005, gt=0, description="The highest learning rate: a value's gradient is the sum over its weights."
    )
    skip: tuple[str, ...] = Field(default=(), description="Layers that stay as they are; `*` stands for anything.")


class ShareWeights(Technique):
    """Gives layers codebooks. Raises ``ModelError`` where no layer has more weights than its codebook has entries."""

    kind: ClassVar[str] = "share-weights"
    title: ClassVar[str] = "lets the weights of each layer share a few values, for files that shrink"
    version: ClassVar[int] = 3
    tools: ClassVar[tuple[str, ...]] = ("torch", "lightning-fabric")
    Parameters: ClassVar = ShareWeightsParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"codebooks", "values"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "codebooks": "the weights share their values already",
        "grids": "the weights are on a grid already, and its values would be shared again",
    }

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        return Requirements(
            train=parameters.tune,
            modules=("lightning-fabric",) if parameters.tune else (),
            references=parameters.references,
            not_after=(("heads", HEADS),) if parameters.tune else (),
        )

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        p: ShareWeightsParameters = self.parameters
        shared = _share(work, p)
        if p.tune:
            loader = any_loader(work, p)
            loss = relearning_loss(work)
            report = learn(work, work.module, p.plan(), loader, loss, name="share", title="Training shared values")
            went = f"from {report.losses[0]:.4g} to {report.losses[-1]:.4g}"
            work.notes.append(f"In {report.steps} steps of training the values the loss went {went}.")
        return f"the weights of {shared} layers share values; {_size(work)}"


def _share(work: Workspace, p: ShareWeightsParameters) -> int:
    """Give layers their codebooks and return how many got one; the others are reported with the reason."""
    from edgebuild.techniques.pruning.masking import prunable

    found, left = prunable(work.module)
    shared = 0
    for weight in found:
        if is_skipped(weight.layer, p.skip):
            continue
        work.ctx.check()
        try:
            before, after = _share_one(work, p, weight)
        except ModelError as error:
            left[weight.layer] = error.message
            continue
        work.say(weight.layer, f"{before} weights", f"{after} values")
        shared += 1
    for layer, reason in left.items():
        work.say(layer, "all", "all", reason)
    if not shared:
        why = "; ".join(f"{layer}: {reason}" for layer, reason in list(left.items())[:3])
        raise ModelError(
            f"share-weights finds no layer to share ({why or 'no convolution and no dense layer is left'}).",
            hint="Take fewer bits, skip fewer layers, or leave the technique out.",
        )
    return shared


def _share_one(work: Workspace, p: ShareWeightsParameters, weight: WeightOf) -> tuple[int, int]:
    """Give one layer a codebook, with zero in it where it is pruned; return how many weights and values it has."""
    import torch
    from torch import nn

    from edgebuild.models.weight_views import Shared, views_of
    from edgebuild.techniques.low_bit.clusters import shared_values

    values, mask = weight.values(work.module), weight.mask(work.module)
    kept = torch.ones_like(values, dtype=torch.bool) if mask is None else mask.mask
    layer = weight.module(work.module)
    entries = 1 << (p.conv_bits if isinstance(layer, nn.modules.conv._ConvNd) else p.bits)
    count = int(kept.sum())
    if entries > count:
        raise ModelError(f"a codebook of {entries} entries is larger than its {count} weights")
    centres, nearest = shared_values(values[kept].numpy(), entries)
    zero = mask is not None
    edit = Codebook(module=weight.layer, parameter=weight.parameter, entries=max(2, len(centres) + zero), zero=zero)
    work.apply(edit)
    view = next(v for v in views_of(layer, weight.parameter) if isinstance(v, Shared))
    with torch.no_grad():
        view.codebook[zero : zero + len(centres)] = torch.from_numpy(centres).to(view.codebook.dtype)
        view.index[kept] = torch.from_numpy(nearest).to(view.index.dtype) + zero
    return count, len(centres)


def _size(work: Workspace) -> str:
    """Say how large the model is as a weights file, and plainly."""
    from edgebuild.models.weights_file import encode, plain_tensors

    tensors = plain_tensors(work.module)
    plain, packed = sum(value.nbytes for value in tensors.values()), len(encode(tensors))
    return f"{plain:,} bytes of numbers make a weights file of {packed:,} ({plain / packed:.1f}x)"
