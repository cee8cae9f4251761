"""Distillation: the model learns to answer as the original does, or a smaller one takes its place and does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from edgebuild.core.classes import is_class_row
from edgebuild.core.values import digest_file, digest_json
from edgebuild.errors import ModelError, UsageError
from edgebuild.models.edits import ReplaceModule, ShallowNet, UserModule
from edgebuild.techniques.distilling.class_biases import set_biases
from edgebuild.techniques.learning import TrainingParameters, array_loader, learn, task_loss, user_loader
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from edgebuild.models.compressed_model import UserCode
    from edgebuild.techniques.workspace import Workspace
    from edgebuild.training.batches import ArrayLoader
    from edgebuild.training.losses import Match, Teacher
    from edgebuild.training.plan import TrainingPlan, TrainReport
    from edgebuild.training.run import Loss

Kind: TypeAlias = Literal["auto", "kl", "l2", "l1", "binary-kl", "standardised-l2", "none"]

SHALLOW = "shallow"
#: The share of the labels where there are any and nobody says more.
HARD_WEIGHT = 0.1
#: Batches that a deviation is taken from where predictions aren't stored.
DEVIATION_BATCHES = 64


class DistilParameters(TrainingParameters):
    """Parameters of `distil`."""

    match: tuple[Kind, ...] = Field(
        default=("auto",),
        min_length=1,
        description="How outputs are compared with the teacher's, one for all or one each: soft targets (`kl`, over "
        "axis 1, per pixel where there are any), `l2`, `l1`, `binary-kl`, `standardised-l2`, `none`; `auto` is `kl` "
        "for a row of classes, and over the last axis for probabilities step by step (CTC), else `l2`.",
    )
    temperature: float = Field(default=4.0, gt=0, description="The temperature of `kl`: 8 and more for wide students.")
    hard_weight: float | None = Field(
        default=None,
        ge=0,
        description=f"The weight of the labels' own loss. Default: {HARD_WEIGHT} where one is known for them, else 0. "
        "Labels of -1 (NaN for numbers) are unknown and have no share.",
    )
    student: str = Field(
        default="",
        description="What takes the model's place: `shallow`, or `module:function` that is called with the original "
        "model and returns a smaller one. Without it the model itself, as earlier steps left it.",
    )
    hidden: int = Field(default=256, ge=1, description="The hidden units of a `shallow` student.")
    bottleneck: int = Field(default=32, ge=1, description="The linear bottleneck before them.")
    teachers: tuple[str, ...] = Field(
        default=(),
        description="More teachers, whose outputs are averaged with the original's: `module:function`, called with the "
        "original model, returns a trained one.",
    )
    specialists: tuple[str, ...] = Field(
        default=(),
        description="Teachers for some classes: `module:function`, called with the original model, returns a trained "
        "model with one output per class of its own and a last one for all others, and the classes' numbers.",
    )
    hint: tuple[str, ...] = Field(
        default=(), description="A middle layer of the student and one of the teacher that it learns to resemble."
    )
    hint_weight: float = Field(default=1.0, gt=0, description="The hint's weight at the start; it falls to 0.")
    blocks: tuple[str, ...] = Field(
        default=(), description="Layers that first learn, each in isolation, what the teacher's layers of that name do."
    )
    block_epochs: int = Field(default=3, ge=1, description="For how many epochs.")
    cache: bool = Field(
        default=True, description="Whether the teacher is asked once and its answers kept on disk, or in every epoch."
    )
    views: int | None = Field(
        default=None, ge=1, description="With `augment`: versions of each sample, so that kept answers don't grow."
    )

    priors: tuple[tuple[int, float], ...] = Field(
        default=(),
        description="Classes that the student's data lack, each with the share of samples it has in the calibration "
        "data, which hold all classes: one number is added to its bias, so that it is answered as often.",
    )

    @model_validator(mode="after")
    def _fits(self) -> DistilParameters:
        if len(self.hint) not in {0, 2}:
            raise ValueError("`hint` names two layers: the student's and the teacher's")
        if self.views is not None and not self.augment:
            raise ValueError("`views` goes with `augment`")
        if self.specialists and set(self.match) - {"auto", "kl"}:
            raise ValueError("`specialists` answer in probabilities, which only `kl` compares")
        return self

    @property
    def references(self) -> tuple[str, ...]:
        """The user's functions that are called."""
        own = (self.student,) if self.student not in {"", SHALLOW} else ()
        return (*super().references, *own, *self.teachers, *self.specialists)


