"""A package of somebody else: one of everything that extends edgebuild. Imports ``edgebuild.plugins`` only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from edgebuild.plugins import (
    Capabilities,
    CompileRequest,
    Contract,
    KeepChannels,
    LocalDevice,
    Metric,
    Parameters,
    Precision,
    RunsOn,
    Settings,
    SettingSpec,
    Step,
    StepContext,
    Technique,
    Workspace,
    write_artifact,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.plugins import Device, DeviceEntry


class HalveParameters(Parameters):
    layer: str = Field(description="The dense layer in front.")
    next: str = Field(description="The dense layer that reads it.")


class Halve(Technique):
    """Keeps every second unit of a dense layer."""

    kind: ClassVar[str] = "halve"
    title: ClassVar[str] = "keeps every second unit of a dense layer"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)
    Parameters: ClassVar = HalveParameters
    changes: ClassVar = frozenset({"structure"})

    def compress(self, work: Workspace) -> str:
        p: Any = self.parameters
        layer: Any = work.module.get_submodule(p.layer)
        kept = tuple(range(0, layer.out_features, 2))
        work.apply(KeepChannels(module=p.layer, outputs=kept), KeepChannels(module=p.next, inputs=kept))
        work.say(p.layer, len(kept) * 2, len(kept))
        return f"{p.layer} halved"


class Copy(Step):
    """Quantises nothing: enough to show who is asked."""

    samples: int
    kind: ClassVar[str] = "everything-copy"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        ctx.check()
        shutil.copyfile(inputs["model"] / "model.onnx", out_dir / "model.onnx")


def copying(precision: Precision, contract: Contract, keep_float: tuple[str, ...], samples: int) -> Step:
    del precision, contract, keep_float
    return Copy(samples=samples)


def sure_accuracy(name: str, output: str | None) -> Metric:
    """The share of samples whose class is right and more than half sure; its scores by sample make it fast to judge."""

    def scores(outputs: Mapping[str, Any], targets: Any) -> Any:
        logits = np.asarray(outputs[output or next(iter(outputs))], dtype=np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        sure = odds.max(axis=1) / odds.sum(axis=1) > 0.5
        return (sure & (logits.argmax(axis=1) == targets)).astype(np.float64)

    def prepare(outputs: Mapping[str, Any], targets: Any) -> Any:
        each = scores(outputs, targets)
        return lambda counts: float(each.mean() if counts is None else each @ counts / counts.sum())

    return Metric(name=name, direction="maximise", scale=(0.0, 1.0), prepare=prepare, scores=scores, by_class=True)


class Ship(Step):
    """Ships model.onnx as it is."""

    request: CompileRequest
    kind: ClassVar[str] = "everything-ship"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        ctx.check()
        shutil.copyfile(inputs["model"] / "model.onnx", out_dir / "model.onnx")
        contract, precision = self.request.contract, self.request.precision
        write_artifact(out_dir, backend="plain", entry="model.onnx", contract=contract, precision=precision)


class Plain:
    """A backend: ONNX Runtime with nothing optimised."""

    name = "plain"
    device_file = Path(__file__).with_name("device.py")
    install_hint = "pip install onnxruntime"
    distributions = ("onnxruntime",)
    settings = (SettingSpec(name="threads", type=int, least=1, meaning="Threads that share one inference."),)

    def installed(self) -> str | None:
        return "1"

    def default_settings(self, cores: int) -> Settings:
        return (("threads", max(1, cores)),)

    def refuse(self, precision: Precision, facts: Mapping[str, str]) -> str | None:
        del facts
        return "it ships what it is given, so fp16 is not for it" if precision.kind == "fp16" else None

    def compile_step(self, request: CompileRequest) -> Step:
        return Ship(request=request)


class Shelf(LocalDevice):
    """A kind of device: a folder of this machine, whose address is its path."""

    capabilities = Capabilities()


def shelf(entry: DeviceEntry) -> Device:
    return Shelf(Path(entry.address), name=f"shelf {entry.name}")
