"""A model that sees its images smaller than it is given them, and maps that are finer. Imports torch.

The resizing is a part of the model: it hangs on the user's own module, whose layers keep their names, it is exported
with it, and what calls the model feeds it images of the size that the contract says.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from edgebuild.models.narrowing import refuse

if TYPE_CHECKING:
    from edgebuild.models.edits import ResizeInput, SetStride


class Resizing:
    """What hangs on a resized model: changes one input before it runs, and maps behind it."""

    def __init__(self, edit: ResizeInput, name: str | None) -> None:
        self.edit, self.name = edit, name

    def before(self, module: nn.Module, args: Any, named: Any) -> tuple[Any, Any]:
        """Return the arguments with one image smaller."""
        del module
        if self.edit.input < len(args):
            changed = list(args)
            changed[self.edit.input] = self._smaller(changed[self.edit.input])
            return tuple(changed), named
        if self.name in named:
            return args, {**named, self.name: self._smaller(named[self.name])}
        raise RuntimeError(f"the model was called without its input {self.edit.input}, which is to be resized")

    def after(self, module: nn.Module, args: Any, named: Any, outputs: Any) -> Any:
        """Return the outputs, maps at the size that they had."""
        del module, args, named
        sizes = {restored.output: restored.size for restored in self.edit.restored}
        return _restore(outputs, sizes, [0]) if sizes else outputs

    def _smaller(self, image: torch.Tensor) -> torch.Tensor:
        (height, width), mean = self.edit.size, self.edit.mean
        between = (height * mean[0], width * mean[1])
        if tuple(image.shape[2:]) != between:
            image = functional.interpolate(image, size=between, mode="bilinear", align_corners=False)
        return functional.avg_pool2d(image, mean) if mean != (1, 1) else image


def _restore(outputs: Any, sizes: dict[int, tuple[int, int]], count: list[int]) -> Any:
    """Interpolate the outputs of those numbers, in the order that ``torch_models.flatten`` counts them."""
    if isinstance(outputs, dict):
        return {name: _restore(part, sizes, count) for name, part in outputs.items()}
    if isinstance(outputs, tuple | list):
        parts = [_restore(part, sizes, count) for part in outputs]
        return parts if isinstance(outputs, list) else tuple(parts)
    size = sizes.get(count[0])
    count[0] += 1
    if size is None:
        return outputs
    return functional.interpolate(outputs, size=size, mode="bilinear", align_corners=False)


def resized(model: nn.Module) -> ResizeInput | None:
    """Return how a model's input is resized, or None."""
    for hook in model._forward_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Resizing):
            return owner.edit
    return None


def resize_input(model: nn.Module, edit: ResizeInput) -> None:
    """Carry out ``ResizeInput``."""
    if resized(model) is not None:
        raise refuse("the model", "its input is resized already")
    names = list(inspect.signature(model.forward).parameters)
    resizing = Resizing(edit, names[edit.input] if edit.input < len(names) else None)
    model.register_forward_pre_hook(resizing.before, with_kwargs=True)
    model.register_forward_hook(resizing.after, with_kwargs=True)


def set_stride(layer: nn.Module, edit: SetStride) -> None:
    """Carry out ``SetStride``."""
    if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
        raise refuse(edit.module, f"a {type(layer).__name__} can't be given another stride")
    part: Any = layer
    old = pair(part.dilation)
    if any(new % before for new, before in zip(edit.dilation, old, strict=True)):
        raise refuse(edit.module, f"its dilation {old} doesn't divide {edit.dilation}")
    if isinstance(part.padding, str):
        if part.padding == "same" and edit.stride != (1, 1):
            raise refuse(edit.module, 'padding = "same" has no stride')
    else:
        grown = zip(pair(part.padding), edit.dilation, old, strict=True)
        part.padding = tuple(pad * new // before for pad, new, before in grown)
    part.stride, part.dilation = edit.stride, edit.dilation
    if isinstance(part, nn.Conv2d) and not isinstance(part.padding, str):
        # Only padding by reflection and the like reads this.
        part._reversed_padding_repeated_twice = [pad for pad in reversed(part.padding) for _ in range(2)]


def pair(value: Any) -> tuple[int, int]:
    """Return (height, width) of what torch takes as one number or two."""
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) else (int(value), int(value))
