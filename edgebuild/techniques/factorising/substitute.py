"""Substitution: convolutions by depthwise-separable ones, or the whole model by one of several smaller ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from edgebuild.errors import ModelError
from edgebuild.models.edits import ReplaceModule, SeparableConv, UserModule
from edgebuild.techniques.distilling.tuning import TuningParameters, tune
from edgebuild.techniques.learning import EPOCHS
from edgebuild.techniques.skipping import is_skipped
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    from torch import nn

    from edgebuild.techniques.workspace import Workspace

#: Samples that a model's loss is taken of at once.
BATCH = 64


class SubstituteParameters(TuningParameters):
    """Parameters of `substitute`."""

    epochs: int | None = Field(
        default=None,
        ge=1,
        description=f"Passes over the training data after the substitution, the same for every backbone; {EPOCHS} by "
        "default.",
    )
    block_epochs: int = Field(
        default=2,
        ge=1,
        description="For how many epochs the new layers learn before, each in isolation, what the old did.",
    )
    norm: bool = Field(
        default=True, description="Whether the two halves of a new layer have a normalisation and ReLU between them."
    )
    skip: tuple[str, ...] = Field(default=(), description="Layers that stay as they are; `*` stands for anything.")
    backbones: tuple[str, ...] = Field(
        default=(),
        description="Models to take the whole model's place: `module:function`, each called with the original and "
        "returning a smaller one. The one with the least loss on validation data is kept.",
    )
    most_macs: int | None = Field(
        default=None,
        ge=1,
        description="With `backbones`: MACs that none may exceed; without it, the original's.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> SubstituteParameters:
        if self.backbones and self.skip:
            raise ValueError("`skip` is about layers, and `backbones` take the whole model's place")
        if self.most_macs is not None and not self.backbones:
            raise ValueError("`most_macs` goes with `backbones`")
        return self

    @property
    def tunes(self) -> bool:
        """Always: new layers know nothing."""
        return True

    def learns_from(self, frames: int) -> int:
        """Return about how many samples are learnt from, by all backbones or by the layers first."""
        whole = super().learns_from(frames)
        return whole * len(self.backbones) if self.backbones else whole + self.block_epochs * frames

    @property
    def references(self) -> tuple[str, ...]:
        """The user's functions that are called."""
        return (*super().references, *self.backbones)


class Substitute(Technique):
    """Puts cheaper layers, or another model, in place and teaches them what the original does.

    Raises ``ModelError`` when no layer gets cheaper, or no backbone is small enough.
    """

    kind: ClassVar[str] = "substitute"
    title: ClassVar[str] = "puts depthwise-separable layers, or a smaller model, in place and teaches them"
    version: ClassVar[int] = 6
    tools: ClassVar[tuple[str, ...]] = ("torch", "lightning-fabric", "onnxruntime")
    Parameters: ClassVar = SubstituteParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"structure"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "masks": "a new layer has no zeros where the mask had them",
        "codebooks": "a new layer's weights aren't those of the codebook",
        "grids": "a new layer has ranges of its own",
        "heads": "early exits are trained together with the model; teaching it alone would leave them behind",
    }

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        needs: Requirements = parameters.needs()
        chosen = bool(parameters.backbones)
        return needs.model_copy(update={"validation": chosen, "untouched": "backbones" if chosen else ""})

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        p: SubstituteParameters = self.parameters
        return _backbone(work, p) if p.backbones else _separate(work, p)


def _separate(work: Workspace, p: SubstituteParameters) -> str:
    """Swap every convolution that gets cheaper, teach the new ones one by one, then the whole model."""
    from torch import nn

    from edgebuild.models.interpreter import copied, layers

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    names = [name for name, layer in layers(work.module) if name and isinstance(layer, kinds)]
    before = copied(work.module).requires_grad_(False)
    swapped = tuple(name for name in names if _swap(work, p, name))
    if not swapped:
        why = "; ".join(f"{said.layer}: {said.reason}" for said in work.said[:3])
        others = ", ".join(repr(name) for name, layer in layers(work.module) if name and not list(layer.children()))
        raise ModelError(
            f"substitute makes no layer of the model cheaper ({why or f'it has no convolution, but {others}'}).",
            hint="Name smaller models in `backbones`; else leave the technique out.",
        )
    _teach(work, work.module, p, name="separable", before=before, blocks=swapped, block_epochs=p.block_epochs)
    return f"{len(swapped)} of {len(names)} convolutions made depthwise-separable"


