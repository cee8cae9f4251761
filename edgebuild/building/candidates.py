"""Makes one candidate: in its precision, compiled for its runtime, and proven as its device allows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.backends.protocol import read_notes
from edgebuild.building.compiling import compile_request
from edgebuild.building.evaluation import CompiledCandidate, FailedCandidate, evaluations
from edgebuild.building.exits import compile_chain
from edgebuild.building.pack import packed
from edgebuild.building.ways import way_of
from edgebuild.core.artifact import Fp16Meaning
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.record import notes_on
from edgebuild.core.steps import RunsOn, require_step
from edgebuild.judging.limits import MB, check_limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from edgebuild.building.compress import Models
    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Built
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.splits import JudgedSplit
    from edgebuild.core.artifact import Contract
    from edgebuild.core.record import Note
    from edgebuild.core.steps import Step
    from edgebuild.execution.executor import StepResult
    from edgebuild.planning.plan import PlannedCandidate


#: Calibration samples that every quantiser gets, at most: NNCF's own default.
CALIBRATION_SAMPLES = 300
#: Who makes what the precision says all of.
MAKERS = {"fp16": "half-storage", "int8-dynamic": "onnxruntime-dynamic", "int8-storage": "int8-storage"}


def within_size(built: Sequence[Built], limit_mb: float | None) -> tuple[Built, ...]:
    """Refuse what is larger than the limit on the file size, as long as something that may be chosen isn't.

    The size is known before anything is measured: what is too large neither takes launches nor drops a slower one that
    fits. Where nothing fits, all are measured, so that the build says how near each came.
    """

    if limit_mb is None:
        return tuple(built)
    limit = {"file_size_mb": limit_mb}

    def checked(each: Built) -> Built:
        if isinstance(each, FailedCandidate) or each.verdict is None or each.artifact.size_bytes <= limit_mb * MB:
            return each
        return replace(each, verdict=check_limits(each.verdict, limit, size_bytes=each.artifact.size_bytes))

    kept = tuple(checked(each) for each in built)
    return kept if any(each.eligible for each in evaluations(kept)) else tuple(built)


def make(
    planned: PlannedCandidate, models: Models, prepared: ModelInputs, validation: JudgedSplit, context: BuildContext
) -> Built:
    """Return one candidate, built and proven."""
    made = _compile(planned, models, prepared, context)
    if isinstance(made, FailedCandidate):
        return made
    return way_of(context.can).prove(made, prepared, validation, context)


def _compile(
    planned: PlannedCandidate, models: Models, prepared: ModelInputs, context: BuildContext
) -> CompiledCandidate | FailedCandidate:
    made = models[planned.recipe, planned.profile] if planned.recipe else None
    frozen, contract = (prepared.frozen, prepared.contract) if made is None else (made.frozen, made.contract)
    if frozen is None or contract is None:
        reason = (made and made.failure) or "the recipe made no model"
        return FailedCandidate(planned=planned, reason=reason, notes=made.notes if made else ())
    model = _in_precision(planned, frozen, contract, prepared, context)
    backend = context.backends[planned.backend]
    request = compile_request(context, planned, contract)
    if made is not None and made.chain is not None:
        compiled = compile_chain(context, backend, made.chain, request, planned.id)
    else:
        step = backend.compile_step(request)
        compiled = context.run(step, {"model": model}, label=f"compile {planned.id}")
    compiled = packed(context, backend, compiled, planned.id)
    artifact = read_artifact(compiled.path)
    if planned.settings:
        artifact = artifact.with_settings(planned.settings[0])
    notes = (
        *notes_on("compile", read_notes(compiled.path)),
        *(made.notes if made else ()),
        *_size_notes(frozen, model),
        *_hasty_notes(planned),
    )
    return CompiledCandidate(
        planned=planned, contract=contract, model=model, artifact=artifact, compiled=compiled, notes=notes
    )


def _in_precision(
    planned: PlannedCandidate, frozen: StepResult, contract: Contract, prepared: ModelInputs, context: BuildContext
) -> StepResult:
    """Return the ONNX model in the candidate's precision; what computes in fp16 or bf16 is its runtime's affair."""
    found = precision_step(planned, frozen, contract, prepared, context)
    if found is None:
        return frozen
    label = "/".join(filter(None, (f"{planned.precision.label} for {planned.profile}", planned.recipe)))
    return context.run(*found, label=label)


def precision_step(
    planned: PlannedCandidate, frozen: StepResult, contract: Contract, prepared: ModelInputs, context: BuildContext
) -> tuple[Step, dict[str, StepResult | Path]] | None:
    """Return the step that brings a model into a candidate's precision, with its inputs; None where none is needed."""
    from edgebuild.quantisers.registry import quantiser

    precision = planned.precision
    name = precision.quantiser or MAKERS.get(precision.kind)
    if name is None or precision.fp16 is Fp16Meaning.COMPUTE:
        return None
    samples = CALIBRATION_SAMPLES if planned.samples is None else planned.samples
    step = quantiser(name)(precision, contract, context.project.build.keep_float, samples)
    require_step(step)
    inputs: dict[str, StepResult | Path] = {"model": frozen}
    if step.runs_on is not RunsOn.HOST:
        inputs["calibration"] = prepared.calibration
        if context.project.custom_ops_path is not None:
            inputs["library"] = context.project.custom_ops_path
    return step, inputs


def quantised(candidates: Iterable[PlannedCandidate], prepared: ModelInputs, context: BuildContext) -> tuple[str, ...]:
    """Return which candidates of the original have their int8 model in the store."""

    def stored(planned: PlannedCandidate) -> bool:
        found = precision_step(planned, prepared.frozen, prepared.contract, prepared, context)
        return found is not None and context.stored(*found)

    plain = [each for each in candidates if each.precision.kind == "int8" and not each.recipe]
    # A plug-in that fails here fails again, and aloud, when its candidate is made.
    return tuple(e.id for e in plain if context.guard.attempt(e.id, partial(stored, e)) is True)


def _hasty_notes(planned: PlannedCandidate) -> tuple[Note, ...]:
    if planned.samples is None:
        return ()
    said = f"calibrated with at most {planned.samples} samples, to stay inside the time asked for: with more time its "
    return notes_on("model", [f"{said}ranges may fit better"])


def _size_notes(frozen: StepResult, model: StepResult) -> tuple[Note, ...]:
    before = (frozen.path / "model.onnx").stat().st_size
    after = (model.path / "model.onnx").stat().st_size
    if after <= before:
        return ()
    return notes_on(
        "size", [f"this precision made the model larger: {before / 1e6:.2f} MB became {after / 1e6:.2f} MB"]
    )
