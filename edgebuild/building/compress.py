"""Carries recipes out: the torch model through each technique, then exported, compared with torch, and frozen."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from edgebuild.building.data import materialise, model_digest
from edgebuild.building.exits import cut_exits
from edgebuild.building.layer_times import time_layers, timing_candidate
from edgebuild.building.prepare import freeze_model, model_specs, weights_of
from edgebuild.catalogue.recipes import chosen_recipes, typed_parameters
from edgebuild.catalogue.references import reference_problem
from edgebuild.core.artifact import Int8Scheme
from edgebuild.core.record import notes_on
from edgebuild.errors import ConfigError, ModelError, OutOfTime
from edgebuild.execution.faults import Failure
from edgebuild.models.compressed_model import SOURCE_FILE, CodeNames, read_model
from edgebuild.models.compressed_steps import ExportCompressed, SaveOnnx, SaveOriginal
from edgebuild.models.exits import heads_of, with_exits
from edgebuild.planning.costs import after_s, making_s
from edgebuild.planning.recipes import Recipe, RecipeStep
from edgebuild.techniques.learning import TrainingParameters
from edgebuild.techniques.registry import techniques_by_name
from edgebuild.techniques.report import read_report
from edgebuild.techniques.technique import plain_parameters, read_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgebuild.building.context import BuildContext, Options
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.catalogue.project import Project
    from edgebuild.catalogue.project_tables import RecipeTable
    from edgebuild.core.artifact import Contract
    from edgebuild.core.record import Note
    from edgebuild.execution.executor import StepResult
    from edgebuild.planning.plan import Plan, PlannedCandidate
    from edgebuild.techniques.technique import Technique


@dataclass(frozen=True, kw_only=True)
class CompressedResult:
    """What a recipe made of the model for one profile: the frozen ONNX file, or the reason why there is none.

    ``chain`` holds it cut into stages where it has early exits. ``left_out`` says why there was no time for it.
    """

    frozen: StepResult | None = None
    contract: Contract | None = None
    chain: StepResult | None = None
    failure: str | None = None
    left_out: str | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KernelConstraints:
    """What a profile's kernels want of a model: see ``Technique``. Layers are timed as ``timing`` is built."""

    channel_multiple: int = 1
    int8: Int8Scheme | None = None
    timing: PlannedCandidate | None = None


#: Of the layers that a step left alone, a candidate's notes name this many.
NAMED_LAYERS = 5
#: By recipe and profile: profiles whose kernels take other widths get other models, all others share theirs.
Models = dict[tuple[str, str], CompressedResult]


def planned_recipes(project: Project, options: Options, frames: int) -> tuple[Recipe, ...]:
    """Return the recipes that are asked for, as planning sees them; raises ``ConfigError`` for one that isn't right.

    ``frames`` is how many samples there are to train on, or assumed to be.
    """
    tables = chosen_recipes(project.recipes, options.recipes)
    if not tables:
        return ()
    techniques = techniques_by_name()
    recipes = tuple(
        Recipe(name=table.name, steps=tuple(_planned(kind, p, frames) for kind, p in _typed(table, techniques)))
        for table in tables
    )
    _check_references(recipes, project)
    return recipes


def _check_references(recipes: tuple[Recipe, ...], project: Project) -> None:
    """Raise ``ConfigError`` for functions that the project doesn't have: before hours of training, not after."""
    problems = [
        f"{step.technique} of recipe {recipe.name}: {problem}"
        for recipe in recipes
        for step in recipe.steps
        for reference in step.needs.references
        if (problem := reference_problem(reference, project.folder)) is not None
    ]
    if problems:
        raise ConfigError("[[recipes]]", tuple(problems), hint="A function is named as module:function.")


def _typed(table: RecipeTable, techniques: Mapping[str, type[Technique]]) -> list[tuple[type[Technique], Any]]:
    models = {name: technique.Parameters for name, technique in techniques.items()}
    where = f"recipe {table.name}"
    typed = [(step.technique, typed_parameters(step, models, where)) for step in table.steps]
    return [(techniques[name], parameters) for name, parameters in typed]


