"""What can be known of the data before anything is built: too few for a verdict, or the same in two splits."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Literal

from edgebuild.building.compress import planned_recipes
from edgebuild.building.data import materialise, sample_specs
from edgebuild.building.seal import openings_of
from edgebuild.catalogue.samples import Split, open_split
from edgebuild.core.steps import never_stop
from edgebuild.errors import ConfigError, DataError
from edgebuild.judging.enough import too_few
from edgebuild.judging.intervals import level_for_opening

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Evaluation
    from edgebuild.catalogue.project import Project
    from edgebuild.core.budget import Budget
    from edgebuild.models.described import Described

#: A plan looks at this many samples of each split, from its start; a build does so where it needn't read the split.
PEEK_SAMPLES = 2_000
#: What the model learnt from, and what it is judged on.
LEARNT: tuple[Split, ...] = ("train", "calibration")
JUDGED: tuple[Literal["validation", "test"], ...] = ("validation", "test")
#: What follows where samples aren't new to the model.
MEANS = "what is measured on them says little about new data"


def described(context: BuildContext, split: Split) -> Described:
    """Return what is in a split of the user's data, which is read for it."""
    from edgebuild.models.described import DescribeData, read_described

    data, name = materialise(context, split), f"describe the {split} data"
    if name not in context.data:
        context.data[name] = context.run(DescribeData(), {"data": data}, label=name)
    return read_described(context.data[name].path)


def tell(context: BuildContext, *, opens_test_set: bool) -> None:
    """Read what the build will need of the data, and tell what is amiss with them. Nothing is scored on any.

    Raises ``DataError`` for data that can't be used, ``StoreError`` where the seal was tampered with.
    """
    project, options = context.project, context.options
    found: dict[Split, Described] = {split: described(context, split) for split in ("calibration", "validation")}
    level = level_for_opening(1)
    if opens_test_set:
        test = materialise(context, "test")
        found["test"] = described(context, "test")
        openings = openings_of(
            context.home / "seal.jsonl",
            project=project.name,
            test_digest=found["test"].identity,
            also=(test.entry.digest,),
        )
        level = level_for_opening(max(1, openings))
    recipes = planned_recipes(project, options, 0)
    if project.data.train is not None:
        trains = any(step.needs.train for recipe in recipes for step in recipe.steps)
        try:
            found["train"] = described(context, "train") if trains else _peek(project, "train")
        except (ConfigError, DataError) as error:
            if trains:
                raise
            # Nothing of this build needs them: only whether they share samples with others stays unknown.
            context.say("data", f"the train data can't be read: {error.message}")
    for note in warnings(project, context.budget, found, test_level=level):
        context.say("data", note)


def peek(project: Project) -> tuple[dict[Split, Described], tuple[str, ...]]:
    """Look at the first samples of every split; return what is there, and what can't be read."""
    found: dict[Split, Described] = {}
    notes = []
    for split in (*LEARNT, *JUDGED):
        if getattr(project.data, split) is not None:
            try:
                found[split] = _peek(project, split)
            except (ConfigError, DataError) as error:
                notes.append(f"the {split} data can't be read: {error.message}")
    return found, tuple(notes)


def _peek(project: Project, split: Split) -> Described:
    from edgebuild.models.dataset import checked_samples
    from edgebuild.models.described import describe
    from edgebuild.models.steps import call_for_samples

    source, call = getattr(project.data, split), open_split(project, split)
    samples = checked_samples(
        call_for_samples(call, source) if call is not None else (),
        sample_specs(project),
        project.stateful,
        source,
        never_stop,
    )
    return describe(((frames, s.group, s.slice) for s, frames in samples), limit=PEEK_SAMPLES)


def warnings(
    project: Project, budget: Budget, found: Mapping[Split, Described], *, test_level: float
) -> tuple[str, ...]:
    """Return what is amiss with the splits, in sentences."""
    return tuple(chain(_few(project, budget, found, test_level), _shared(found)))


def _few(project: Project, budget: Budget, found: Mapping[Split, Described], test_level: float) -> Iterator[str]:
    for split in JUDGED:
        data = found.get(split)
        if data is None or not data.whole:
            continue
        why = too_few(
            frames=data.frames,
            units=data.units,
            grouped=data.grouped,
            budget=budget,
            metric=project.metric.name if project.metric else None,
            one_label=data.one_label,
            level=level_for_opening(1) if split == "validation" else test_level,
        )
        if why is not None:
            yield f"too few {split} data: {why}"


def _shared(found: Mapping[Split, Described]) -> Iterator[str]:
    pairs = [(learnt, judged) for learnt in LEARNT for judged in JUDGED] + [("validation", "test")]
    for one, other in pairs:
        if one not in found or other not in found:
            continue
        left, right = found[one], found[other]
        first = "" if left.whole and right.whole else f", looking at the first {PEEK_SAMPLES:,} samples"
        same = len(left.inputs & right.inputs)
        if same:
            yield f"{same:,} of {len(right.inputs):,} {other} inputs are {one} inputs too{first}: {MEANS}"
        groups = left.groups & right.groups
        if groups:
            yield (
                f"{len(groups):,} of {len(right.groups):,} {other} groups are {one} groups too, such as "
                f"{min(groups)!r}{first}: {MEANS}"
            )


def tell_perfect(context: BuildContext, built: Iterable[Evaluation]) -> None:
    """Tell where the original makes no mistake on validation: the usual sign of a model that was trained on it."""
    from edgebuild.judging.metrics import named_metric

    table = context.project.metric
    if table is None or table.name is None or context.budget.agreement is not None:
        return
    metric = named_metric(table.name)
    best = None if metric.scale is None else metric.scale[metric.direction == "maximise"]
    drop = next((b.verdict.drop for b in built if b.verdict and b.verdict.drop), None)
    if best is not None and drop is not None and drop.reference == best:
        context.say(
            "data",
            f"the original makes no mistake on validation ({table.name} {drop.reference:.4f}, n = {drop.samples:,}): "
            f"if it was trained on them, {MEANS}",
        )
