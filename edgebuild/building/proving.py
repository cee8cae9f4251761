"""Evaluates a candidate in its runtime, judges it on validation, and cross-checks what is int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.building.crosscheck import cross_check, unchecked
from edgebuild.building.evaluation import CompiledCandidate, Evaluation
from edgebuild.building.exits import exit_notes
from edgebuild.building.judge import Judged, JudgeOutputs, judged, metric_values
from edgebuild.core.record import notes_on
from edgebuild.core.scores import SCORES_FILE
from edgebuild.core.verdict import Outcome
from edgebuild.measuring.evaluate import EvaluateArtifact

if TYPE_CHECKING:
    from edgebuild.building.context import BuildContext
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.splits import JudgedSplit
    from edgebuild.core.artifact import Artifact
    from edgebuild.core.verdict import CrossCheck
    from edgebuild.execution.executor import StepResult


def judge_candidate(
    made: CompiledCandidate, prepared: ModelInputs, validation: JudgedSplit, context: BuildContext
) -> Evaluation:
    """Return what validation says of a candidate."""
    del prepared
    who = made.planned.id
    outputs = evaluate(context, made.artifact, made.compiled, validation, who)
    found = judge(context, who, outputs, validation)
    verdict = found.verdict
    checked: CrossCheck | None = None
    if made.planned.precision.kind == "int8-dynamic":
        checked = unchecked("its ranges are found at each call, so that the graph has no steps to count in")
    if made.planned.precision.kind == "int8" and verdict.outcome is not Outcome.REFUSED:
        late = context.no_time("cross-check of " + who, lambda unit: unit.crosscheck_s)
        checked = cross_check(context, made, validation.data, outputs) if late is None else unchecked(late)
        if checked.refuses:
            reasons = (*verdict.reasons, f"cross-check: {checked.explanation}")
            verdict = verdict.model_copy(update={"outcome": Outcome.REFUSED, "reasons": reasons})
    return Evaluation(
        planned=made.planned,
        artifact=made.artifact,
        compiled=made.compiled,
        outputs=outputs,
        verdict=verdict,
        closeness=found.closeness,
        crosscheck=checked,
        notes=(*made.notes, *notes_on("exits", exit_notes(outputs.path))),
    )


def evaluate(
    context: BuildContext, artifact: Artifact, compiled: StepResult, data: JudgedSplit, who: str
) -> StepResult:
    """Run an artifact over a split on the device, with the settings it will ship with."""
    step = EvaluateArtifact(split=data.name, settings=artifact.settings)
    return context.run(step, {"artifact": compiled, "data": data.data}, label=f"evaluate {who} on {data.name}")


def judge(context: BuildContext, who: str, outputs: StepResult, data: JudgedSplit, *, level: float = 0.95) -> Judged:
    """Judge outputs against the reference's on the same samples."""
    step = JudgeOutputs(metric=context.project.metric, budget=context.budget, split=data.split, level=level)
    metric = step.own_metric(context.load)
    if metric is not None:
        values = metric_values(metric, (data.reference.path, outputs.path), data.data.path)
        step = step.model_copy(update={"values": values})
    inputs = {"reference": data.reference, "outputs": outputs, "data": data.data}
    folder = context.run(step, inputs, label=f"judge {who} on {data.split}").path
    verdict, closeness = judged(folder)
    scores = folder / SCORES_FILE
    return Judged(verdict=data.mark(verdict), closeness=closeness, scores=scores if scores.is_file() else None)
