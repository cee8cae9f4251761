"""Early exits: heads on middle layers that answer the easy samples, trained together with the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from edgebuild.errors import ModelError
from edgebuild.models.edits import AddHead
from edgebuild.techniques.learning import TrainingParameters, array_loader, learn, user_loader
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgebuild.techniques.workspace import Workspace
    from edgebuild.training.batches import Batch

#: Where no layer is named, the exit stands as near as possible to this share of the MACs.
SHARE = 0.2


class ExitEarlyParameters(TrainingParameters):
    """Parameters of `exit-early`."""

    after: tuple[str, ...] = Field(
        default=(),
        description="Layers that an exit stands behind, in order. Default: one, after about a fifth of the "
        "MACs. Their outputs have the channels on axis 1.",
    )
    hidden: int = Field(default=0, ge=0, description="Units of a layer inside each exit; 0 for none.")
    grid: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Average-pools an image to grid x grid cells in front of the exit (1: global pooling).",
    )
    confidence: Literal["max-probability", "entropy"] = Field(
        default="max-probability",
        description="What an exit's threshold is compared with: its likeliest class's probability, or its entropy.",
    )
    exit_weight: float = Field(
        default=1.0, gt=0, description="The weight of each exit's loss; that of the model's own output is 1."
    )
    distil_weight: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The share of every output's loss that is the distance to the original's softened answers; the "
        "rest are the labels. 1 where there are none.",
    )
    temperature: float = Field(default=4.0, gt=0, description="The temperature that softens them.")


class ExitEarly(Technique):
    """Adds heads and trains them with the model. Raises ``ModelError`` for a model that isn't a classifier."""

    kind: ClassVar[str] = "exit-early"
    title: ClassVar[str] = "adds exits that answer easy samples early, and trains them with the model"
    version: ClassVar[int] = 3
    tools: ClassVar[tuple[str, ...]] = ("torch", "lightning-fabric", "onnxruntime")
    Parameters: ClassVar = ExitEarlyParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"values", "heads"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "heads": "the model has early exits already; name all layers in one step",
        "grids": "training the whole model further would leave the grids that it computes on",
    }

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        return Requirements(train=True, modules=("lightning-fabric",), references=parameters.references)

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        p: ExitEarlyParameters = self.parameters
        classes = _classes(work)
        places = _places(work)
        for number, name in enumerate(p.after or _chosen(places), start=1):
            shape, share = _place(places, name)
            head = AddHead(
                name=f"exit{number}",
                after=name,
                features=shape[1],
                outputs=classes,
                hidden=p.hidden,
                grid=p.grid,
                confidence=p.confidence,
            )
            work.apply(head)
            work.say(name, "no exit", f"exit{number}, after {share:.0%} of the MACs")
        work.require_shapes(work.module)
        own = user_loader(work, p)
        loader = array_loader(work, p) if own is None else own
        report = learn(work, work.module, p.plan(), loader, ExitLoss(work, p), name="exits", title="Training exits")
        went = f"from {report.losses[0]:.4g} to {report.losses[-1]:.4g}"
        return f"{len(work.edits)} exit(s), {report.steps} steps of training; the loss went {went}"


class ExitLoss:
    """The sum over all outputs of the labels' loss and the distance to the original's answers, exits weighted.

    Source: Teerapittayanon et al. 2016, "BranchyNet", equation 1.
    """

    def __init__(self, work: Workspace, p: ExitEarlyParameters) -> None:
        from edgebuild.training.teachers import LiveTeacher

        labelled = work.labelled
        self._work, self._p = work, p
        self._soft = p.distil_weight if labelled else 1.0
        self._teacher = LiveTeacher(work.teacher()) if self._soft else None

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """See ``train``."""
        import torch

        from edgebuild.models.torch_models import flatten

        *exits, last = flatten(outputs)
        expected = self._teacher(batch)[0] if self._teacher is not None else None
        parts = [self._p.exit_weight * self._one(output, expected, batch) for output in exits]
        return torch.stack([*parts, self._one(last, expected, batch)]).sum()

    def _one(self, output: torch.Tensor, expected: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        from edgebuild.training.losses import Supervised, soft_targets

        soft = None if expected is None else soft_targets(output, expected, self._p.temperature)
        if soft is not None and self._soft == 1:
            return soft
        own = self._work.step.loss
        hard = self._work.loss([output], batch.target) if own else Supervised()(output, batch)
        return hard if soft is None else self._soft * soft + (1 - self._soft) * hard


def _classes(work: Workspace) -> int:
    shapes = work.shapes_before
    target = work.dataset(train=True).numbers
    numbers = target is not None and target.dtype.kind not in "iub"
    if len(shapes) != 1 or len(shapes[0][0]) != 2 or shapes[0][0][1] < 2 or numbers:
        named = ", ".join(str(list(shape)) for shape, _ in shapes)
        raise ModelError(
            f"An early exit answers in the model's place for one row of classes: the outputs are {named}"
            f"{', the targets numbers' if numbers else ''}.",
            hint="Leave exit-early out of the recipe.",
        )
    return shapes[0][0][1]


class _Place:
    """What a layer gave: its output's shape, how often it ran, and the share of the arithmetic that was done then."""

    def __init__(self, shape: tuple[int, ...], macs: int) -> None:
        self.shape, self.macs, self.calls = shape, macs, 1


def _places(work: Workspace) -> dict[str, tuple[tuple[int, ...], float]]:
    """Return of every layer that runs once and gives one tensor its shape and the share of the arithmetic before it.

    In the order in which they end.
    """
    import torch

    from edgebuild.techniques.sizes import COUNTED, layer_macs

    macs = layer_macs(work.module, work.examples, work.run)
    found: dict[str, _Place] = {}
    done, batch = [0], len(work.examples[0])
    handles = []

    def note(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(module, COUNTED):
            done[0] += macs.get(name, 0)
        if name in found:
            found[name].calls += 1
        elif isinstance(output, torch.Tensor) and output.dim() >= 2 and len(output) == batch:
            found[name] = _Place(tuple(output.shape), done[0])

    for name, module in work.module.named_modules():
        if name:
            handles.append(module.register_forward_hook(lambda m, _, out, name=name: note(name, m, out)))
    try:
        with torch.no_grad():
            work.run(work.module, work.examples)
    finally:
        for handle in handles:
            handle.remove()
    total = max(1, done[0])
    return {name: (place.shape, place.macs / total) for name, place in found.items() if place.calls == 1}


def _chosen(places: Mapping[str, tuple[tuple[int, ...], float]]) -> tuple[str, ...]:
    """Return the layer whose share is nearest; of several after the same arithmetic the last, behind its activation."""
    fit = [
        (abs(share - SHARE), -order, name)
        for order, (name, (shape, share)) in enumerate(places.items())
        if 0 < share < 1 and len(shape) in {2, 4}
    ]
    if not fit:
        raise ModelError(
            "exit-early finds no place: the model has no layer with channels on axis 1 before its last arithmetic.",
            hint='Name one: after = ["layer"].',
        )
    return (min(fit)[2],)


def _place(places: Mapping[str, tuple[tuple[int, ...], float]], name: str) -> tuple[tuple[int, ...], float]:
    if name not in places:
        raise ModelError(
            f"exit-early: {name!r} isn't a layer that runs once and gives one tensor with samples on axis 0.",
            hint=f"Layers that are: {', '.join(list(places)[:12])}.",
        )
    return places[name]
