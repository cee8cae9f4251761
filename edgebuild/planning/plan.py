"""From what was found to what will be tried: pure, deterministic, and shown before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.artifact import Fp16Meaning, Precision
from edgebuild.core.candidate import CandidateSpec, Settings
from edgebuild.core.objective import OBJECTIVES, ObjectiveName
from edgebuild.core.record import Refusal
from edgebuild.core.values import Value, digest_json
from edgebuild.errors import EnvironmentGap
from edgebuild.planning.recipes import (
    Recipe,
    RecipeStep,
    check_named,
    precision_refusal,
    profile_refusal,
    recipe_refusal,
)

if TYPE_CHECKING:
    from edgebuild.catalogue.resolve import ResolvedProfile
    from edgebuild.planning.inputs import PlanInputs


class PlannedCandidate(CandidateSpec):
    """A candidate that a build will make, with the settings to race.

    ``raced`` is false where a precision only saves space on this profile: it is then judged on size and memory.
    """

    settings: tuple[Settings, ...]
    raced: bool
    baseline: bool = False

    @property
    def spec(self) -> CandidateSpec:
        """What is built, without what this build does with it."""
        return CandidateSpec(**{name: getattr(self, name) for name in CandidateSpec.model_fields})


class StageCost(Value):
    """About how long one stage will take."""

    stage: str
    seconds: float


class Plan(Value):
    """What one build for one target will try.

    ``channel_multiples`` holds what each profile with candidates of a recipe wants widths to be multiples of.
    """

    target: str
    objective: ObjectiveName
    budget: str
    candidates: tuple[PlannedCandidate, ...]
    refused: tuple[Refusal, ...]
    costs: tuple[StageCost, ...]
    recipes: tuple[Recipe, ...] = ()
    channel_multiples: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """About how long the build will take when nothing is cached."""
        return sum(cost.seconds for cost in self.costs)


def make_plan(inputs: PlanInputs) -> Plan:
    """Return the plan: every allowed precision of every profile, of the original and of what each recipe makes of it.

    What is refused is left out with the reason, and the rest cut to the time asked for. The original's fp32 artifact on
    the first usable profile, with its default settings, is the baseline for the others. Guarantees: equal inputs
    give equal plans; a target's name changes nothing but the plan's own ``target``.
    Raises ``EnvironmentGap`` with every reason when nothing is left to try, and, as ``UsageError`` does, when a recipe
    that was asked for by name can't be carried out.
    """
    refused = [Refusal(what=name, reason=reason) for name, reason in inputs.target.refused]
    candidates: list[PlannedCandidate] = []
    usable: list[ResolvedProfile] = []
    for profile in inputs.target.profiles:
        reason = _profile_refusal(profile, inputs)
        if reason is not None:
            refused.append(Refusal(what=profile.name, reason=reason))
            continue
        usable.append(profile)
        for precision in profile.precisions:
            reason = _precision_refusal(profile, precision, inputs)
            if reason is None:
                first = precision.kind == "fp32" and not any(c.baseline for c in candidates)
                candidates.append(_candidate(profile, precision, inputs, baseline=first))
            else:
                refused.append(Refusal(what=_spec(profile, precision).id, reason=reason))
    if not candidates:
        raise EnvironmentGap(
            f"Nothing can be built for {inputs.target.name}: "
            f"{'; '.join(f'{refusal.what}: {refusal.reason}' for refusal in refused)}.",
            hint="`edgebuild doctor` says what this machine has and how to install the rest.",
        )
    compressed, without = _recipes(usable, inputs)
    candidates, dropped = _fit_time([*candidates, *compressed], inputs)
    refused.extend([*without, *dropped])
    left = {candidate.recipe for candidate in candidates}
    costs = _costs(candidates, inputs)
    return Plan(
        target=inputs.target.name,
        objective=inputs.objective,
        budget=inputs.budget,
        candidates=tuple(candidates),
        refused=tuple(refused),
        costs=costs,
        recipes=tuple(recipe for recipe in inputs.recipes if recipe.name in left),
        channel_multiples=tuple((p.name, p.channel_multiple) for p in usable) if compressed else (),
        notes=(*inputs.notes, *_over_time(costs, inputs)),
    )


def _recipes(profiles: list[ResolvedProfile], inputs: PlanInputs) -> tuple[list[PlannedCandidate], list[Refusal]]:
    """Return the candidates of every recipe that can be carried out, and why the others can't."""
    candidates: list[PlannedCandidate] = []
    refused: list[Refusal] = []
    if inputs.recipes_named:
        check_named(inputs.recipes, inputs.ground, inputs.missing)
    for recipe in inputs.recipes:
        reason = recipe_refusal(recipe, inputs.ground, inputs.missing)
        if reason is not None:
            refused.append(Refusal(what=f"recipe {recipe.name}", reason=reason))
            continue
        for profile in profiles:
            reason = profile_refusal(recipe, profile)
            if reason is not None:
                refused.append(Refusal(what=f"recipe {recipe.name} on {profile.name}", reason=reason))
                continue
            for precision in profile.precisions:
                reason = precision_refusal(recipe, precision)
                if reason is not None:
                    what = f"recipe {recipe.name} on {profile.name}/{precision.label}"
                    refused.append(Refusal(what=what, reason=reason))
                elif _precision_refusal(profile, precision, inputs) is None:
                    candidates.append(_candidate(profile, precision, inputs, baseline=False, recipe=recipe))
    return candidates, refused


