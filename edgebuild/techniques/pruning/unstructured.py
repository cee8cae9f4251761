"""Unstructured pruning: holds the smallest weights at zero, while the others learn to do without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from edgebuild.errors import ModelError
from edgebuild.models.edits import Mask
from edgebuild.techniques.learning import HEADS, TrainingParameters, any_loader, learn, relearning_loss
from edgebuild.techniques.skipping import is_skipped
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from edgebuild.techniques.pruning.masking import WeightOf
    from edgebuild.techniques.workspace import Workspace

#: Cuts where nobody says how many.
GRADUAL_CUTS = 50
ITERATIVE_CUTS = 5
FEATURE = "2:4"


class PruneUnstructuredParameters(TrainingParameters):
    """Parameters of `prune-unstructured`."""

    sparsity: float = Field(default=0.8, gt=0, lt=1, description="The share of weights that end at zero.")
    pattern: Literal["any", "2:4"] = Field(
        default="any",
        description="Whether any weights go, or the two smaller ones of every four neighbouring inputs (then half of "
        "them, whatever `sparsity` says), which some kernels skip.",
    )
    cuts: Literal["gradual", "iterative"] = Field(
        default="gradual",
        description="During training, fewer from cut to cut; or each cut before a training of its own.",
    )
    rounds: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description=f"How many cuts. Default: {GRADUAL_CUTS} gradual or {ITERATIVE_CUTS} iterative ones.",
    )
    until: float = Field(
        default=0.7, gt=0, le=1, description="The share of the training after which gradual cuts have ended."
    )
    spread: Literal["global", "uniform"] = Field(
        default="global", description="Whether layers compete for weights, or each keeps the same share."
    )
    most: float = Field(
        default=0.99,
        gt=0,
        lt=1,
        description="The share of its weights that no layer loses more of, where they compete.",
    )
    rewind: str = Field(
        default="",
        description="With iterative cuts: `module:function`, called with the original model, returns it with the "
        "weights of early training, which are put back after each cut.",
    )
    skip: tuple[str, ...] = Field(default=(), description="Layers that stay as they are; `*` stands for anything.")

    @model_validator(mode="after")
    def _goes_together(self) -> PruneUnstructuredParameters:
        if self.rewind and self.cuts != "iterative":
            raise ValueError('`rewind` goes with cuts = "iterative"')
        if self.pattern == FEATURE and self.cuts == "gradual" and "cuts" in self.model_fields_set:
            raise ValueError('pattern = "2:4" is one cut: leave `cuts` and `rounds` out')
        if self.pattern == FEATURE and self.rounds is not None:
            raise ValueError('pattern = "2:4" is one cut: leave `cuts` and `rounds` out')
        return self

    def learns_from(self, frames: int) -> int:
        """Return about how many samples are learnt from: iterative cuts are followed by a training each."""
        rounds = (self.rounds or ITERATIVE_CUTS) if self.cuts == "iterative" else 1
        return rounds * super().learns_from(frames)

    @property
    def references(self) -> tuple[str, ...]:
        """The user's functions that are called."""
        return (*super().references, *((self.rewind,) if self.rewind else ()))


class PruneUnstructured(Technique):
    """Masks the smallest weights. Raises ``ModelError`` for a share that leaves a layer empty."""

    kind: ClassVar[str] = "prune-unstructured"
    title: ClassVar[str] = "holds the smallest weights at zero, for files that shrink and kernels that skip them"
    version: ClassVar[int] = 3
    tools: ClassVar[tuple[str, ...]] = ("torch", "lightning-fabric")
    Parameters: ClassVar = PruneUnstructuredParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"masks", "values"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "codebooks": "the weights share their values already, and pruning would change which do",
        "grids": "the weights are on a grid already, which was fitted to those that would go",
        "heads": HEADS,
    }

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        return Requirements(
            train=True,
            features=(FEATURE,) if parameters.pattern == FEATURE else (),
            modules=("lightning-fabric",),
            references=parameters.references,
        )

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        from edgebuild.techniques.pruning.masking import prune_two_of_four, sparsity_of

        p: PruneUnstructuredParameters = self.parameters
        weights = _mask(work, p)
        before = sparsity_of(work.module, weights)
        if p.pattern == FEATURE:
            _train_rounds(work, p, [lambda: prune_two_of_four(work.module, weights)])
        elif p.cuts == "iterative":
            rounds = p.rounds or ITERATIVE_CUTS
            shares = [
                1 - (1 - before) * ((1 - p.sparsity) / (1 - before)) ** (r / rounds) for r in range(1, rounds + 1)
            ]
            _train_rounds(work, p, [_cut(work, p, weights, share) for share in shares])
        else:
            _train_gradually(work, p, weights, before)
        for weight in weights:
            mask = weight.mask(work.module)
            if mask is not None:
                work.say(weight.layer, f"{mask.mask.numel()} weights", int(mask.mask.sum()))
        return f"{100 * sparsity_of(work.module, weights):.1f} % of the weights of {len(weights)} layers are zero"


