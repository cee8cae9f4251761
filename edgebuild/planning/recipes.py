"""Whether a recipe can be carried out, from what is known before anything runs. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue

from edgebuild.core.values import Value
from edgebuild.errors import EnvironmentGap, UsageError
from edgebuild.techniques.technique import Change, Requirements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgebuild.catalogue.resolve import ResolvedProfile
    from edgebuild.core.artifact import Precision


class RecipeStep(Value):
    """One step of a recipe: which technique with which parameters, and what planning asks of it.

    ``parameters`` are those that differ from the technique's defaults: with the technique's name they say all that is
    done, whatever edgebuild.toml says by now. ``times_layers`` says that it has layers timed on the target, where that
    can be done. ``learns`` is about how many samples it trains on, those of every epoch counted; for estimates only.
    """

    technique: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    learns: int = 0
    needs: Requirements = Requirements()
    changes: tuple[Change, ...] = ()
    not_after: tuple[tuple[Change, str], ...] = ()
    times_layers: bool = False

    @property
    def text(self) -> str:
        """The technique, and the parameters that aren't its defaults."""
        given = ", ".join(f"{name} = {json.dumps(value)}" for name, value in self.parameters.items())
        return f"{self.technique} ({given})" if given else self.technique


class Recipe(Value):
    """What is done to the model, step by step; it can be carried out as it stands."""

    name: str
    steps: tuple[RecipeStep, ...]

    @property
    def text(self) -> str:
        """Its steps in order."""
        return " → ".join(step.text for step in self.steps)

    @property
    def features(self) -> tuple[str, ...]:
        """What its steps need of a profile's kernels."""
        return tuple(sorted({feature for step in self.steps for feature in step.needs.features}))


class ModelTraits(Value):
    """What recipes stand on: whether the model carries state, and which data there are.

    ``unreadable`` is why the project's ONNX file can't be read as a torch module; empty for a torch model and for a
    file that can. ``one_by_one`` says that it ships for a batch of one sample.
    """

    unreadable: str = ""
    stateful: bool = False
    train: bool = False
    labels: bool = False
    one_by_one: bool = True


def recipe_refusal(recipe: Recipe, ground: ModelTraits, missing: Mapping[str, str]) -> str | None:
    """Return why a recipe can't be carried out at all, or None. ``missing`` maps a distribution to how to get it."""
    if ground.unreadable:
        return f"recipes change a torch model, and {ground.unreadable}; give the model as [model].factory"
    if ground.stateful:
        return "the model carries state between calls, which techniques can't feed yet"
    for step in recipe.steps:
        reason = _step_refusal(step, ground, missing)
        if reason is not None:
            return f"{step.technique} {reason}"
    return _order_refusal(recipe)


def check_named(recipes: Iterable[Recipe], ground: ModelTraits, missing: Mapping[str, str]) -> None:
    """Raise ``UsageError``, or ``EnvironmentGap`` for a missing package, where one can't be carried out.

    Whoever names a recipe wants that one, not a build of the original that says in passing that it was left out.
    """
    for recipe in recipes:
        reason = recipe_refusal(recipe, ground, missing)
        if reason is None:
            continue
        lacking = any(module in missing for step in recipe.steps for module in step.needs.modules)
        kind = EnvironmentGap if lacking else UsageError
        raise kind(
            f"Recipe {recipe.name} can't be carried out: {reason}.",
            hint="Each technique's needs are in docs/techniques.md; without --recipe the rest of the project is built.",
        )


def profile_refusal(recipe: Recipe, profile: ResolvedProfile) -> str | None:
    """Return why a recipe is of no use on a profile, or None."""
    for step in recipe.steps:
        lacking = sorted(set(step.needs.features) - set(profile.features))
        if lacking:
            return f"{step.technique} needs {', '.join(lacking)}, which {profile.name} doesn't have"
    return None


def precision_refusal(recipe: Recipe, precision: Precision) -> str | None:
    """Return why what a recipe makes can't be built in a precision, or None."""
    early = next((step.technique for step in recipe.steps if "heads" in step.changes), None)
    if early is None or precision.kind == "fp32":
        return None
    return f"{early} is built in fp32 only: its thresholds are chosen on the outputs of the fp32 model"


def _step_refusal(step: RecipeStep, ground: ModelTraits, missing: Mapping[str, str]) -> str | None:
    gone = [name for name in step.needs.modules if name in missing]
    if gone:
        return f"needs {gone[0]}, which is not installed ({missing[gone[0]]})"
    if step.needs.train and not ground.train:
        return "needs training data; name them as [data].train or [training].loader"
    if step.needs.labels and not ground.labels:
        return "needs labels, and the project's data have none"
    if "heads" in step.changes and not ground.one_by_one:
        return "answers one sample at a time; set batch = 1 under [freeze], and take it out of [build].keep_dynamic"
    return None


def _order_refusal(recipe: Recipe) -> str | None:
    """An earlier step's change may be one that a later step can't come after, and some steps begin again."""
    changed: dict[Change, str] = {}
    for number, step in enumerate(recipe.steps):
        for change, reason in step.not_after:
            if change in changed:
                return f"{step.technique} can't come after {changed[change]}: {reason}"
        if step.needs.untouched and number:
            return f"{step.technique} ({step.needs.untouched}) must be the first step: it throws away what others made"
        changed.update(dict.fromkeys(step.changes, step.technique))
    return None
