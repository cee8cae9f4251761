"""From what was found to what will be tried: pure, deterministic, and shown before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pydantic import Field

from edgebuild.core.candidate import CandidateSpec
from edgebuild.core.objective import OBJECTIVES, ObjectiveName
from edgebuild.core.record import Refusal
from edgebuild.core.values import Value, digest_json
from edgebuild.errors import EnvironmentGap
from edgebuild.planning.account import TimeAccount, fewer_samples, gains, left_out
from edgebuild.planning.candidates import PlannedCandidate as PlannedCandidate
from edgebuild.planning.costs import StageCost, after_s, compress_s, more_arms_s, stage_costs
from edgebuild.planning.inputs import UnitCosts
from edgebuild.planning.recipes import (
    Recipe,
    check_named,
    precision_refusal,
    profile_refusal,
    recipe_refusal,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.catalogue.resolve import ResolvedProfile
    from edgebuild.core.artifact import Precision
    from edgebuild.planning.inputs import PlanInputs

#: Dynamic int8 is planned for models with this many bytes in products, LSTMs and tables, and this share of them there:
#: small nets lose more by finding ranges than their products gain.
LEAST_DENSE_BYTES, LEAST_DENSE_SHARE = 2_000_000, 0.5


class Plan(Value):
    """What one build for one target will try.

    ``channel_multiples`` holds what each profile with candidates of a recipe wants widths to be multiples of. ``spare``
    are candidates that are left out to save time, and may be made after all where work takes less than ``unit`` says.
    ``gain`` is what each of them is expected to bring (see ``gains``), ``recipe_s`` what each recipe takes.
    """

    target: str
    objective: ObjectiveName
    budget: str
    candidates: tuple[PlannedCandidate, ...]
    refused: tuple[Refusal, ...]
    costs: tuple[StageCost, ...]
    unit: UnitCosts = UnitCosts()
    max_finalists: int = 4
    spare: tuple[PlannedCandidate, ...] = ()
    gain: dict[str, float] = Field(default_factory=dict)
    recipe_s: dict[str, float] = Field(default_factory=dict)
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
    candidates, usable, refused = _originals(inputs)
    if not candidates:
        raise EnvironmentGap(
            f"Nothing can be built for {inputs.target.name}: "
            f"{'; '.join(f'{refusal.what}: {refusal.reason}' for refusal in refused)}.",
            hint="`edgebuild doctor` says what this machine has and how to install the rest.",
        )
    compressed, without = _recipes(usable, inputs)
    every = [*candidates, *compressed]
    gain = gains(every)
    fitted = _fit_time(every, gain, inputs)
    refused.extend([*without, *fitted.refused])
    left = {candidate.recipe for candidate in fitted.candidates}
    costs = stage_costs(fitted.candidates, inputs, checks=fitted.checks)
    return Plan(
        target=inputs.target.name,
        objective=inputs.objective,
        budget=inputs.budget,
        candidates=tuple(fitted.candidates),
        refused=tuple(refused),
        costs=costs,
        unit=inputs.costs,
        max_finalists=inputs.max_finalists,
        spare=tuple(each for each in fitted.spare if each.recipe in left or not each.recipe),
        gain=gain,
        recipe_s=_recipe_s(fitted.candidates, inputs),
        recipes=tuple(recipe for recipe in inputs.recipes if recipe.name in left),
        channel_multiples=tuple((p.name, p.channel_multiple) for p in usable) if compressed else (),
        notes=(*inputs.notes, *_over_time(costs, inputs)),
    )


def _originals(inputs: PlanInputs) -> tuple[list[PlannedCandidate], list[ResolvedProfile], list[Refusal]]:
    """Return the candidates of the original, the profiles that can be used, and what is refused."""
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
    return candidates, usable, refused


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
    if precision.kind == "bf16" and OBJECTIVES[inputs.objective].in_files:
        return f"its files are those of fp32, and the objective is {inputs.objective}"
    if precision.kind == "int8-dynamic" and (reason := _not_dense(inputs)):
        return reason
    if precision.kind == "int8-storage" and not (inputs.quantisable_ops or inputs.dense_bytes):
        return "the model has no matrices that could be stored in int8"
    if precision.kind == "int8-storage" and OBJECTIVES[inputs.objective].timed and not inputs.size_limited:
        return f"it only saves space: for the objective {inputs.objective} it is made where [limits] has a file_size_mb"
    return inputs.precision_refusals.get(_spec(profile, precision).id)


def _not_dense(inputs: PlanInputs) -> str | None:
    """Return why ranges that are found at each call can't pay for a model, as far as its weights tell."""
    if "onnxruntime" in inputs.missing:
        return f"onnxruntime is not installed ({inputs.missing['onnxruntime']})"
    dense, whole = inputs.dense_bytes, inputs.weight_bytes
    if dense is None or whole is None or (dense >= LEAST_DENSE_BYTES and dense >= LEAST_DENSE_SHARE * whole):
        return None
    return (
        f"it pays for models of {LEAST_DENSE_BYTES / 1e6:.0f} MB or more that are mostly matrix products, LSTMs and "
        f"tables: these hold {dense / 1e6:.2f} of {whole / 1e6:.2f} MB of weights"
    )


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
    raced = not (precision.only_stored and objective.timed)
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