def _mask(work: Workspace, p: PruneUnstructuredParameters) -> list[WeightOf]:
    """Give every layer that can have one a mask; the others are reported with the reason."""
    from edgebuild.techniques.pruning.masking import prunable

    found, left = prunable(work.module)
    masked: list[WeightOf] = []
    for weight in found:
        if is_skipped(weight.layer, p.skip):
            continue
        if p.pattern == FEATURE and weight.values(work.module).shape[1] % 4:
            left[weight.layer] = f"its {weight.values(work.module).shape[1]} inputs are no multiple of 4"
            continue
        try:
            if weight.mask(work.module) is None:
                work.apply(Mask(module=weight.layer, parameter=weight.parameter))
            masked.append(weight)
        except ModelError as error:
            left[weight.layer] = error.message
    for layer, reason in left.items():
        work.say(layer, "all", "all", reason)
    if not masked:
        why = "; ".join(f"{layer}: {reason}" for layer, reason in list(left.items())[:3])
        raise ModelError(
            f"prune-unstructured finds no layer to prune ({why or 'no convolution and no dense layer is left'}).",
            hint="Skip fewer layers, or leave the technique out.",
        )
    return masked


def _cut(work: Workspace, p: PruneUnstructuredParameters, weights: list[WeightOf], share: float) -> Callable[[], None]:
    from edgebuild.techniques.pruning.masking import prune_to

    return lambda: prune_to(work.module, weights, share, uniform=p.spread == "uniform", most=p.most)


def _train_rounds(work: Workspace, p: PruneUnstructuredParameters, cuts: Sequence[Callable[[], None]]) -> None:
    """Cut, go back to the early weights where there are any, train; as often as there are cuts."""
    loader = any_loader(work, p)
    loss = relearning_loss(work)
    early = work.code.made(p.rewind, work.teacher()).state_dict() if p.rewind else None
    for number, cut in enumerate(cuts, start=1):
        cut()
        if early is not None:
            put_back(work.module, early)
        title = f"Training after cut {number} of {len(cuts)}"
        report = learn(work, work.module, p.plan(), loader, loss, name=f"cut-{number}", title=title)
        went = f"from {report.losses[0]:.4g} to {report.losses[-1]:.4g}"
        work.notes.append(f"After cut {number} the loss went {went} in {report.steps} steps.")


def _train_gradually(work: Workspace, p: PruneUnstructuredParameters, weights: list[WeightOf], before: float) -> None:
    from edgebuild.techniques.pruning.masking import prune_to

    rounds, reached = p.rounds or GRADUAL_CUTS, -1

    def grow(module: nn.Module, done: float) -> None:
        nonlocal reached
        turn = min(rounds, int(rounds * done / p.until))
        # What was cut stays cut, so that doing a turn again (after a kill) changes nothing.
        if turn > reached:
            share = cubic(before, p.sparsity, turn / rounds)
            prune_to(module, weights, share, uniform=p.spread == "uniform", most=p.most)
            reached = turn

    # What can't be is refused before anything is trained; the masks are as they were afterwards.
    masks = [(m, m.mask.clone()) for weight in weights if (m := weight.mask(work.module)) is not None]
    _cut(work, p, weights, p.sparsity)()
    for mask, kept in masks:
        mask.mask.copy_(kept)
    loader = any_loader(work, p)
    report = learn(
        work,
        work.module,
        p.plan(),
        loader,
        relearning_loss(work),
        name="gradual",
        title="Training while weights go",
        after_step=(grow,),
    )
    went = f"from {report.losses[0]:.4g} to {report.losses[-1]:.4g}"
    work.notes.append(f"In {report.steps} steps with up to {rounds} cuts the loss went {went}.")


def cubic(start: float, end: float, done: float) -> float:
    """Return the share of zeros when ``done`` (0 to 1) of the cutting is over.

    Source: Zhu and Gupta 2017, "To prune, or not to prune", equation 1.
    """
    return end + (start - end) * (1 - min(max(done, 0.0), 1.0)) ** 3


def put_back(module: nn.Module, early: Mapping[str, Any]) -> None:
    """Give a module the weights and statistics of an earlier state; its masks stay as they are."""
    import torch

    with torch.no_grad():
        for name, value in module.state_dict(keep_vars=True).items():
            plain = name.replace("parametrizations.", "").removesuffix(".original")
            if name.endswith(".mask") and name not in early:
                continue
            if plain not in early or early[plain].shape != value.shape:
                raise ModelError(
                    f"`rewind` gives no weights for {plain!r} of shape {list(value.shape)}.",
                    hint="It must return the original model's own structure: prune before anything changes that.",
                )
            value.copy_(early[plain])
