"""Parameters of every technique that trains, and how it hands its work to the training loop."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from edgebuild.core.classes import is_class_row
from edgebuild.errors import ModelError, UsageError
from edgebuild.techniques.technique import Parameters
from edgebuild.training.plan import TrainingPlan, TrainReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from edgebuild.techniques.workspace import Workspace
    from edgebuild.training.batches import ArrayLoader, Batch
    from edgebuild.training.hooks import AfterStep
    from edgebuild.training.run import Loss

#: Why nothing is trained on its own once a model has early exits.
HEADS = "early exits are trained together with the model; training it alone would leave them behind"
#: Epochs where neither epochs nor steps are given.
EPOCHS = 10


def _known(optimiser: str) -> str:
    if optimiser in ("sgd", "adamw") or re.fullmatch(r"[\w.]+:\w+", optimiser):
        return optimiser
    raise ValueError(f'takes "sgd", "adamw" or "module:function", not "{optimiser}"')


Optimiser: TypeAlias = Annotated[str, AfterValidator(_known)]
OPTIMISER = (
    "`sgd` (with Nesterov's momentum), `adamw`, or `module:function(parameters)`, which makes a torch optimiser with a "
    "learning rate of its own."
)


class TrainingParameters(Parameters):
    """Training parameters of a technique."""

    epochs: int | None = Field(default=None, ge=1, description=f"Passes over the training data. Default: {EPOCHS}.")
    steps: int | None = Field(default=None, ge=1, description="Batches to learn from, in place of `epochs`.")
    batch_size: int = Field(default=64, ge=1, description="Samples per batch.")
    optimiser: Optimiser = Field(default="sgd", description=OPTIMISER)
    learning_rate: float = Field(default=0.02, gt=0, description="The highest learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="The momentum of SGD.")
    weight_decay: float = Field(default=0.0, ge=0, description="The weight decay.")
    schedule: Literal["constant", "cosine", "step", "one-cycle"] = Field(
        default="cosine", description="How the learning rate falls."
    )
    warmup: float = Field(default=0.0, ge=0, lt=1, description="The share of the run over which it rises first.")
    clip: float | None = Field(default=None, gt=0, description="The largest norm of all gradients together.")
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="The decay of an average of the weights, which then is the result."
    )
    augment: str = Field(
        default="",
        description="`module:function(inputs, draws)` that changes a batch's inputs at random; all its random numbers "
        "come from `draws.uniform(…)` and `draws.integers(…)`.",
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where training runs.")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        default="32-true", description="Full precision, or mixed."
    )
    processes: int = Field(default=1, ge=1, description="Processes that share every batch, one per GPU.")

    @model_validator(mode="after")
    def _sound(self) -> TrainingParameters:
        self.plan()
        return self

    def plan(self, **changes: Any) -> TrainingPlan:
        """Return the plan of a run with these parameters."""
        own = {name: getattr(self, name) for name in TrainingPlan.model_fields if name in type(self).model_fields}
        if ":" in self.optimiser:
            del own["optimiser"]
        if self.epochs is None and self.steps is None:
            own["epochs"] = EPOCHS
        return TrainingPlan(**{**own, **changes})

    def learns_from(self, frames: int) -> int:
        """Return about how many samples are learnt from where an epoch has ``frames``; for estimates only."""
        plan = self.plan()
        return plan.steps * self.batch_size if plan.steps is not None else (plan.epochs or 0) * frames

    @property
    def references(self) -> tuple[str, ...]:
        """The user's functions that training calls."""
        own = (self.augment, self.optimiser if ":" in self.optimiser else "")
        return tuple(filter(None, own))


def array_loader(work: Workspace, parameters: TrainingParameters, *, views: int | None = None) -> ArrayLoader:
    """Return a loader over the project's training data (or calibration data where it has none)."""
    from edgebuild.training.batches import ArrayLoader

    dataset = work.dataset(train=True)
    constant = [spec.name for spec in work.step.specs if spec.name not in dataset.inputs]
    if constant:
        raise ModelError(
            f"{work.step.kind} can't feed the constant input {constant[0]!r} from the training data.",
            hint="Give [training].loader, which yields it with every batch, or a factory that binds it.",
        )
    order = tuple(spec.name for spec in work.step.specs)
    augment = work.code.module_maker(parameters.augment) if parameters.augment else None
    return ArrayLoader.of(
        dataset, order, batch_size=parameters.batch_size, seed=work.ctx.seed, augment=augment, views=views
    )


def user_loader(work: Workspace, parameters: TrainingParameters) -> Any | None:
    """Return the project's own loader, or None; refuses an augmentation alongside it, which would never run."""
    if not work.step.loader:
        return None
    if parameters.augment:
        raise UsageError(
            "`augment` goes with [data].train, and the project has a loader of its own.",
            hint="Augment in [training].loader, or take that out.",
        )
    first = work.loader()
    # A generator is made again for every epoch; anything else can be iterated again.
    return work.loader if hasattr(first, "__next__") else first


def any_loader(work: Workspace, parameters: TrainingParameters) -> Any:
    """Return the project's own loader, though it were empty or of unknown length, else one over its data."""
    own = user_loader(work, parameters)
    return array_loader(work, parameters) if own is None else own


def learn(
    work: Workspace,
    module: nn.Module,
    plan: TrainingPlan,
    loader: Any,
    loss: Loss,
    *,
    name: str,
    title: str = "Training",
    after_step: Sequence[AfterStep] = (),
) -> TrainReport:
    """Train a part of a technique's work; ``name`` keeps its checkpoint apart from those of other parts."""
    from edgebuild.training.loop import train

    optimiser = work.step.parameters.optimiser
    return train(
        module,
        plan,
        loader,
        loss,
        optimiser=work.code.module_maker(optimiser) if ":" in optimiser else None,
        scratch=work.ctx.scratch / name,
        progress=work.ctx.progress,
        check=work.ctx.check,
        seed=work.ctx.seed,
        after_step=after_step,
        title=title,
    )


def task_loss(work: Workspace) -> Loss:
    """Return what the labels say: the user's loss, cross-entropy over known classes, or L2 over known numbers."""
    from edgebuild.models.torch_models import flatten
    from edgebuild.training.losses import Supervised, cross_entropy, known_l2

    def loss(outputs: Any, batch: Batch) -> Any:
        if work.step.loss:
            return work.loss(flatten(outputs), batch.target)
        numbers = batch.target is not None and batch.target.is_floating_point()
        return Supervised(known_l2 if numbers else cross_entropy)(outputs, batch)

    return loss


def relearning_loss(work: Workspace) -> Loss:
    """Return what a changed model learns from: the labels where there are any, else the original's outputs."""
    from edgebuild.models.replacements import WithHeads
    from edgebuild.training import losses
    from edgebuild.training.teachers import LiveTeacher

    if isinstance(work.module, WithHeads):
        raise ModelError(f"{work.step.kind} can't train this model: {HEADS}.", hint="Let exit-early come after it.")
    if work.labelled:
        return task_loss(work)
    matches = [losses.soft_targets if is_class_row(shape) else losses.l2 for shape, _ in work.shapes_before]
    return losses.Distil(LiveTeacher(work.teacher()), matches)
