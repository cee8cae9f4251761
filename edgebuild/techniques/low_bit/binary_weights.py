"""Binary weights: every weight is plus or minus one number of its layer, and takes one bit on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from edgebuild.techniques.learning import (
    OPTIMISER,
    Optimiser,
    TrainingParameters,
    array_loader,
    learn,
    task_loss,
    user_loader,
)
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    from edgebuild.techniques.workspace import Workspace
    from edgebuild.training.hooks import ClipWeights

#: The share of the labels where there are any and nobody says more.
HARD_WEIGHT = 0.5


class BinaryParameters(TrainingParameters):
    """Parameters of `binary-weights`."""

    optimiser: Optimiser = Field(default="adamw", description=OPTIMISER)
    learning_rate: float = Field(default=0.002, gt=0, description="The highest learning rate.")
    temperature: float = Field(default=4.0, gt=0, description="The temperature at which classes are compared.")
    hard_weight: float | None = Field(
        default=None,
        ge=0,
        description=f"The weight of the labels' own loss. Default: {HARD_WEIGHT} where one is known for them, else 0.",
    )
    skip: tuple[str, ...] = Field(default=(), description="Layers that stay in float; `*` stands for anything.")


class BinaryWeights(Technique):
    """BinaryConnect: signs go forward, gradients go to real weights behind them, which are clipped after each step.

    A layer's number is the mean magnitude of its weights at the start. The stored model holds one bit a weight; no
    runtime has kernels for such weights, so exported files hold them as float or 8-bit numbers. Source: Courbariaux et
    al. 2015, "BinaryConnect". Raises ``ModelError`` when no layer can be binary, or the loss diverges.
    """

    kind: ClassVar[str] = "binary-weights"
    title: ClassVar[str] = "trains weights of one bit each"
    version: ClassVar[int] = 3
    tools: ClassVar[tuple[str, ...]] = ("torch", "lightning-fabric", "numpy", "onnxruntime")
    Parameters: ClassVar = BinaryParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"grids", "values"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "grids": "its layers are on grids already",
        "codebooks": "weights of one bit have two values of their own",
        "masks": "a weight of one bit can't be zero",
        "heads": "early exits are trained together with the model; training it alone would leave them behind",
    }

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        return Requirements(
            train=True,
            labels=bool(parameters.hard_weight),
            modules=("lightning-fabric",),
            references=parameters.references,
        )

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        from edgebuild.core.artifact import Int8Scheme
        from edgebuild.models.edits import Grid
        from edgebuild.techniques.low_bit import fake_quant
        from edgebuild.training import losses

        p: BinaryParameters = self.parameters
        scheme, grid = Int8Scheme(activations="uint8"), Grid(bits=1)
        placed = [name for name in fake_quant.reads(work, p.skip) if fake_quant.place(work, name, grid, None, scheme)]
        if not placed:
            raise fake_quant.nothing_to_do(work)
        teacher, matches = fake_quant.answers(work, p.temperature)
        own = user_loader(work, p)
        loader = own if own is not None else array_loader(work, p)
        weight = p.hard_weight if p.hard_weight is not None else (HARD_WEIGHT if work.labelled else 0.0)
        loss = losses.Distil(teacher, matches, hard=task_loss(work), hard_weight=weight)
        clips = [_clip(work, name) for name in placed]
        report = learn(work, work.module, p.plan(), loader, loss, name="binary", after_step=clips)
        work.recalibrate_norms()
        work.notes.append(
            "Binary weights are simulated: exported files hold them as float or 8-bit numbers, and no runtime computes "
            "faster for it."
        )
        work.notes.append(fake_quant.packed_size(work))
        return f"{len(placed)} layers with one bit a weight, {report.steps} steps; {fake_quant.losses_text(report)}"


def _clip(work: Workspace, name: str) -> ClipWeights:
    """Return what keeps real weights within the two values: beyond them they'd only be slower to change their sign."""
    from edgebuild.models.interpreter import layer_at
    from edgebuild.techniques.low_bit.fake_quant import weight_of
    from edgebuild.training.hooks import ClipWeights

    grid, _ = weight_of(layer_at(work.module, name))
    return ClipWeights(names=(f"{name}.parametrizations.weight.original",), bound=float(grid.scale))
