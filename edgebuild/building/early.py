"""What can be known of the data before anything is built: too few for a verdict, or the same in two splits."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgebuild.building.compress import planned_recipes
from edgebuild.building.data import describe_first, materialise, sample_specs
from edgebuild.building.seal import openings_of
from edgebuild.catalogue.samples import Split, open_split
from edgebuild.core.steps import never_stop
from edgebuild.errors import ConfigError, DataError, EdgebuildError
from edgebuild.judging.enough import too_few
from edgebuild.judging.intervals import level_for_opening

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from edgebuild.building.context import BuildContext
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.catalogue.project import Project
    from edgebuild.catalogue.project_tables import MetricTable
    from edgebuild.core.budget import Budget
    from edgebuild.core.data import Sample
    from edgebuild.judging.metrics import Metric
    from edgebuild.models.described import Described

#: A plan looks at this many samples of each split, from its start; a build does so where it needn't read the split.
PEEK_SAMPLES = 2_000
#: It counts the others for so long.
COUNT_S = 5.0
#: In a time box a build looks for no longer than this share of it.
LOOK_SHARE = 0.02
#: A sample, and its arrays as a data set keeps them.
Read: TypeAlias = "tuple[Sample, dict[str, NDArray[Any]]]"
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
            found["train"] = (
                described(context, "train")
                if trains
                else describe_first(context, "train", PEEK_SAMPLES, lambda: _peek_train(context))
            )
        except (ConfigError, DataError) as error:
            if trains:
                raise
            # Nothing of this build needs them: only whether they share samples with others stays unknown.
            context.say("data", f"the train data can't be read: {error.message}")
    for note in warnings(project, context.budget, found, test_level=level):
        context.say("data", note)


@dataclass(kw_only=True)
class Peeked:
    """What a look at the data found: what is in the first samples of each split, and why a split can't be read.

    ``frames`` counts those of a split where that took no longer than ``COUNT_S``, ``first`` is the first validation
    sample's arrays, frames on axis 0, and ``target`` its target, as metrics get it; None without one.
    """

    described: dict[Split, Described] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    frames: dict[str, int] = field(default_factory=dict)
    first: dict[str, NDArray[Any]] | None = None
    target: NDArray[Any] | None = None


def peek(project: Project) -> Peeked:
    """Look at the first samples of every split, and count the others."""
    found = Peeked()
    for split in (*LEARNT, *JUDGED):
        if getattr(project.data, split) is not None:
            try:
                _look(project, split, found)
            except (ConfigError, DataError) as error:
                found.unread.append(f"the {split} data can't be read: {error.message} {error.hint}".rstrip())
    return found


def _look(project: Project, split: Split, found: Peeked) -> None:
    samples = iter(_samples(project, split))
    first = next(samples, None)
    if first is not None and split == "validation":
        found.first = {name: array[:1] for name, array in first[1].items() if name != "target"}
        found.target = _first_target(*first)
    described = _described(chain(() if first is None else (first,), samples))
    found.described[split] = described
    if described.whole:
        found.frames[split] = described.frames
        return
    until, frames = time.monotonic() + COUNT_S, described.frames + 1
    for _, arrays in samples:
        frames += len(next(iter(arrays.values())))
        if time.monotonic() > until:
            return
    found.frames[split] = frames


def _first_target(sample: Sample, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """Return the target of a sample's first frame as metrics get it; None without one."""
    from edgebuild.models.checked_samples import is_structure
    from edgebuild.models.dataset import structures

    target = arrays.get("target")
    if target is None:
        return None
    return structures(target[:1]) if is_structure(sample.target) else target[:1]


def _peek_train(context: BuildContext) -> Described:
    box = context.box
    until_s = math.inf if box is None else box.clock() + LOOK_SHARE * box.asked_s
    late = False

    def in_time() -> Iterator[Read]:
        nonlocal late
        for each in _samples(context.project, "train"):
            yield each
            if box is not None and box.clock() > until_s:
                late = True
                return

    found = _described(in_time())
    if late:
        context.say(
            "data",
            f"whether others are among the train samples is known of the first {found.samples:,} alone, to stay inside "
            f"the time asked for",
        )
    return replace(found, whole=found.whole and not late)


def _described(samples: Iterable[Read]) -> Described:
    from edgebuild.models.described import describe, labelled

    return describe(labelled(samples), limit=PEEK_SAMPLES)


