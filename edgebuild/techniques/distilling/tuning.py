"""What techniques that change structure do afterwards, so that accuracy comes back: a short distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from edgebuild.techniques.distilling.distil import DistilParameters, teach
from edgebuild.techniques.learning import HEADS, TrainingParameters
from edgebuild.techniques.technique import Requirements

if TYPE_CHECKING:
    from torch import nn

    from edgebuild.techniques.workspace import Workspace
    from edgebuild.training.plan import TrainReport


class TuningParameters(TrainingParameters):
    """Parameters of techniques that may fine-tune afterwards: with ``epochs`` or ``steps`` they do."""

    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Passes over the training data after each change of structure; without this and `steps` nothing is "
        "trained.",
    )
    hard_weight: float = Field(
        default=0.0, ge=0, description="The weight of the labels' own loss, next to the original's answers."
    )
    temperature: float = Field(default=4.0, gt=0, description="The temperature of soft targets, where classes are.")

    @property
    def tunes(self) -> bool:
        """Whether anything is trained."""
        return self.epochs is not None or self.steps is not None

    def needs(self, *modules: str) -> Requirements:
        """Return what tuning needs, in addition to other distributions."""
        if not self.tunes:
            return Requirements(modules=modules)
        return Requirements(
            train=True,
            labels=bool(self.hard_weight),
            modules=(*modules, "lightning-fabric"),
            references=self.references,
            not_after=(("heads", HEADS),),
        )

    def distillation(self, **more: Any) -> DistilParameters:
        """Return the distillation that tuning is: from the original, by outputs, label-free by default."""
        shared = {name: getattr(self, name) for name in TrainingParameters.model_fields}
        return DistilParameters(**shared, hard_weight=self.hard_weight, temperature=self.temperature, **more)


def tune(
    work: Workspace,
    module: nn.Module,
    p: TuningParameters,
    *,
    name: str,
    before: nn.Module | None = None,
    **more: Any,
) -> TrainReport | None:
    """Teach a module to answer as the original does, and leave it in eval mode; None where nothing is trained.

    ``before``: see ``teach``.
    """
    return teach(work, module, p.distillation(**more), name=name, title="Tuning", before=before) if p.tunes else None
