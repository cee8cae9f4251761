"""Everything that one target's build does between its plan and the sealed test set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.compress import compress_models
from edgebuild.building.making import make_candidates
from edgebuild.building.ways import way_of
from edgebuild.execution.turns import side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.building.compress import Models
    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Built
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.results import MeasurementResults
    from edgebuild.building.splits import JudgedSplit
    from edgebuild.execution.turns import Stopping
    from edgebuild.planning.plan import Plan


@dataclass(frozen=True, kw_only=True)
class TargetBuild:
    """One target's build so far: what was planned, what became of it on validation, and what was measured."""

    context: BuildContext
    plan: Plan
    prepared: ModelInputs
    validation: JudgedSplit
    built: tuple[Built, ...]
    race: MeasurementResults


def build_targets(
    planned: Sequence[tuple[Plan, BuildContext]], prepared: ModelInputs, stopping: Stopping
) -> tuple[TargetBuild, ...]:
    """Build every target up to the sealed test set, in the order given; those on devices of their own side by side.

    Training comes first and alone: it may fork, which threads don't survive. So does what runs on this machine's own
    cores, which must be quiet while it is measured.
    """
    models = [compress_models(plan, prepared, context) for plan, context in planned]
    groups: dict[int, list[int]] = {}
    for number, (_, context) in enumerate(planned):
        groups.setdefault(id(context.client), []).append(number)

    def build(numbers: Sequence[int]) -> list[tuple[int, TargetBuild]]:
        return [(number, build_target(*planned[number], models[number], prepared)) for number in numbers]

    here = [numbers for numbers in groups.values() if planned[numbers[0]][1].client.device.on_host]
    elsewhere = [partial(build, numbers) for numbers in groups.values() if numbers not in here]
    done = [build(numbers) for numbers in here]
    done += side_by_side(elsewhere, planned[0][1].turn, stopping)
    return tuple(target for _, target in sorted((pair for pairs in done for pair in pairs), key=lambda pair: pair[0]))


def build_target(plan: Plan, context: BuildContext, models: Models, prepared: ModelInputs) -> TargetBuild:
    """Make the candidates of one target, and measure them. The test set stays sealed."""
    way = way_of(context.can)
    validation = way.split("validation", prepared.validation, prepared.reference, prepared, context)
    made = make_candidates(plan, models, prepared, validation, context)
    race = way.measure(made.built, prepared, validation, replace(context, box=made.measuring))
    return TargetBuild(
        context=context, plan=made.plan, prepared=prepared, validation=validation, built=made.built, race=race
    )