def _planned(technique: type[Technique], parameters: Any, frames: int) -> RecipeStep:
    needs = technique.needs(parameters)
    return RecipeStep(
        technique=technique.kind,
        parameters=plain_parameters(parameters),
        learns=parameters.learns_from(frames) if needs.train and isinstance(parameters, TrainingParameters) else 0,
        needs=needs,
        changes=tuple(sorted(technique.changes)),
        not_after=tuple(sorted({**technique.not_after, **dict(needs.not_after)}.items())),
        times_layers=technique.times_layers,
    )


def compress_models(plan: Plan, prepared: ModelInputs, context: BuildContext) -> Models:
    """Carry out every planned recipe for every profile that has candidates of it; steps that are the same run once.

    A recipe that can't be carried out on this model is a result with its reason, not the end of the build; so is a bug
    in one of its techniques. The store, the data and the user may still end it.
    """
    wanted = {(c.recipe, c.profile): c for c in plan.candidates if c.recipe}
    if not wanted:
        return {}
    techniques = techniques_by_name()
    recipes = {recipe.name: recipe for recipe in plan.recipes}
    multiples = dict(plan.channel_multiples)
    made: Models = {}
    context = _boxed(plan, context)
    with context.progress.task("Compressing", total=len(wanted)) as task:
        for name, profile in wanted:
            context.check()
            steps = [
                (t, read_parameters(t, s.parameters)) for s in recipes[name].steps for t in (techniques[s.technique],)
            ]
            wants = KernelConstraints(
                channel_multiple=multiples[profile],
                int8=int8_of(plan, profile),
                timing=timing_candidate(plan, name, profile),
            )
            work = partial(_carry_out, name, steps, wants, prepared, context.concerning(recipe=name))
            made[name, profile] = _in_time(name, work, plan, context)
            task.advance(note=f"{name} for {profile}")
    return made


def _boxed(plan: Plan, context: BuildContext) -> BuildContext:
    """Return the context for work that leaves time for the candidates of the original, and to measure all."""
    if context.box is None:
        return context
    if context.options.recipes:
        return replace(context, box=None)
    reserved = after_s(plan.candidates, plan.unit, plan.max_finalists, least=True)
    plain: list[PlannedCandidate] = []
    for each in plan.candidates:
        reserved += making_s(each, plain, plan.unit)
        plain.append(each)
    return replace(context, box=replace(context.box, unit=plan.unit, reserved_s=reserved))


def _in_time(name: str, work: Callable[[], CompressedResult], plan: Plan, context: BuildContext) -> CompressedResult:
    """Carry a recipe out where there is time, and until that is over."""
    late = None if context.box is None else context.box.why_not(plan.recipe_s[name])
    if late is not None:
        return CompressedResult(left_out=late)
    started = time.monotonic()
    with context.limits.until(float("inf") if context.box is None else context.box.until_s):
        done = context.guard.attempt(f"recipe {name}", work)
    if not isinstance(done, Failure):
        return done
    if isinstance(done.error, OutOfTime):
        return CompressedResult(left_out=f"{done.sentence}, after {time.monotonic() - started:.0f} s")
    return CompressedResult(failure=f"recipe {name}: {done.sentence}", notes=notes_on("bug", done.notes))


def int8_of(plan: Plan, profile: str) -> Int8Scheme | None:
    """Return what all int8 schemes of a profile can hold, so that one training serves them all; None without any."""
    static = [c.precision for c in plan.candidates if c.profile == profile and c.precision.kind == "int8"]
    schemes = [precision.scheme for precision in static if precision.scheme is not None]
    if not schemes:
        return None
    return Int8Scheme(
        activations="uint8",
        symmetric_activations=any(scheme.symmetric_activations for scheme in schemes),
        reduce_range=any(scheme.reduce_range for scheme in schemes),
        float_below_channels=max(scheme.float_below_channels for scheme in schemes),
    )


