"""What every technique on torch models promises: see ``edgebuild.techniques.technique``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, ProjectCode, Step, StepContext, never_stop
from edgebuild.errors import EdgebuildError, Interrupted, ModelError
from edgebuild.testing import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from edgebuild.models.compressed_model import UserCode
    from edgebuild.techniques.report import TechniqueReport
    from edgebuild.techniques.technique import Technique

#: The net of the suite: a convolution, a normalisation, and two dense layers on 3x6x6 images in 4 classes.
SPECS = (TensorSpec(name="image", shape=("batch", 3, 6, 6), dtype="float32"),)
CONTRACT = Contract(inputs=SPECS, outputs=(TensorSpec(name="logits", shape=("batch",), dtype="float32"),))
FACTORY = "edgebuild.testing.techniques:net"
SAMPLES = 40


@dataclass(frozen=True, kw_only=True)
class Tried:
    """How a step ended: with a report, or refused with a reason."""

    report: TechniqueReport | None = None
    refusal: str = ""


def net() -> Any:
    """Return the suite's net."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(144, 32),
        nn.ReLU(),
        nn.Linear(32, 4),
    )


def check_technique(technique: type[Technique], scratch: Path, **parameters: Any) -> None:
    """Raise ``ContractBroken`` for the first promise that ``technique`` breaks on the suite's net. Takes some seconds.

    ``parameters`` are such that it works there.
    """
    _check_description(technique, parameters)
    inputs = _inputs(scratch)
    before = {path: path.read_bytes() for folder in inputs.values() for path in folder.rglob("*") if path.is_file()}
    made = []
    for turn in ("a", "b"):
        out = scratch / turn
        tried = run_step(_step(technique, parameters), inputs, out, _context(scratch / f"{turn}-scratch"))
        require(tried.report is not None, f"it works on a plain convolutional net, and says: {tried.refusal}")
        made.append({path.name: path.read_bytes() for path in out.iterdir()})
    require(made[0] == made[1], "the same inputs and seed give the same bytes")
    _check_export(technique, inputs, scratch)
    require(all(path.read_bytes() == content for path, content in before.items()), "its inputs are left alone")
    _check_cancelling(technique, parameters, inputs, scratch)


def run_step(step: Technique, inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> Tried:
    """Run one step on any model; a ``ModelError`` is a refusal, with the reason. The step checks parity itself.

    Raises ``ContractBroken`` for a result that isn't what was promised, or a refusal that says nothing.
    """
    from edgebuild.models import compressed_model
    from edgebuild.techniques.report import read_report

    out.mkdir(parents=True)
    try:
        step.run(inputs, out, ctx)
    except ModelError as error:
        require(bool(error.message and error.hint), "a refusal has a reason and says what to do")
        return Tried(refusal=error.message)
    report = read_report(out)
    require(report.technique == step.kind and bool(report.summary), "technique.json says what was done")
    earlier, now = compressed_model.read_model(inputs["model"]), compressed_model.read_model(out)
    require(now.edits[: len(earlier.edits)] == earlier.edits, "edits are added behind those that were there")
    compressed_model.load_model(out, step.code.code_in(ctx))
    return Tried(report=report)


def _check_description(technique: type[Technique], parameters: Mapping[str, Any]) -> None:
    from edgebuild.techniques.technique import Parameters, Requirements

    require(bool(technique.kind and technique.title and technique.version >= 1), "it has a kind, title and version")
    require(issubclass(technique.Parameters, Parameters), "its parameters are a Parameters table")
    for name, field in technique.Parameters.model_fields.items():
        require(bool(field.description), f"the parameter {name} has a description")
    made = technique.Parameters(**parameters)
    require(isinstance(technique.needs(made), Requirements), "needs() says what a step needs")
    require(bool(technique.changes), "changes says what it changes")
    step = _step(technique, parameters)
    require(isinstance(step, Step), "it is a step")
    require("parameters" in step.key_fields(), "its parameters are in its key")
    require(technique.model_validate_json(step.to_json()) == step, "it is data: read back from JSON it is the same")


def _check_export(technique: type[Technique], inputs: Mapping[str, Path], scratch: Path) -> None:
    from edgebuild.models import compressed_model
    from edgebuild.models.dataset import Dataset
    from edgebuild.models.steps import export_checked

    if "heads" in technique.changes:
        return
    module, _ = compressed_model.load_model(scratch / "a", _code())
    data = Dataset.open(inputs["calibration"])
    try:
        export_checked(module, SPECS, CONTRACT, data, scratch / "contract.onnx", never_stop)
    except ModelError as error:
        require(False, f"what it makes exports to ONNX and agrees with torch, but: {error.message}")


def _check_cancelling(
    technique: type[Technique], parameters: Mapping[str, Any], inputs: Mapping[str, Path], scratch: Path
) -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        raise Interrupted("stopped")

    out = scratch / "cancelled"
    out.mkdir()
    try:
        _step(technique, parameters).run(inputs, out, replace(_context(scratch / "cancelled-scratch"), check=stop))
    except Interrupted:
        return
    except EdgebuildError as error:
        require(False, f"what stops it passes through, not: {error.message}")
    require(False, "it calls check, and so can be stopped")


def _load(reference: str) -> Callable[..., Any]:
    require(reference == FACTORY, "it calls no code but the factory")
    return net


def _step(technique: type[Technique], parameters: Mapping[str, Any]) -> Technique:
    from edgebuild.models.compressed_model import CodeNames

    return technique(
        parameters=technique.Parameters(**parameters),
        code=CodeNames(factory=FACTORY),
        specs=SPECS,
        contract=CONTRACT,
    )


def _context(scratch: Path) -> StepContext:
    scratch.mkdir(parents=True, exist_ok=True)
    code = ProjectCode(load=_load, digest="")
    return StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=scratch, code=code)


def _code() -> UserCode:
    from edgebuild.models.compressed_model import UserCode

    return UserCode(factory=FACTORY, load=_load)


def _inputs(scratch: Path) -> dict[str, Path]:
    import torch

    from edgebuild.models import compressed_model
    from edgebuild.models.dataset import write_dataset
    from edgebuild.models.edits import CompressedModel

    names = ("model", "calibration", "train")
    for name in names:
        (scratch / name).mkdir(parents=True)
    torch.manual_seed(0)
    module = net().train()
    with torch.no_grad():
        module(torch.randn(64, 3, 6, 6))
    compressed_model.write_model(module, CompressedModel(factory=FACTORY), scratch / "model")
    for seed, name in enumerate(names[1:]):
        write_dataset(
            _samples(seed),
            scratch / name,
            specs=SPECS,
            stateful=False,
            source=name,
            task=NoProgress(),
            check=never_stop,
        )
    return {name: scratch / name for name in names} | {"teacher": scratch / "model"}


def _samples(seed: int) -> Iterator[Sample]:
    import numpy as np

    generator = np.random.default_rng(seed)
    for _ in range(SAMPLES):
        image = generator.standard_normal((3, 6, 6)).astype(np.float32)
        yield Sample(inputs={"image": image}, target=int(generator.integers(4)))