@dataclass(kw_only=True)
class _Fitted:
    """What fits the time: the candidates in their order, how many of them are cross-checked, and what is left out."""

    candidates: list[PlannedCandidate]
    checks: int
    spare: list[PlannedCandidate] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def _fit_time(candidates: list[PlannedCandidate], gain: Mapping[str, float], inputs: PlanInputs) -> _Fitted:
    """Leave out what doesn't fit the time: runtime settings first, then cross-checks, then candidates.

    Candidates are taken by what they bring per second (see ``TimeAccount``), one of each recipe that was asked for by
    name whatever it takes. The settings of what is expected to bring most are left out last.
    """
    if inputs.time_s is None:
        return _Fitted(candidates=candidates, checks=sum(each.precision.kind == "int8" for each in candidates))
    account = TimeAccount(
        box_s=inputs.time_s,
        left_s=inputs.time_s - inputs.costs.prepare_s,
        unit=inputs.costs,
        max_finalists=inputs.max_finalists,
        gain=gain,
        recipe_s=_recipe_s(candidates, inputs),
    )
    chosen, account, refused = _choose(candidates, account, named=inputs.recipes_named)
    room = account.left_s - after_s(chosen, inputs.costs, inputs.max_finalists)
    quantised = [each for each in chosen if each.precision.kind == "int8"]
    checks = min(len(quantised), int(max(room, 0.0) / inputs.costs.crosscheck_s)) if inputs.costs.crosscheck_s else 0
    if inputs.costs.crosscheck_s:
        reason = left_out(inputs.time_s, inputs.costs.crosscheck_s, room - checks * inputs.costs.crosscheck_s)
        refused += [Refusal(what=f"the cross-check of {each.id}", reason=reason) for each in quantised[checks:]]
    room -= checks * inputs.costs.crosscheck_s
    kept, raced = {}, sum(each.raced for each in chosen)
    arms = raced
    for each in sorted(chosen, key=lambda one: -gain[one.id]):
        further = len(each.settings) - 1 if each.raced else 0
        more = more_arms_s(raced, arms, further, inputs.costs)
        fits = more <= max(room, 0.0)
        kept[each.id] = each if fits else each.model_copy(update={"settings": each.settings[:1]})
        if not fits:
            what = f"all runtime settings of {each.id} but the first"
            refused.append(Refusal(what=what, reason=left_out(inputs.time_s, more, room)))
            continue
        room, arms = room - more, arms + further
    return _Fitted(
        candidates=[kept[each.id] for each in candidates if each.id in kept],
        checks=checks,
        spare=[each for each in candidates if each.id not in kept],
        refused=refused,
    )


def _choose(
    candidates: list[PlannedCandidate], account: TimeAccount, *, named: bool
) -> tuple[list[PlannedCandidate], TimeAccount, list[Refusal]]:
    """Return what fits, the most valuable first, the account after making that, and why the others don't."""
    if named:
        firsts = (next(c for c in candidates if c.recipe == name) for name in account.recipe_s)
        account = replace(account, must=frozenset(each.id for each in firsts))
    chosen: list[PlannedCandidate] = []
    hasty: list[Refusal] = []
    todo = {each.id: each for each in candidates}
    while (found := account.choose(tuple(todo.values()), chosen)) is not None:
        if found.samples is not None:
            hasty.append(Refusal(what=fewer_samples(found.id), reason=account.why_not(todo[found.id], chosen)))
        account = account.spend(account.making_s(found, chosen))
        chosen.append(found)
        del todo[found.id]
    kept = {each.recipe for each in chosen}
    whole = [
        Refusal(what=f"recipe {name}", reason=left_out(account.box_s, seconds, account.left_s))
        for name, seconds in account.recipe_s.items()
        if name not in kept
    ]
    left = [each for each in todo.values() if not each.recipe or each.recipe in kept]
    single = [Refusal(what=each.id, reason=account.why_not(each, chosen)) for each in left]
    return chosen, account, [*hasty, *single, *whole]


def _recipe_s(candidates: list[PlannedCandidate], inputs: PlanInputs) -> dict[str, float]:
    names = dict.fromkeys(each.recipe for each in candidates if each.recipe)
    return {name: compress_s([c for c in candidates if c.recipe == name], inputs) for name in names}


def _over_time(costs: tuple[StageCost, ...], inputs: PlanInputs) -> tuple[str, ...]:
    """Say so where what can't be left out takes longer than the time asked for."""
    seconds = sum(cost.seconds for cost in costs)
    if inputs.time_s is None or seconds <= inputs.time_s:
        return ()
    return (f"about {seconds:.0f} s is the least for what is left, more than the {inputs.time_s:.0f} s asked for",)


def plan_digest(plan: Plan) -> str:
    """Return the digest of all that a plan decides; the target's name is not part of it."""
    return digest_json(plan.model_dump(mode="json", exclude={"target"}))