class Distil(Technique):
    """Trains the model on its teacher's outputs. Raises ``ModelError`` where they don't fit, or the loss diverges."""

    kind: ClassVar[str] = "distil"
    title: ClassVar[str] = "teaches the model, or a smaller one, to answer as the original does"
    version: ClassVar[int] = 6
    tools: ClassVar[tuple[str, ...]] = ("torch", "lightning-fabric", "onnxruntime")
    Parameters: ClassVar = DistilParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"values"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "heads": "early exits are trained together with the model; distilling it alone would leave them behind",
    }

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        return Requirements(
            train=True,
            labels=bool(parameters.hard_weight),
            modules=("lightning-fabric",),
            untouched="student" if parameters.student else "",
            references=parameters.references,
        )

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        p: DistilParameters = self.parameters
        _place_student(work, p)
        report = teach(work, work.module, p)
        if p.priors:
            set_biases(work, dict(p.priors))
        if not p.student:
            work.say("all layers", "as before", "trained further")
        went = f"from {report.losses[0]:.4g} to {report.losses[-1]:.4g}"
        return f"{report.steps} steps of distillation; the loss went {went}"


def teach(
    work: Workspace,
    module: nn.Module,
    p: DistilParameters,
    *,
    name: str = "distil",
    title: str = "Distilling",
    before: nn.Module | None = None,
) -> TrainReport:
    """Train a module, ``work``'s own or another with the same outputs, on what its teacher answers.

    ``name`` keeps its checkpoint apart from those of other parts of a technique's work; the teacher's answers are
    shared between parts that see the same samples. ``blocks`` learn what those of ``before`` do, else the original's.
    """
    plan, own = p.plan(), user_loader(work, p)
    arrays = None if own is not None else array_loader(work, p, views=p.views)
    loader = own if arrays is None else arrays
    if p.blocks:
        _teach_blocks(work, (module, before or work.teacher()), p, loader, f"{name}-blocks")
    teacher = _teacher(work, p, plan, arrays)
    loss = _loss(work, p, teacher, loader)
    if not p.hint:
        return learn(work, module, plan, loader, loss, name=name, title=title)
    return _teach_with_hint(work, module, p, plan, loader, loss, name=name, title=title)


def _place_student(work: Workspace, p: DistilParameters) -> None:
    if not p.student:
        return
    if work.stored.edits:
        raise ModelError(
            f'distil with student = "{p.student}" would throw away what earlier steps made of the model.',
            hint="Make it the first step of the recipe, or leave `student` out.",
        )
    before = type(work.module).__name__
    if p.student == SHALLOW:
        shapes, dtypes = [shape for shape, _ in work.shapes_before], [example.dtype for example in work.examples]
        if len(shapes) != 1 or len(shapes[0]) != 2 or len(dtypes) != 1 or not dtypes[0].is_floating_point:
            raise ModelError(
                f"A shallow student takes one input of numbers and gives one row of outputs: the model takes "
                f"{len(dtypes)} input(s) and gives outputs of shape {', '.join(str(list(s)) for s in shapes)}.",
                hint='Name a student of your own: student = "module:function".',
            )
        inputs = math.prod(work.examples[0].shape[1:])
        by: ShallowNet | UserModule = ShallowNet(
            inputs=inputs, bottleneck=p.bottleneck, hidden=p.hidden, outputs=shapes[0][1]
        )
    else:
        by = UserModule(reference=p.student)
    work.apply(ReplaceModule(module="", by=by))
    work.require_shapes(work.module)
    work.say("the whole model", before, type(work.module).__name__ if p.student != SHALLOW else SHALLOW)


def _teacher(work: Workspace, p: DistilParameters, plan: TrainingPlan, arrays: ArrayLoader | None) -> Teacher:
    """Return who is asked; answers are kept on disk where that was asked for and the data are known by their number."""
    from edgebuild.training.labels import cached_teacher
    from edgebuild.training.teachers import Ensemble, LiveTeacher, Specialists

    original, code = work.teacher(), work.code
    teacher: Teacher = LiveTeacher(original)
    if p.teachers:
        others = [LiveTeacher(code.made(reference, original)) for reference in p.teachers]
        teacher = Ensemble([teacher, *others])
    if p.specialists:
        teacher = Specialists(teacher, [_specialist(code, reference, original) for reference in p.specialists])
    if not p.cache or arrays is None:
        return teacher
    epochs = plan.epochs or math.ceil((plan.steps or 1) / arrays.length())
    files = sorted((work.teacher_folder.iterdir() if work.teacher_folder else ()), key=lambda path: path.name)
    data = sorted(work.dataset(train=True).folder.glob("*.npy"), key=lambda path: path.name)
    return cached_teacher(
        teacher,
        arrays,
        work.ctx.scratch / "labels",
        epochs=epochs,
        teacher_digest=digest_json(
            [work.code_digest, p.teachers, p.specialists, [digest_file(path) for path in files]]
        ),
        data_digest=digest_json([[path.name, digest_file(path)] for path in data]),
        augmentation=digest_json([p.augment, work.code_digest]) if p.augment else "",
        progress=work.ctx.progress,
        check=work.ctx.check,
    )


