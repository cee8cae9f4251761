"""What techniques that train on grids share: which layers, their ranges, and scales that keep up with the weights.

Grids stand where int8 rounds: on weights, a scale per output channel, and on what a layer reads, one scale. Folding a
normalisation scales a channel's weights and so its grid: nothing is folded before training, and what was trained is
what is deployed. Imports torch: import it inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgebuild.core.artifact import Int8Scheme
from edgebuild.errors import ModelError
from edgebuild.models.edits import Grid, Quantise
from edgebuild.models.interpreter import layer_at, layers
from edgebuild.models.weight_views import FakeQuantise, views_of
from edgebuild.quantisers.own.arithmetic import BINS, Histogram, affine, candidate_ranges
from edgebuild.techniques.skipping import is_skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgebuild.techniques.workspace import Workspace
    from edgebuild.training.losses import Match, Teacher
    from edgebuild.training.plan import TrainReport

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Samples that ranges are taken from, at most, and in batches of how many.
RANGE_SAMPLES = 512
RANGE_BATCH = 64
#: Grids of this many bits reach as far as the weights do; below that some weights are clipped for a finer grid.
WHOLE_RANGE_BITS = 7


def int8_of(scheme: Int8Scheme | None) -> Int8Scheme:
    """Return the scheme that a step trains for: the profile's, or plain 8 bits where it has none."""
    return scheme or Int8Scheme(activations="uint8")


def reads(work: Workspace, skip: tuple[str, ...]) -> dict[str, Histogram]:
    """Return what every layer that can be on a grid reads, in the order in which layers are first called.

    Layers that are left alone are reported with the reason.
    """
    found = {name: layer for name, layer in layers(work.module) if name and isinstance(layer, KINDS)}
    for name in [name for name in found if is_skipped(name, skip)]:
        work.say(name, "float", "float", "it is to be skipped")
        del found[name]
    ends: dict[str, tuple[float, float]] = {}
    _watch(work, found, lambda name, x: ends.update({name: _wider(ends.get(name), x)}))
    for name in [name for name, bounds in ends.items() if not np.isfinite(bounds).all()]:
        work.say(name, "float", "float", "what it reads holds NaN or infinity on the calibration data")
        del ends[name], found[name]
    counts = {name: np.zeros(BINS, np.int64) for name in ends}

    def count(name: str, x: torch.Tensor) -> None:
        low, high = ends[name]
        if high > low:
            counts[name] += torch.histc(x.float(), BINS, low, high).numpy().astype(np.int64)

    _watch(work, {name: found[name] for name in ends}, count)
    for name in sorted(found.keys() - ends.keys()):
        work.say(name, "float", "float", "forward() doesn't call it with one tensor")
    return {name: Histogram(low=low, high=high, counts=counts[name]) for name, (low, high) in ends.items()}


def _wider(ends: tuple[float, float] | None, x: torch.Tensor) -> tuple[float, float]:
    low, high = float(x.min()), float(x.max())
    # NumPy's: a NaN that was seen once stays.
    return (low, high) if ends is None else (float(np.minimum(low, ends[0])), float(np.maximum(high, ends[1])))


