"""Which size a model's images are brought to: what runs, what it costs, and what it loses. Imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgebuild.core.classes import is_class_row
from edgebuild.errors import DataError, ModelError
from edgebuild.models.edits import Edit, ResizeInput, Restored, SetStride
from edgebuild.models.resizing import pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.techniques.resizing.parameters import ResizeParameters
    from edgebuild.techniques.workspace import Workspace

#: Samples per batch when answers are compared.
SCORE_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Image:
    """The input that is resized: its number among the inputs, its height and width."""

    number: int
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Resized:
    """A model at one size. ``strides`` make its maps finer; ``loss_text`` says what it loses, if that was checked."""

    size: tuple[int, int]
    resizing: ResizeInput
    strides: tuple[SetStride, ...]
    module: nn.Module
    macs: int
    loss_text: str = ""

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What makes it of the model."""
        return (self.resizing, *self.strides)


def image_input(work: Workspace) -> Image:
    """Return the one input that is an image; raises ``ModelError`` where there are none, several, or no fixed size."""
    specs = work.step.specs
    images = [number for number, spec in enumerate(specs) if len(spec.shape) == 4]
    if len(images) != 1:
        names = ", ".join(f"{spec.name!r} {list(spec.shape)}" for spec in specs)
        raise ModelError(
            f"resize takes a model with one image, (batch, channels, height, width), among its inputs: it has {names}.",
            hint="Leave resize out.",
        )
    spec = specs[images[0]]
    height, width = spec.shape[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        raise ModelError(
            f"The input {spec.name!r} has no fixed height and width: {list(spec.shape)}.",
            hint="Freeze them under [[inputs]], or feed smaller images.",
        )
    if not work.examples[images[0]].is_floating_point():
        raise ModelError(
            f"The input {spec.name!r} is {spec.dtype}: only floating-point images can be resized in the model.",
            hint="Feed the model float32 and convert in your preprocessing.",
        )
    return Image(number=images[0], size=(height, width))


def chosen(work: Workspace, p: ResizeParameters, image: Image, steps: int) -> Resized:
    """Return the model at the size asked for, or the cheapest one that loses no more than was allowed."""
    if p.size is not None:
        made = _at(work, image, _scaled(image, p.size), p.finer)
        return replace(made, module=_adapted(work, p, made))
    best: Resized | None = None
    before, why = _score(work, work.module), ""
    # For each fineness down from the largest size until one loses too much: the first miss ends it, so that no lucky
    # small size wins.
    for finer in range(p.finer + 1):
        for side in _sides(work, image, p, steps):
            work.ctx.check()
            try:
                made = _at(work, image, _scaled(image, side), finer)
            except ModelError as error:
                why = why or error.message
                continue
            made = replace(made, module=_adapted(work, p, made))
            lost = 100 * (before - _score(work, made.module))
            name = "x".join(str(part) for part in made.size) + (f", {finer} strides out" if finer else "")
            text = f"{lost:.2f} points lost on calibration data"
            work.notes.append(f"{name}: {made.macs:,} MACs, {text}.")
            if lost > p.points:
                why = why or f"{name} loses {lost:.2f} points, {p.points:g} were allowed"
                break
            if made.macs < work.sizes_before[0] and (best is None or made.macs < best.macs):
                best = replace(made, loss_text=text)
    if best is None:
        raise ModelError(
            f"resize finds no smaller size for this model: {why or 'none saves operations'}.",
            hint='Allow more `points`, let it adapt (tune = "head"), or leave resize out.',
        )
    return best


def _sides(work: Workspace, image: Image, p: ResizeParameters, steps: int) -> list[int]:
    """Return the sides to try, the largest first.

    A map's places lie a stride apart and are counted from a corner: at another remainder of the side by the stride they
    would all be moved by a part of it.
    """
    own = min(image.size)
    step = p.step or max(1, round(own / steps))
    if p.step is None and any(len(shape) == 4 for shape, _ in work.shapes_before):
        coarse = min((min(each.behind) for each in _kernels(work, work.module) if min(each.behind) > 1), default=own)
        stride = max(1, round(own / coarse))
        step = -(-step // stride) * stride
    return list(range(own - step, max(0, math.ceil(p.least * own) - 1), -step))


def _scaled(image: Image, side: int) -> tuple[int, int]:
    own = min(image.size)
    if side >= own:
        raise ModelError(
            f"`size` is {side}, and the images' own side is {own}: only smaller ones save anything.",
            hint="Choose a smaller size, or leave it out to have one found.",
        )
    height, width = (max(1, round(each * side / own)) for each in image.size)
    return height, width


def _at(work: Workspace, image: Image, size: tuple[int, int], finer: int) -> Resized:
    """Return the model at a size; raises ``ModelError`` naming the layer where it takes one size only."""
    mean = (image.size[0] // size[0], image.size[1] // size[1])
    strides: tuple[SetStride, ...] = ()
    for _ in range(finer):
        strides = _finer(work, strides)
    resizing = ResizeInput(input=image.number, size=size, mean=mean)
    small = _edited(work, resizing, *strides)
    try:
        got = work.output_shapes(small)
    except ModelError as error:
        raise ModelError(
            f"The model doesn't take images of {size[0]}x{size[1]}: {error.message}",
            hint="Only a net whose layers take every size can be resized, such as one that ends in a global mean.",
        ) from error
    restored = tuple(
        Restored(output=number, size=(shape[2], shape[3]))
        for number, ((shape, _), (now, _)) in enumerate(zip(work.shapes_before, got, strict=True))
        if shape != now and len(shape) == 4 and shape[:2] == now[:2]
    )
    resizing = resizing.model_copy(update={"restored": restored})
    module = work.tried(resizing, *strides)
    return Resized(size=size, resizing=resizing, strides=strides, module=module, macs=work.sizes(module)[0])


def _edited(work: Workspace, *changes: Edit) -> nn.Module:

    from edgebuild.models.interpreter import apply_edits, copied

    return apply_edits(copied(work.module), changes, work.code.module_maker)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A layer with a kernel as it ran: the heights and widths before and behind it."""

    name: str
    layer: Any
    before: tuple[int, ...]
    behind: tuple[int, ...]


def _finer(work: Workspace, so_far: tuple[SetStride, ...]) -> tuple[SetStride, ...]:
    """Return strides with one more taken out: the last one, on all paths side by side, and kernels behind dilated."""
    seen = _kernels(work, _edited(work, *so_far))
    strided = [number for number, each in enumerate(seen) if max(pair(each.layer.stride)) > 1]
    if not strided or all(len(shape) != 4 for shape, _ in work.shapes_before):
        raise ModelError(
            "The model has no map among its outputs, or no stride left, to make finer.", hint="Set finer = 0."
        )
    coarse, own = seen[strided[-1]].behind, pair(seen[strided[-1]].layer.stride)
    found = {edit.module: edit for edit in so_far}
    for number, each in enumerate(seen):
        dilation = pair(each.layer.dilation)
        if number in strided and each.behind == coarse:
            found[each.name] = SetStride(module=each.name, stride=(1, 1), dilation=dilation)
        elif number > strided[0] and each.before == coarse and max(pair(each.layer.kernel_size)) > 1:
            wider = (dilation[0] * own[0], dilation[1] * own[1])
            found[each.name] = SetStride(module=each.name, stride=pair(each.layer.stride), dilation=wider)
    return tuple(found.values())


def _kernels(work: Workspace, module: nn.Module) -> list[_Seen]:
    """Return convolutions and max poolings in the order that they run in."""
    from edgebuild.models.interpreter import layers

    seen: list[_Seen] = []
    handles = []
    for name, layer in layers(module):
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):

            def note(layer: nn.Module, args: Any, output: Any, name: str = name) -> None:
                seen.append(
                    _Seen(name=name, layer=layer, before=tuple(args[0].shape[2:]), behind=tuple(output.shape[2:]))
                )

            handles.append(layer.register_forward_hook(note))
    try:
        with torch.no_grad():
            work.run(module, work.examples)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _adapted(work: Workspace, p: ResizeParameters, made: Resized) -> nn.Module:
    """Return the model, adapted to its size as far as it is to be."""
    if p.tune == "none":
        return made.module
    own = replace(work, module=made.module)
    own.recalibrate_norms()
    if p.tune != "norms":
        _learn(own, p, f"tune-{made.size[0]}x{made.size[1]}-{len(made.strides)}")
    return made.module


def _learn(work: Workspace, p: ResizeParameters, name: str) -> None:
    """Train the last layer, or all, on labels; what was frozen before stays frozen."""
    from edgebuild.techniques.learning import array_loader, learn, task_loss, user_loader

    trainable = {key: parameter.requires_grad for key, parameter in work.module.named_parameters()}
    if p.tune == "head":
        last = _last_layer(work)
        for parameter in work.module.parameters():
            parameter.requires_grad_(False)
        for parameter in last.parameters():
            parameter.requires_grad_(True)
    loader = user_loader(work, p)
    try:
        learn(
            work,
            work.module,
            p.plan(),
            array_loader(work, p) if loader is None else loader,
            task_loss(work),
            name=name,
            title=f"Tuning {name.removeprefix('tune-')}",
        )
    finally:
        for key, parameter in work.module.named_parameters():
            parameter.requires_grad_(trainable[key])
    work.module.eval()


def _last_layer(work: Workspace) -> nn.Module:
    """Return the convolution or dense layer that runs last."""
    last: list[nn.Module] = []

    def note(layer: nn.Module, args: Any, output: Any) -> None:
        del args, output
        last[:] = [layer]

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    handles = [layer.register_forward_hook(note) for layer in work.module.modules() if isinstance(layer, kinds)]
    try:
        with torch.no_grad():
            work.run(work.module, work.examples)
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise ModelError(
            "The model has no convolution or dense layer to tune as its last one.", hint='Set tune = "all".'
        )
    return last[0]


def _score(work: Workspace, module: nn.Module) -> float:
    """Return the share of right answers on the calibration data, or the mean overlap (IoU) where answers are maps.

    Without labels right is what the original answers, and a map is taken for numbers, not for classes.
    """
    dataset = work.dataset(train=False)
    answers: list[NDArray[Any]] = []
    expected: list[NDArray[Any]] = []
    with torch.no_grad():
        for inputs, target in work.batches(dataset, SCORE_BATCH):
            output = work.run(module, inputs)[0]
            answers.append(_answers(output, labelled=target is not None))
            if target is None:
                expected.append(_answers(work.run(work.module, inputs)[0], labelled=False))
            else:
                expected.append(target.numpy())
    got, right = np.concatenate(answers), np.concatenate(expected)
    if got.shape != right.shape or right.dtype.kind not in "iu":
        raise DataError(
            f"Targets of {right.dtype} {list(right.shape)} say nothing of answers of shape {list(got.shape)}: the "
            "loss of a size isn't known.",
            hint="Give `size`; the build then judges it by your metric.",
        )
    known = right >= 0
    if not known.any():
        raise DataError("No target of the calibration data is known.", hint="Give `size`, or label some samples.")
    return overlap(got, right) if got.ndim > 1 else float((got == right)[known].mean())


def _answers(output: torch.Tensor, *, labelled: bool) -> NDArray[Any]:
    if is_class_row(output.shape):
        output = output.flatten(1)
    if output.dim() < 2 or output.shape[1] < 2 or (output.dim() > 2 and not labelled):
        raise DataError(
            f"An output of shape {list(output.shape)}, {'' if labelled else 'un'}labelled, answers in no classes: "
            "the loss of a size isn't known.",
            hint="Give `size`; the build then judges it by your metric.",
        )
    answers: NDArray[Any] = output.argmax(1).numpy()
    return answers


def overlap(answers: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the mean over classes of intersection over union of two arrays of class numbers.

    Unknown labels (-1) are left out, and so are classes that neither holds.
    """
    known = expected >= 0
    answers, expected = answers[known], expected[known]
    shares = []
    for label in np.union1d(answers, expected):
        one, other = answers == label, expected == label
        shares.append((one & other).sum() / (one | other).sum())
    return float(np.mean(shares)) if shares else 0.0
