"""LiteRT on the host: what it is, what it refuses, and the step that turns an ONNX file into a .tflite file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgebuild.plugins import Contract, ModelError, Precision, RunsOn, SettingSpec, Step, check_request, write_artifact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.plugins import CompileRequest, Settings, StepContext

NAME = "litert"
MODEL = "model.tflite"


class LiteRt:
    """The backend for LiteRT's CPU kernels."""

    name = NAME
    device_file = Path(__file__).with_name("device.py")
    install_hint = "pip install ai-edge-litert"
    distributions = ("ai-edge-litert",)
    settings = (SettingSpec(name="threads", type=int, least=1, meaning="Threads that share one inference."),)

    def installed(self) -> str | None:
        """Return the installed version, or None."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("ai-edge-litert")
        except PackageNotFoundError:
            return None

    def default_settings(self, cores: int) -> Settings:
        """Return all cores."""
        return (("threads", max(1, cores)),)

    def refuse(self, precision: Precision, facts: Mapping[str, str]) -> str | None:
        """Refuse where the runtime is missing, and all but fp32."""
        if facts.get(f"runtime.{NAME}") == "unknown":
            return "ai-edge-litert is not installed on the device"
        return None if precision.kind == "fp32" else "this example converts fp32 only"

    def compile_step(self, request: CompileRequest) -> Step:
        """Return the conversion, which is the same for every CPU; ``client`` isn't needed."""
        check_request(self, request)
        if request.libraries:
            raise ModelError("LiteRT can't load custom-op libraries.", hint="Build this model for ONNX Runtime.")
        return ConvertToTflite(precision=request.precision, contract=request.contract)


class ConvertToTflite(Step):
    """Converts model.onnx into model.tflite."""

    precision: Precision
    contract: Contract
    kind: ClassVar[str] = "litert-convert"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("ai-edge-litert",)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        import onnx

        from edgebuild_litert.convert import convert

        ctx.check()
        (out_dir / MODEL).write_bytes(convert(onnx.load(str(inputs["model"] / "model.onnx"))))
        write_artifact(out_dir, backend=NAME, entry=MODEL, contract=self.contract, precision=self.precision)
