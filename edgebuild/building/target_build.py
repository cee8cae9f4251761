"""Everything that one target's build does between its plan and the sealed test set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.candidates import make_candidates
from edgebuild.building.compress import compress_models
from edgebuild.building.ways import way_of
from edgebuild.execution.turns import side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    validation: JudgedSplit
    built: tuple[Built, ...]
    race: MeasurementResults


def build_targets(
    planned: Sequence[tuple[Plan, BuildContext]], prepared: ModelInputs, stopping: Stopping
) -> tuple[TargetBuild, ...]:
    """Build every target up to the sealed test set; those on different devices side by side. In the order given."""
    by_device: dict[int, list[int]] = {}
    for number, (_, context) in enumerate(planned):
        by_device.setdefault(id(context.client), []).append(number)

    def build(numbers: Sequence[int]) -> list[tuple[int, TargetBuild]]:
        return [(number, build_target(planned[number][0], prepared, planned[number][1])) for number in numbers]

    turn = planned[0][1].turn
    done = side_by_side([partial(build, numbers) for numbers in by_device.values()], turn, stopping)
    return tuple(target for _, target in sorted((pair for pairs in done for pair in pairs), key=lambda pair: pair[0]))


def build_target(plan: Plan, prepared: ModelInputs, context: BuildContext) -> TargetBuild:
    """Compress, make the candidates, and measure them. The test set stays sealed."""
    models = compress_models(plan, prepared, context)
    way = way_of(context.can)
    validation = way.split("validation", prepared.validation, prepared.reference, prepared, context)
    built = make_candidates(plan, models, prepared, validation, context)
    race = way.measure(built, prepared, validation, context)
    return TargetBuild(context=context, plan=plan, validation=validation, built=built, race=race)