def _swap(work: Workspace, p: SubstituteParameters, name: str) -> bool:
    """Swap one convolution; say why not where it is left alone."""
    from edgebuild.models.interpreter import layer_at
    from edgebuild.models.weight_views import is_viewed

    layer: Any = layer_at(work.module, name)
    before = f"{layer.in_channels} → {layer.out_channels}, {'x'.join(str(k) for k in layer.kernel_size)}"
    edit = ReplaceModule(module=name, by=SeparableConv(norm=p.norm))
    try:
        if is_skipped(name, p.skip):
            raise ModelError("it is to be skipped")
        if is_viewed(layer):
            raise ModelError("it is masked, shares weights or is quantised already")
        if layer.groups != 1:
            raise ModelError(f"it has {layer.groups} groups already")
        if layer.in_channels == 1:
            raise ModelError("it has one input channel: all its filters would become one")
        new, old = work.sizes(work.tried(edit))[0], work.sizes(work.module)[0]
        if new >= old:
            raise ModelError(f"it would take {new - old:,} more operations, not fewer")
        work.apply(edit)
    except ModelError as error:
        work.say(name, before, before, error.message)
        return False
    work.say(name, before, "depthwise-separable")
    return True


def _backbone(work: Workspace, p: SubstituteParameters) -> str:
    """Teach every model of the list alike and keep the one with the least loss on validation data."""
    if work.stored.edits:
        raise ModelError(
            "substitute with `backbones` would throw away what earlier steps made of the model.",
            hint="Make it the first step of the recipe.",
        )
    most = p.most_macs or work.sizes_before[0]
    found: list[tuple[float, ReplaceModule, nn.Module]] = []
    for number, reference in enumerate(p.backbones):
        work.ctx.check()
        edit = ReplaceModule(module="", by=UserModule(reference=reference))
        module = work.tried(edit)
        macs = work.sizes(module)[0]
        if macs > most:
            work.notes.append(f"{reference} takes {macs:,} MACs, more than {most:,}: not trained.")
            continue
        _teach(work, module, p, name=f"backbone-{number}")
        loss = validation_loss(work, module)
        work.notes.append(f"{reference}: {macs:,} MACs, validation loss {loss:.4g}.")
        found.append((loss, edit, module))
    if not found:
        raise ModelError(
            f"substitute: none of the backbones {', '.join(map(repr, p.backbones))} takes at most {most:,} MACs.",
            hint="Name a smaller one, or raise `most_macs`.",
        )
    _, edit, module = min(found, key=lambda each: each[0] if math.isfinite(each[0]) else math.inf)
    before, state = type(work.module).__name__, module.state_dict()
    work.apply(edit)
    work.module.load_state_dict(state)
    kept = edit.by.reference if isinstance(edit.by, UserModule) else ""
    work.say("the whole model", before, kept)
    return f"{kept} is the best of {len(found)} backbones"


def _teach(work: Workspace, module: nn.Module, p: SubstituteParameters, *, name: str, **more: Any) -> None:
    report = tune(work, module, p, name=name, **more)
    if report is not None:
        work.notes.append(f"Tuned ({name}): the loss went from {report.losses[0]:.4g} to {report.losses[-1]:.4g}.")


def validation_loss(work: Workspace, module: nn.Module) -> float:
    """Return the task's loss on validation data; without labels, how far the outputs are from the original's."""
    import torch

    data, teacher = work.validation(), work.teacher()
    total = 0.0
    with torch.no_grad():
        for inputs, target in work.batches(data, BATCH):
            outputs = work.run(module, inputs)
            if target is None and not work.step.loss:
                pairs = zip(outputs, work.run(teacher, inputs), strict=True)
                value = sum(float((mine - theirs).pow(2).mean()) for mine, theirs in pairs)
            else:
                value = float(work.loss(outputs, target))
            total += value * len(inputs[0])
    return total / data.frames