def _samples(project: Project, split: Split) -> Iterator[Read]:
    from edgebuild.models.checked_samples import checked_samples
    from edgebuild.models.steps import call_for_samples

    source, call = getattr(project.data, split), open_split(project, split)
    found = call_for_samples(call, source) if call is not None else ()
    return checked_samples(found, sample_specs(project), project.stateful, source, never_stop)


def warnings(
    project: Project, budget: Budget, found: Mapping[Split, Described], *, test_level: float
) -> tuple[str, ...]:
    """Return what is amiss with the splits, in sentences."""
    return tuple(chain(_few(project, budget, found, test_level), _shared(found)))


def _few(project: Project, budget: Budget, found: Mapping[Split, Described], test_level: float) -> Iterator[str]:
    metric = _metric(project.metric, budget)
    for split in JUDGED:
        data = found.get(split)
        if data is None or not data.whole:
            continue
        why = too_few(
            frames=data.frames,
            units=data.units,
            grouped=data.grouped,
            budget=budget,
            metric=metric,
            one_label=data.one_label,
            level=level_for_opening(1) if split == "validation" else test_level,
        )
        if why is not None:
            yield f"too few {split} data: {why}"


def unfit(project: Project, budget: Budget, found: Peeked, outputs: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """Say why the metric can't be computed of the model's outputs for the first validation sample.

    A callable of the project's isn't asked: one sample may be too few for it.
    """
    metric = _metric(project.metric, budget)
    if metric is None or project.metric is None or project.metric.uses_code or not outputs:
        return
    if found.target is None:
        yield f"{metric.name} needs targets, and the first validation sample has none"
        return
    try:
        metric.prepared(outputs, found.target)
    except DataError as error:
        yield f"the first validation sample: {error.message}"


def _metric(table: MetricTable | None, budget: Budget) -> Metric | None:
    """Return what is judged by, as far as it is known without what it needs; its code isn't called."""
    from edgebuild.judging.metrics import named_metric
    from edgebuild.judging.own_metrics import custom

    if table is None or budget.agreement is not None:
        return None
    if table.name is not None:
        try:
            return named_metric(table.name, output=table.output)
        except EdgebuildError:
            return None  # what is missing or unknown is said where it is needed
    if table.direction is None:
        return None
    scale = None if table.scale is None else (table.scale[0], table.scale[1])
    return custom(lambda *_: math.nan, name=table.callable or "", direction=table.direction, scale=scale)


def _shared(found: Mapping[Split, Described]) -> Iterator[str]:
    pairs = [(learnt, judged) for learnt in LEARNT for judged in JUDGED] + [("validation", "test")]
    for one, other in pairs:
        if one not in found or other not in found:
            continue
        left, right = found[one], found[other]
        looked = [each.samples for each in (left, right) if not each.whole]
        first = f", looking at the first {min(looked):,} samples" if looked else ""
        same = len(left.inputs & right.inputs)
        if same:
            yield f"{same:,} of {len(right.inputs):,} {other} inputs are {one} inputs too{first}: {MEANS}"
        groups = left.groups & right.groups
        if groups:
            yield (
                f"{len(groups):,} of {len(right.groups):,} {other} groups are {one} groups too, such as "
                f"{min(groups)!r}{first}: {MEANS}"
            )


def tell_reference(context: BuildContext, prepared: ModelInputs) -> None:
    """Tell where the original makes no mistake on validation, the usual sign of a model that was trained on it, or gets
    nothing right, the usual sign of labels or outputs in another order.

    Raises ``DataError`` where the metric can't be computed of what the original gives.
    """
    from edgebuild.building.judge import JudgeOutputs
    from edgebuild.judging.arrays import first_not_finite
    from edgebuild.models.dataset import Dataset
    from edgebuild.models.outputs import read_outputs

    step = JudgeOutputs(metric=context.project.metric, budget=context.budget, split="validation", level=0.95)
    metric = None if context.budget.agreement is not None else step.build_metric(context.load)
    data = Dataset.open(prepared.validation.path)
    if metric is None or data.target is None:
        return
    outputs = read_outputs(prepared.reference.path)
    if first_not_finite(outputs) is not None:
        return  # judging says so
    value = metric.value(outputs, data.target)
    if metric.scale is None:
        return
    worst, best = metric.scale if metric.direction == "maximise" else metric.scale[::-1]
    name = context.project.metric.name or "the metric" if context.project.metric else ""
    on = f"on validation ({name} {value:.4f}, n = {data.frames:,})"
    if value == best:
        context.say("data", f"the original makes no mistake {on}: if it was trained on them, {MEANS}")
    elif value == worst:
        context.say("data", f"the original gets nothing right {on}: are labels and outputs in the same order?")
