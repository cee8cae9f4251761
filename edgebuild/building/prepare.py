"""What every candidate starts from: data on disk, the model frozen to its shipped shape, the reference's outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.building.data import batch_open, materialise, model_digest
from edgebuild.catalogue.tables import toml_text
from edgebuild.core.artifact import BATCH_AXIS, Contract, TensorSpec
from edgebuild.errors import ConfigError, ModelError
from edgebuild.models.steps import ExportTorch, FreezeModel, ImportOnnx, ReferenceOutputs

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.building.context import BuildContext
    from edgebuild.catalogue.project import Project
    from edgebuild.catalogue.project_tables import MetricTable
    from edgebuild.execution.executor import StepResult

#: Frames that the torch reference is fed at once; its outputs don't depend on it beyond rounding.
TORCH_REFERENCE_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """The common ground of all candidates.

    ``contract`` has the shipped shapes; ``given`` is how the model as given is called, with its constant inputs.
    """

    contract: Contract
    given: Contract
    frozen: StepResult
    calibration: StepResult
    validation: StepResult
    reference: StepResult
    imported: StepResult


def import_model(context: BuildContext) -> StepResult | None:
    """Import the project's ONNX file, if it has one, and hold it against edgebuild.toml: before data are read."""
    given = _import_onnx(context) if context.project.model.factory is None else None
    names = tuple(spec.name for spec in _given_contract(context, given).outputs)
    if context.budget.agreement is None:
        check_output(context.project.metric, names)
    return given


