"""Quantisation-aware training: a short training in which the model already computes in 8 bits. Needs no labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from edgebuild.techniques.learning import TrainingParameters, array_loader, learn, user_loader
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    from torch import nn

    from edgebuild.techniques.workspace import Workspace
    from edgebuild.training.plan import TrainingPlan

#: Batches where neither steps nor epochs are given.
STEPS = 300


class QatParameters(TrainingParameters):
    """Parameters of `qat`."""

    epochs: int | None = Field(default=None, ge=1, description="Passes over the training data, in place of `steps`.")
    steps: int | None = Field(default=None, ge=1, description=f"Batches to learn from. Default: {STEPS}.")
    learning_rate: float = Field(default=0.002, gt=0, description="The highest learning rate.")
    temperature: float = Field(default=4.0, gt=0, description="The temperature at which classes are compared.")
    skip: tuple[str, ...] = Field(default=(), description="Layers that stay in float; `*` stands for anything.")

    def plan(self, **changes: Any) -> TrainingPlan:
        """See ``TrainingParameters``."""
        if self.epochs is None and self.steps is None:
            changes = {"epochs": None, "steps": STEPS, **changes}
        return super().plan(**changes)


class Qat(Technique):
    """Trains weights that lie on the grids of int8, so that they are deployed as they are.

    Weights are symmetric with a scale per output channel, as wide as the profile's int8 schemes take; what a layer
    reads has one range, from calibration. Normalisations keep their statistics and factors, and fold as in int8.
    Raises ``ModelError`` when no layer can be put on a grid, or the loss diverges.
    """

    kind: ClassVar[str] = "qat"
    title: ClassVar[str] = "trains the model to answer in 8 bits as the original does"
    version: ClassVar[int] = 2
    tools: ClassVar[tuple[str, ...]] = ("torch", "lightning-fabric", "numpy", "onnxruntime")
    Parameters: ClassVar = QatParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"grids", "values"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "grids": "its layers are on grids already",
        "codebooks": "a scale per channel would break up the values that entries share",
        "heads": "early exits are trained together with the model; training it alone would leave them behind",
    }
    uses_int8: ClassVar[bool] = True

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        return Requirements(train=True, modules=("lightning-fabric",), references=parameters.references)

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        from edgebuild.models.edits import Grid
        from edgebuild.techniques.low_bit import fake_quant
        from edgebuild.training import losses

        p: QatParameters = self.parameters
        scheme = fake_quant.int8_of(self.int8)
        weight = Grid(bits=7 if scheme.reduce_range else 8, per_channel=True)
        read = fake_quant.reads(work, p.skip)
        placed = [name for name, seen in read.items() if fake_quant.place(work, name, weight, seen, scheme)]
        if not placed:
            raise fake_quant.nothing_to_do(work)
        teacher, matches = fake_quant.answers(work, p.temperature)
        own = user_loader(work, p)
        loader = own if own is not None else array_loader(work, p)
        loss, keep_up = losses.Distil(teacher, matches), fake_quant.UpdateScales()
        frozen = _freeze_norms(work.module)
        try:
            report = learn(work, work.module, p.plan(), loader, loss, name="qat", after_step=[keep_up])
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
        keep_up(work.module)
        work.notes.append("Our quantiser deploys what was trained as it is; others recalibrate it.")
        trained = f"{len(placed)} layers trained on {weight.bits}-bit grids for {report.steps} steps"
        return f"{trained}; {fake_quant.losses_text(report)}"


def _freeze_norms(module: nn.Module) -> list[nn.Parameter]:
    """Freeze the factors of batch normalisations, which then keep their statistics too; return what was frozen."""
    from torch.nn.modules.batchnorm import _NormBase

    found = [p for m in module.modules() if isinstance(m, _NormBase) for p in m.parameters() if p.requires_grad]
    for parameter in found:
        parameter.requires_grad_(False)
    return found
