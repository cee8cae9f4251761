"""What a set of candidates costs, stage by stage, from what one piece of work costs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.values import Value, digest_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from edgebuild.planning.candidates import PlannedCandidate
    from edgebuild.planning.inputs import PlanInputs, UnitCosts
    from edgebuild.planning.recipes import RecipeStep

#: The reference, and one that may beat it.
LEAST_RACED = 2
#: Clear losers leave after their first screening launch; about this share of the arms do.
LEAVE_EARLY = 0.5


class StageCost(Value):
    """About how long one stage will take."""

    stage: str
    seconds: float


def making_s(planned: PlannedCandidate, made: Collection[PlannedCandidate], unit: UnitCosts) -> float:
    """Return what quantising, compiling, evaluating and judging one more candidate takes, in seconds.

    What has the precision of another one on the same model is quantised once for both.
    """
    what = (planned.recipe, planned.precision, planned.samples)
    quantised = planned.id in unit.ready or any((each.recipe, each.precision, each.samples) == what for each in made)
    return unit.compile_s + unit.evaluate_s + (0.0 if quantised else quantise_s(planned, unit))


def quantise_s(planned: PlannedCandidate, unit: UnitCosts) -> float:
    """Return what quantising takes, in seconds; of a quantiser that nothing is known of, what the dearest takes."""
    if planned.precision.kind != "int8":
        return 0.0
    name = planned.precision.quantiser or ""
    found = unit.quantise_s.get(name, max(unit.quantise_s.values(), default=0.0))
    return found if planned.samples is None else max(0.0, found - spared_s(name, planned.samples, unit))


def spared_s(quantiser: str, samples: int, unit: UnitCosts) -> float:
    """Return by how much calibrating with so few samples is quicker than with all, in seconds."""
    return unit.calibrate_s.get(quantiser, 0.0) * max(0, unit.samples - samples)


def certified_arms(candidates: Collection[PlannedCandidate], max_finalists: int, *, rivals: int = 0) -> int:
    """Return how many arms a certify session of these candidates has: the baseline's, and the best of each profile.

    ``rivals`` more are close to the best of all: one as a rule, none that time is kept free for.
    """
    raced = [each for each in candidates if each.raced]
    return min(len(raced), min(len({each.profile for each in raced}) + rivals, max_finalists) + 1)


def screened(raced: int, arms: int) -> bool:
    """Whether so many raced candidates with so many arms are screened: two with one each are certified anyway."""
    return arms > raced or raced > LEAST_RACED


def screening_s(raced: int, arms: int, unit: UnitCosts) -> float:
    """Return what screening so many candidates with so many arms takes, in seconds."""
    if not screened(raced, arms):
        return 0.0
    return unit.session_s + arms * unit.screen_launch_s * (1 + (unit.screen_launches - 1) * (1 - LEAVE_EARLY))


def more_arms_s(raced: int, arms: int, more: int, unit: UnitCosts) -> float:
    """Return by how much ``more`` further arms lengthen the screening of so many candidates, in seconds."""
    return screening_s(raced, arms + more, unit) - screening_s(raced, arms, unit)


def certifying_s(arms: int, unit: UnitCosts, launches: int) -> float:
    """Return what certifying that many arms with so many launches each takes, in seconds."""
    if not arms:
        return 0.0
    sessions_s = unit.session_s + arms * launches * unit.certify_launch_s
    return unit.certify_sessions * sessions_s + arms * unit.finalist_s


def least_s(raced: int, unit: UnitCosts) -> float:
    """Return the least that measuring so many takes: a round of screening, and certifying the best as it must be."""
    screening = unit.session_s + raced * unit.screen_launch_s if raced > LEAST_RACED else 0.0
    return screening + certifying_s(min(raced, LEAST_RACED), unit, unit.certify_least)


def raced_in(seconds: float, unit: UnitCosts) -> int:
    """Return how many can be measured in that time at the least; the reference and one more whatever it takes."""
    left_s = seconds - least_s(LEAST_RACED, unit) - unit.session_s
    return max(LEAST_RACED, int(left_s / unit.screen_launch_s) if unit.screen_launch_s else 0)


def testing_s(arms: int, unit: UnitCosts) -> float:
    """Return what opening the test set for that many artifacts takes, in seconds."""
    return unit.reference_test_s + arms * unit.evaluate_test_s if arms else 0.0


def after_s(
    candidates: Collection[PlannedCandidate], unit: UnitCosts, max_finalists: int, *, least: bool = False
) -> float:
    """Return what follows once these candidates are made, each with one setting, in seconds.

    Certifying gets to its first look, or with ``least`` no further than it must.
    """
    arms = certified_arms(candidates, max_finalists)
    launches = unit.certify_least if least else unit.certify_launches
    raced = sum(each.raced for each in candidates)
    measuring = screening_s(raced, raced, unit) + certifying_s(arms, unit, launches)
    return measuring + testing_s(arms, unit) + unit.report_s


def stage_costs(candidates: Sequence[PlannedCandidate], inputs: PlanInputs, *, checks: int) -> tuple[StageCost, ...]:
    """Estimate each stage. ``checks`` is how many int8 candidates are cross-checked.

    Where not all that may be certified fits a time box, certifying takes what is left of it, and at least what it must.
    """
    most = _stages(candidates, inputs, checks, certified_arms(candidates, inputs.max_finalists, rivals=1))
    if inputs.time_s is None or sum(most.values()) <= inputs.time_s:
        return _costs(most)
    arms = certified_arms(candidates, inputs.max_finalists)
    stages = _stages(candidates, inputs, checks, arms)
    left = inputs.time_s - sum(stages.values()) + stages["certify"]
    least = certifying_s(arms, inputs.costs, inputs.costs.certify_least)
    return _costs({**stages, "certify": max(least, left)})


def _stages(candidates: Sequence[PlannedCandidate], inputs: PlanInputs, checks: int, arms: int) -> dict[str, float]:
    """Return the seconds of each stage where so many arms are certified for as long as it may take."""
    unit = inputs.costs
    made: list[PlannedCandidate] = []
    making, raced = 0.0, [each for each in candidates if each.raced]
    for each in candidates:
        making += making_s(each, made, unit) - unit.evaluate_s
        made.append(each)
    return {
        "data, export and reference": unit.prepare_s,
        "compress": compress_s(candidates, inputs),
        "quantise and compile": making,
        "evaluate on validation": len(candidates) * unit.evaluate_s,
        "cross-check int8": checks * unit.crosscheck_s,
        "screen": screening_s(len(raced), sum(len(each.settings) for each in raced), unit),
        "certify": certifying_s(arms, unit, unit.certify_most),
        "evaluate on test": testing_s(arms, unit),
        "report": unit.report_s,
    }


def _costs(stages: Mapping[str, float]) -> tuple[StageCost, ...]:
    optional = {"compress", "cross-check int8"}
    return tuple(StageCost(stage=k, seconds=v) for k, v in stages.items() if v or k not in optional)


def compress_s(candidates: Collection[PlannedCandidate], inputs: PlanInputs) -> float:
    """Estimate all steps of recipes: each once for profiles of the same widths, and for recipes that begin alike.

    From the first step on that has layers timed, each profile has steps of its own.
    """
    widths = {profile.name: profile.channel_multiple for profile in inputs.target.profiles}
    recipes = {recipe.name: recipe for recipe in inputs.recipes}
    begun: dict[tuple[str, int | str], RecipeStep] = {}
    for name, profile in dict.fromkeys((c.recipe, c.profile) for c in candidates if c.recipe):
        steps = recipes[name].steps
        for count in range(1, len(steps) + 1):
            timed = any(step.times_layers for step in steps[:count])
            so_far = digest_json([step.to_json() for step in steps[:count]])
            begun[so_far, profile if timed else widths[profile]] = steps[count - 1]
    unit, seconds = inputs.costs, 0.0
    for step in begun.values():
        seconds += unit.compress_s + step.learns * unit.train_sample_s
        seconds += inputs.quantisable_ops * unit.time_layer_s * step.times_layers
    return seconds