def _specialist(code: UserCode, reference: str, original: nn.Module) -> tuple[Teacher, Sequence[int]]:
    from torch import nn

    from edgebuild.training.teachers import LiveTeacher

    found = code.module_maker(reference)(original)
    try:
        module, classes = found
        numbers = tuple(int(each) for each in classes)
    except (TypeError, ValueError):
        module = numbers = None
    if not isinstance(module, nn.Module) or not numbers:
        raise ModelError(
            f"{reference} returned no specialist, but a {type(found).__name__}.",
            hint="Return (module, [class, ...]): a torch.nn.Module and the numbers of the classes that it knows.",
        )
    return LiveTeacher(module), numbers


def _loss(work: Workspace, p: DistilParameters, teacher: Teacher, loader: Any) -> Any:
    from edgebuild.training import losses

    kinds = p.match if len(p.match) > 1 else p.match * len(work.shapes_before)
    if len(kinds) != len(work.shapes_before):
        raise UsageError(f"`match` names {len(kinds)} losses for the model's {len(work.shapes_before)} outputs.")
    matches = [_match(kind, p, teacher, loader, number, work) for number, kind in enumerate(kinds)]
    weight = p.hard_weight if p.hard_weight is not None else (HARD_WEIGHT if work.labelled else 0.0)
    if work.dataset(train=True).labelled and not work.labelled:
        work.notes.append("No loss is known for the labels: what is learnt is what the original answers.")
    if not any(matches) and not weight:
        raise UsageError("distil compares no output and looks at no label: it has nothing to learn from.")
    return losses.Distil(teacher, matches, hard=task_loss(work), hard_weight=weight)


def _match(
    kind: Kind, p: DistilParameters, teacher: Teacher, loader: Any, output: int, work: Workspace
) -> Match | None:
    from edgebuild.training import losses

    if kind == "none":
        return None
    if kind == "auto":
        if gives_steps(work, output):
            return lambda student, expected: losses.soft_steps(student, expected, p.temperature)
        kind = "kl" if is_row_of_classes(work, output) else "l2"
    if kind == "kl":
        return lambda student, expected: losses.soft_targets(student, expected, p.temperature)
    if kind == "standardised-l2":
        return losses.StandardisedL2(_deviation(teacher, loader, output, work))
    return losses.MATCHES[kind]


def is_row_of_classes(work: Workspace, output: int) -> bool:
    """Whether an output is a row of class logits, as far as shapes and targets say."""
    shape, _ = work.shapes_before[output]
    target = work.dataset(train=True).numbers
    return is_class_row(shape) and (target is None or target.dtype.kind in "iub")


def gives_steps(work: Workspace, output: int) -> bool:
    """Whether the original's output is probabilities of classes, step by step."""
    import torch

    from edgebuild.training.losses import are_steps

    if len(work.shapes_before[output][0]) != 3:
        return False
    with torch.no_grad():
        return are_steps(work.run(work.teacher(), work.examples)[output])


def _deviation(teacher: Teacher, loader: Any, output: int, work: Workspace) -> Any:
    from itertools import islice

    import torch

    from edgebuild.training.batches import as_feed
    from edgebuild.training.labels import CachedTeacher

    if isinstance(teacher, CachedTeacher):
        return teacher.deviation(output)
    batches = islice(as_feed(loader, work.ctx.seed).batches(0, 0), DEVIATION_BATCHES)
    return torch.cat([teacher(batch)[output] for batch in batches]).std(dim=0, correction=0)


def _teach_blocks(
    work: Workspace, nets: tuple[nn.Module, nn.Module], p: DistilParameters, loader: Any, name: str
) -> None:
    from edgebuild.training.losses import matched_pairs
    from edgebuild.training.pairs import Blockwise

    pairs = Blockwise(*nets, [(block, block) for block in p.blocks])
    try:
        plan = p.plan(epochs=p.block_epochs, steps=None)
        report = learn(work, pairs, plan, loader, matched_pairs, name=name, title="Teaching blocks")
    finally:
        pairs.close()
    work.notes.append(f"Block by block the loss went from {report.losses[0]:.4g} to {report.losses[-1]:.4g}.")


def _teach_with_hint(
    work: Workspace,
    module: nn.Module,
    p: DistilParameters,
    plan: TrainingPlan,
    loader: Any,
    loss: Loss,
    *,
    name: str,
    title: str,
) -> TrainReport:
    from edgebuild.training.batches import Batch
    from edgebuild.training.losses import Sum, linear
    from edgebuild.training.pairs import Hint

    hint = Hint(module, p.hint[0], work.teacher(), p.hint[1], Batch(inputs=work.examples))
    try:
        both: Loss = Sum([(1.0, loss), (linear(p.hint_weight, 0.0), hint)])
        return learn(work, module, plan, loader, both, name=name, title=title)
    finally:
        hint.close()