def _watch(work: Workspace, named: Mapping[str, nn.Module], see: Callable[[str, torch.Tensor], None]) -> None:
    """Run calibration data through the model and show ``see`` what each layer reads."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def on_input(layer: nn.Module, args: tuple[Any, ...]) -> None:
            del layer
            if args and isinstance(args[0], torch.Tensor) and args[0].is_floating_point() and args[0].numel():
                see(name, args[0].detach())

        return on_input

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in named.items()]
    try:
        with torch.no_grad():
            for inputs, _ in work.batches(work.dataset(train=False), RANGE_BATCH, limit=RANGE_SAMPLES, shuffle=True):
                work.run(work.module, inputs)
    finally:
        for handle in handles:
            handle.remove()


def place(work: Workspace, name: str, weight: Grid, read: Histogram | None, scheme: Int8Scheme) -> bool:
    """Put a layer's weight on a grid, and what it reads too where ``read`` is given; say why not where it can't be."""
    layer = layer_at(work.module, name)
    if isinstance(layer, nn.modules.conv._ConvNd) and layer.in_channels < scheme.float_below_channels:
        reason = f"it has fewer than {scheme.float_below_channels} input channels, which int8 leaves in float"
        work.say(name, "float", "float", reason)
        return False
    given = None if read is None else Grid(bits=8, symmetric=scheme.symmetric_activations)
    try:
        work.apply(Quantise(module=name, weight=weight, input=given))
    except ModelError as error:
        work.say(name, "float", "float", error.message)
        return False
    layer = layer_at(work.module, name)
    grid, real = weight_of(layer)
    (grid.fit if weight.bits >= WHOLE_RANGE_BITS else grid.fit_closest)(real)
    if read is not None:
        _fit_reader(layer, read, symmetric=scheme.symmetric_activations)
    bits = f"{weight.bits}-bit weights" if weight.bits > 1 else "one-bit weights"
    work.say(name, "float", bits if read is None else f"{bits}, 8-bit input")
    return True


def _fit_reader(layer: Any, read: Histogram, *, symmetric: bool) -> None:
    """Set the grid of what a layer reads to the range with the least squared error, as the quantiser would."""
    scheme = Int8Scheme(activations="int8" if symmetric else "uint8", symmetric_activations=symmetric)
    rules = candidate_ranges(read, scheme)
    chosen = affine(*rules.get("mse", rules["minmax"]), scheme)
    layer.input_grid.scale.fill_(chosen.scale)
    layer.input_grid.zero_point.fill_(chosen.zero_point)


@torch.no_grad()
def weight_of(layer: nn.Module) -> tuple[FakeQuantise, torch.Tensor]:
    """Return the grid of a layer's weight and the real weight that is rounded to it, as other views leave it."""
    *before, grid = views_of(layer)
    value: Any = layer.parametrizations["weight"].original  # type: ignore[index, union-attr]
    value = value.detach()
    for view in before:
        value = view(value)
    assert isinstance(grid, FakeQuantise)  # noqa: S101 - the interpreter puts a grid behind all other views
    return grid, value


@dataclass(frozen=True, kw_only=True)
class UpdateScales:
    """After each step: scales follow the weights, by their whole range or to the closest grid."""

    def __call__(self, module: nn.Module, done: float = 1.0) -> None:
        """See ``AfterStep``."""
        del done
        for layer in module.modules():
            views = views_of(layer)
            if views and isinstance(views[-1], FakeQuantise):
                grid, real = weight_of(layer)
                (grid.fit if grid.grid.bits >= WHOLE_RANGE_BITS else grid.follow)(real)


def nothing_to_do(work: Workspace) -> ModelError:
    """Return the refusal where no layer could be put on a grid."""
    why = "; ".join(f"{said.layer}: {said.reason}" for said in work.said[:3])
    return ModelError(
        f"{work.step.kind} can put no layer of the model on a grid ({why or 'it has no convolution or dense layer'}).",
        hint="Shorten `skip`, or leave the technique out.",
    )


def answers(work: Workspace, temperature: float) -> tuple[Teacher, list[Match | None]]:
    """Return the original as a teacher, and how each output is compared with its: softly for classes, else by L2."""
    from edgebuild.techniques.distilling.distil import is_row_of_classes
    from edgebuild.training import losses
    from edgebuild.training.teachers import LiveTeacher

    def soft(student: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        return losses.soft_targets(student, expected, temperature)

    matches = [soft if is_row_of_classes(work, i) else losses.l2 for i in range(len(work.shapes_before))]
    return LiveTeacher(work.teacher()), list(matches)


def require_one_row_of_classes(work: Workspace) -> None:
    """Raise ``ModelError`` for a model that doesn't answer in one row of class logits, or data without labels."""
    from edgebuild.techniques.distilling.distil import is_row_of_classes

    labelled = work.labelled
    if len(work.shapes_before) != 1 or not is_row_of_classes(work, 0) or not labelled:
        shapes = ", ".join(str(list(shape)) for shape, _ in work.shapes_before)
        what = f"the model's outputs have the shape {shapes}" if labelled else "the data have no labels"
        raise ModelError(
            f"{work.step.kind} compares one row of class logits with labels and with the teacher's: {what}.",
            hint="Take qat, which learns from any outputs and needs no labels.",
        )


def losses_text(report: TrainReport) -> str:
    """Return how the loss went; within one epoch only its mean is known."""
    first, last = report.losses[0], report.losses[-1]
    if len(report.losses) == 1:
        return f"the loss was {first:.4g} on average"
    return f"the loss went from {first:.4g} to {last:.4g}"


def packed_size(work: Workspace) -> str:
    """Return a sentence on how large the model is on disk, from a file that was really written."""
    from edgebuild.models import compressed_model

    folder = work.ctx.scratch / "packed"
    folder.mkdir(exist_ok=True)
    compressed_model.write_model(work.module, work.stored, folder)
    size = (folder / compressed_model.WEIGHTS_FILE).stat().st_size
    plain = sum(value.numel() * value.element_size() for value in work.module.state_dict().values())
    return f"The stored model's weights take {size:,} bytes on disk; unpacked they would take {plain:,}."
