"""Everything that one target's build does between its plan and the sealed test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.building.candidates import make_candidates
from edgebuild.building.compress import compress_models
from edgebuild.building.race import run_race
from edgebuild.building.splits import judged_split

if TYPE_CHECKING:
    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Built
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.results import MeasurementResults
    from edgebuild.building.splits import JudgedSplit
    from edgebuild.planning.plan import Plan


@dataclass(frozen=True, kw_only=True)
class TargetBuild:
    """One target's build so far: what was planned, what became of it on validation, and what was measured."""

    context: BuildContext
    plan: Plan
    validation: JudgedSplit
    built: tuple[Built, ...]
    race: MeasurementResults


def build_target(plan: Plan, prepared: ModelInputs, context: BuildContext) -> TargetBuild:
    """Compress, make the candidates, and measure them. The test set stays sealed."""
    models = compress_models(plan, prepared, context)
    validation = judged_split("validation", prepared.validation, prepared.reference, prepared, context)
    built = make_candidates(plan, models, prepared, validation, context)
    race = run_race(built, prepared, validation, context)
    return TargetBuild(context=context, plan=plan, validation=validation, built=built, race=race)