def _profile_refusal(profile: ResolvedProfile, inputs: PlanInputs) -> str | None:
    if profile.backend in inputs.missing:
        return f"{profile.backend} is not installed ({inputs.missing[profile.backend]})"
    return inputs.backend_refusals.get(profile.backend)


def _precision_refusal(profile: ResolvedProfile, precision: Precision, inputs: PlanInputs) -> str | None:
    if precision.kind == "int8":
        if not inputs.quantisable_ops:
            return "the model has no convolution or matrix product that could run in int8"
        if precision.quantiser in inputs.missing:
            return f"{precision.quantiser} is not installed ({inputs.missing[precision.quantiser]})"
    return inputs.precision_refusals.get(_spec(profile, precision).id)


def _spec(profile: ResolvedProfile, precision: Precision) -> CandidateSpec:
    return CandidateSpec(profile=profile.name, backend=profile.backend, precision=precision)


def _candidate(
    profile: ResolvedProfile,
    precision: Precision,
    inputs: PlanInputs,
    *,
    baseline: bool,
    recipe: Recipe | None = None,
) -> PlannedCandidate:
    objective = OBJECTIVES[inputs.objective]
    raced = precision.fp16 is not Fp16Meaning.STORAGE or not objective.timed
    settings = profile.settings if raced and not objective.in_files else profile.settings[:1]
    return PlannedCandidate(
        profile=profile.name,
        backend=profile.backend,
        precision=precision,
        settings=settings,
        raced=raced,
        baseline=baseline,
        accelerator=profile.accelerator,
        recipe=recipe.name if recipe else "",
        features=recipe.features if recipe else (),
    )


def _fit_time(candidates: list[PlannedCandidate], inputs: PlanInputs) -> tuple[list[PlannedCandidate], list[Refusal]]:
    """Drop work until the estimate fits the time: other quantisers first, then settings, then recipes, last first.

    Recipes that were asked for by name stay.
    """
    refused: list[Refusal] = []
    if inputs.time_s is None:
        return candidates, refused
    reason = f"left out to stay inside {inputs.time_s:.0f} s"
    for candidate in [c for c in candidates if c.precision.quantiser not in {None, "edgebuild"}][::-1]:
        if sum(cost.seconds for cost in _costs(candidates, inputs)) <= inputs.time_s:
            return candidates, refused
        candidates = [c for c in candidates if c.id != candidate.id]
        refused.append(Refusal(what=candidate.id, reason=reason))
    raced = any(len(candidate.settings) > 1 for candidate in candidates)
    if raced and sum(cost.seconds for cost in _costs(candidates, inputs)) > inputs.time_s:
        candidates = [c.model_copy(update={"settings": c.settings[:1]}) for c in candidates]
        refused.append(Refusal(what="all runtime settings but the first", reason=reason))
    spare = [] if inputs.recipes_named else list(dict.fromkeys(c.recipe for c in candidates if c.recipe))
    for recipe in spare[::-1]:
        if sum(cost.seconds for cost in _costs(candidates, inputs)) <= inputs.time_s:
            break
        candidates = [c for c in candidates if c.recipe != recipe]
        refused.append(Refusal(what=f"recipe {recipe}", reason=reason))
    return candidates, refused


def _over_time(costs: tuple[StageCost, ...], inputs: PlanInputs) -> tuple[str, ...]:
    """Say so where what can't be left out takes longer than the time asked for."""
    seconds = sum(cost.seconds for cost in costs)
    if inputs.time_s is None or seconds <= inputs.time_s:
        return ()
    return (f"about {seconds:.0f} s is the least for what is left, more than the {inputs.time_s:.0f} s asked for",)


def _costs(candidates: list[PlannedCandidate], inputs: PlanInputs) -> tuple[StageCost, ...]:
    """Estimate each stage; ``inputs`` carries the unit costs, so that this stays pure."""
    unit = inputs.costs
    arms = sum(len(c.settings) for c in candidates if c.raced)
    finalists = min(len({c.profile for c in candidates}) + 1, inputs.max_finalists)
    evaluations = len(candidates)
    quantised = sum(1 for c in candidates if c.precision.kind == "int8")
    compress_s = _compress_s(candidates, inputs)
    stages = (
        StageCost(stage="data, export and reference", seconds=unit.prepare_s),
        StageCost(stage="compress", seconds=compress_s),
        StageCost(stage="quantise and compile", seconds=quantised * unit.quantise_s + evaluations * unit.compile_s),
        StageCost(stage="evaluate on validation", seconds=evaluations * unit.evaluate_s),
        StageCost(stage="cross-check int8", seconds=quantised * unit.crosscheck_s),
        # Clear losers leave after their first screening launch; about half of the arms do.
        StageCost(stage="screen", seconds=arms * unit.screen_launch_s * 2),
        StageCost(
            stage="certify",
            seconds=(finalists + 1) * unit.certify_sessions * unit.certify_launches * unit.certify_launch_s,
        ),
        StageCost(stage="evaluate on test", seconds=finalists * unit.evaluate_test_s),
    )
    return tuple(stage for stage in stages if stage.stage != "compress" or compress_s)


def _compress_s(candidates: list[PlannedCandidate], inputs: PlanInputs) -> float:
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


def plan_digest(plan: Plan) -> str:
    """Return the digest of all that a plan decides; the target's name is not part of it."""
    return digest_json(plan.model_dump(mode="json", exclude={"target"}))