def _carry_out(
    name: str,
    steps: list[tuple[type[Technique], Any]],
    wants: KernelConstraints,
    prepared: ModelInputs,
    context: BuildContext,
) -> CompressedResult:
    project = context.project
    references = tuple(r for technique, p in steps for r in technique.needs(p).references)
    code = CodeNames(factory=project.model.factory or SOURCE_FILE, modules=references)
    original = _original(code, prepared, context)
    model = original
    notes: list[str] = []
    for number, (technique, parameters) in enumerate(steps, start=1):
        step = step_of(technique, parameters, code, wants, prepared, context)
        inputs: dict[str, StepResult | Path] = {
            "model": model,
            "teacher": original,
            "calibration": prepared.calibration,
        }
        if technique.needs(parameters).train and project.data.train is not None:
            inputs["train"] = materialise(context, "train")
        if technique.needs(parameters).validation:
            inputs["validation"] = prepared.validation
        times, untimed = time_layers(step, inputs, wants.timing, prepared.contract.batch, context)
        try:
            model = context.run(step, {**inputs, **times}, label=f"recipe {name}: step {number}, {technique.kind}")
        except ModelError as error:
            if not (times and untimed):
                raise
            raise ModelError(f"{error.message} {untimed[0]}", hint=error.hint) from error
        notes += (*_notes(technique.kind, model), *untimed)
    return _shipped(name, model, code, notes_on("recipe", notes), prepared, context)


def _original(code: CodeNames, prepared: ModelInputs, context: BuildContext) -> StepResult:
    if context.project.model.factory is not None:
        step = SaveOriginal(factory=code.factory, model_digest=model_digest(context))
        return context.run(step, weights_of(context), label="store the original torch model")
    return context.run(
        SaveOnnx(specs=model_specs(context.project), contract=prepared.given),
        {"model": prepared.imported, "samples": prepared.validation, "reference": prepared.reference},
        label="read the ONNX model as a torch module",
    )


def step_of(
    technique: type[Technique],
    parameters: Any,
    code: CodeNames,
    wants: KernelConstraints,
    prepared: ModelInputs,
    context: BuildContext,
) -> Technique:
    """Return one step of a recipe; what its technique doesn't look at stays out of its key."""
    training = context.project.training
    trains = technique.needs(parameters).train
    loader = training.loader if trains and training.loader else ""
    return technique(
        parameters=parameters,
        code=code,
        specs=model_specs(context.project),
        contract=prepared.given,
        channel_multiple=wants.channel_multiple if technique.uses_channels else 1,
        int8=wants.int8 if technique.uses_int8 else None,
        loss=training.loss or "",
        loader=loader,
        data_version=training.data_version or "" if loader else "",
    )


def _notes(kind: str, result: StepResult) -> list[str]:
    """Say what a step did, and why it left layers alone; all of it is in its technique.json."""
    report = read_report(result.path)
    lines = [
        f"{kind}: {report.summary}; {report.macs_before:,} → {report.macs_after:,} MACs, "
        f"{report.parameters_before:,} → {report.parameters_after:,} parameters",
        *(f"{kind}: {note}" for note in report.notes),
    ]
    left = [f"{said.layer} ({said.reason})" for said in report.layers if said.reason]
    if left:
        more = f", and {len(left) - NAMED_LAYERS} more" if len(left) > NAMED_LAYERS else ""
        lines.append(f"{kind} left alone: {', '.join(left[:NAMED_LAYERS])}{more}")
    return lines


def _shipped(
    name: str,
    model: StepResult,
    code: CodeNames,
    notes: tuple[Note, ...],
    prepared: ModelInputs,
    context: BuildContext,
) -> CompressedResult:
    edits = read_model(model.path).edits
    given = with_exits(prepared.given, edits)
    step = ExportCompressed(code=code, specs=model_specs(context.project), contract=given)
    exported = context.run(step, {"model": model, "samples": prepared.validation}, label=f"recipe {name}: export")
    # The frozen file is compared with what the compressed torch model answers; the verdict is against the original.
    frozen, contract = freeze_model(
        context, given, exported, exported, prepared.validation, label=f"recipe {name}: freeze"
    )
    heads = heads_of(edits)
    if not heads:
        return CompressedResult(frozen=frozen, contract=contract, notes=notes)
    chain = cut_exits(context, heads, frozen, contract, prepared, label=f"recipe {name}: exits")
    return CompressedResult(frozen=frozen, contract=contract, chain=chain, notes=notes)