def check_output(metric: MetricTable | None, names: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` where it isn't said which of a model's outputs a built-in metric reads, or wrongly.

    Raises ``EnvironmentGap`` where the package of a metric is missing.
    """
    if metric is None or metric.name is None:
        return
    from edgebuild.judging.metrics import named_metric

    named_metric(metric.name)
    if metric.decode is not None or metric.output in names or (metric.output is None and len(names) == 1):
        return
    what = f"the model has {len(names)} outputs ({', '.join(names)})"
    if metric.output is None:
        problem = f"[metric]: {what}, and {metric.name} reads one"
    else:
        problem = f"[metric].output: {what}, none is called {toml_text(metric.output)}"
    hint = f"Name it: output = {toml_text(names[0]) if names else '…'}. A `callable` gets all of them."
    if len(names) == 1:
        hint += " What a torch model returns beyond one tensor is named in [model].outputs."
    raise ConfigError("edgebuild.toml", (problem,), hint=hint)


def prepare(context: BuildContext, given: StepResult | None) -> ModelInputs:
    """Run the reference on validation, export a torch model (``given`` is what was imported) and freeze; all cached."""
    calibration = materialise(context, "calibration")
    validation = materialise(context, "validation")
    contract = _given_contract(context, given)
    # Before an export, whose own words for a model that doesn't run name no layer.
    reference = run_reference(context, given, contract, validation, "validation")
    imported = given or _export_torch(context, validation)
    frozen, shipped = freeze_model(context, contract, imported, reference, validation, label="freeze the model")
    return ModelInputs(
        contract=shipped,
        given=contract,
        frozen=frozen,
        calibration=calibration,
        validation=validation,
        reference=reference,
        imported=imported,
    )


def freeze_model(
    context: BuildContext,
    contract: Contract,
    model: StepResult,
    reference: StepResult,
    samples: StepResult,
    *,
    label: str,
) -> tuple[StepResult, Contract]:
    """Freeze an ONNX model to its shipped shape and hold it against ``reference``; return it and how it is called."""
    project = context.project
    shapes = tuple((spec.name, project.shipped_shape(spec.shape)) for spec in project.input_specs)
    frozen = context.run(
        FreezeModel(contract=contract, shapes=shapes),
        {"model": model, "samples": samples, "reference": reference, **_library(context)},
        label=label,
    )
    for note in json.loads((frozen.path / "folding.json").read_bytes()):
        context.say("model", note)
    return frozen, Contract.model_validate_json((frozen.path / "contract.json").read_bytes())


def batch_is_free(project: Project) -> bool:
    """Whether samples of a project can be fed several at once."""
    return not project.stateful and all(BATCH_AXIS in spec.shape[:1] for spec in project.sample_specs)


def run_reference(
    context: BuildContext, imported: StepResult | None, contract: Contract, data: StepResult, split: str
) -> StepResult:
    """Run the model as given over a split: ``imported``, or what the project's factory makes."""
    project = context.project
    inputs: dict[str, Any] = {"data": data, **_library(context)}
    if project.model.factory is None:
        step = ReferenceOutputs(contract=contract, batch=contract.batch, split=split)
        inputs["model"] = imported
    else:
        step = ReferenceOutputs(
            contract=contract,
            batch=TORCH_REFERENCE_BATCH if batch_is_free(project) else contract.batch,
            split=split,
            order=tuple(spec.name for spec in project.inputs),
            factory=project.model.factory,
            model_digest=model_digest(context),
        )
        inputs.update(weights_of(context))
    return context.run(step, inputs, label=f"reference on {split}")


def _import_onnx(context: BuildContext) -> StepResult:
    from edgebuild.models.onnx_files import custom_domains, import_inputs, load_onnx, read_facts

    path = context.project.onnx_path
    if path is None:
        raise ModelError("The project names no model.", hint="Give [model].onnx or [model].factory.")
    imported = context.run(ImportOnnx(), import_inputs(path), label="import the ONNX model")
    facts = read_facts(load_onnx(imported.path / "model.onnx"))
    context.check_inputs(facts.inputs, facts.outputs, facts.unranked)
    domains = custom_domains(facts)
    if domains and context.project.custom_ops_path is None:
        raise ModelError(
            f"{path} uses operators of {', '.join(domains)}, which no runtime brings.",
            hint="Name the shared library that has them as [model].custom_ops, or export the model without them.",
        )
    return imported


def _export_torch(context: BuildContext, samples: StepResult) -> StepResult:
    project = context.project
    if project.model.factory is None:
        raise ModelError("The project names no model.", hint="Give [model].onnx or [model].factory.")
    step = ExportTorch(
        factory=project.model.factory,
        specs=model_specs(project),
        contract=_torch_contract(context),
        model_digest=model_digest(context),
    )
    return context.run(step, {"samples": samples, **weights_of(context)}, label="export the torch model")


def model_specs(project: Project) -> tuple[TensorSpec, ...]:
    """All inputs of a torch model in the order of ``forward``, constants and states among them.

    A module that is read from an ONNX file has the sizes that ship, but for the batch.
    """
    specs = tuple(TensorSpec(name=i.name, shape=i.shape, dtype=i.dtype) for i in project.inputs)
    return specs if project.model.factory is not None else tuple(batch_open(spec, project) for spec in specs)


def _torch_contract(context: BuildContext) -> Contract:
    """The contract of a factory's model, before anything ran: outputs carry the names that the user gave."""
    project = context.project
    names = project.model.outputs
    outputs = tuple(TensorSpec(name=name, shape=(BATCH_AXIS,), dtype="float32") for name in names)
    return _with_project(context, project.sample_specs, outputs)


def _given_contract(context: BuildContext, imported: StepResult | None) -> Contract:
    """The contract of the model as given: outputs as the ONNX file names them, inputs in their shipped shape."""
    from edgebuild.models.onnx_files import load_onnx, read_facts

    project = context.project
    if imported is None:
        contract = _torch_contract(context)
        outputs = contract.outputs
    else:
        facts = read_facts(load_onnx(imported.path / "model.onnx"))
        states = {link.output for link in project.state_links}
        outputs = tuple(spec for spec in facts.outputs if spec.name not in states)
    inputs = tuple(
        spec.model_copy(update={"shape": project.shipped_shape(spec.shape)}) for spec in project.sample_specs
    )
    return _with_project(context, inputs, outputs)


def _with_project(context: BuildContext, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Contract:
    project = context.project
    states = tuple(
        spec.model_copy(update={"shape": project.shipped_shape(spec.shape)})
        for spec in project.input_specs
        if spec.name in project.model.state
    )
    return Contract(
        inputs=inputs,
        outputs=outputs,
        constants=project.constants,
        state=project.state_links,
        state_specs=states,
        preprocess=project.contract.preprocess,
        postprocess=project.contract.postprocess,
    )


def weights_of(context: BuildContext) -> dict[str, Path]:
    """The file with the factory's weights, where there is one."""
    path = context.project.weights_path
    return {} if path is None else {"weights": path}


def _library(context: BuildContext) -> dict[str, Path]:
    path = context.project.custom_ops_path
    return {} if path is None else {"library": path}
