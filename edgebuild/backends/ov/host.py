"""OpenVINO on the host: an ONNX file becomes IR, with weights stored as the precision says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.backends.protocol import SettingSpec, check_request, write_artifact
from edgebuild.core.artifact import Contract, Fp16Meaning, Precision
from edgebuild.core.steps import RunsOn, Step
from edgebuild.errors import EnvironmentGap, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.backends.protocol import CompileRequest, Settings
    from edgebuild.core.steps import StepContext

NAME = "openvino"
INSTALL = "pip install 'edgebuild[openvino]'"


class OpenVino:
    """The backend for OpenVINO's CPU plugin."""

    name = NAME
    device_file = Path(__file__).with_name("device.py")
    install_hint = INSTALL
    distributions = ("openvino",)
    settings = (
        SettingSpec(name="threads", type=int, least=1, meaning="Threads that share one inference."),
        SettingSpec(
            name="hint",
            type=str,
            choices=("latency", "throughput"),
            meaning="Whether the plugin arranges itself for one request at a time, or for many.",
        ),
        SettingSpec(name="streams", type=int, least=1, meaning="Groups of threads that work on requests side by side."),
        SettingSpec(name="pinning", type=bool, choices=(True, False), meaning="Whether threads stay on their core."),
        SettingSpec(
            name="requests",
            type=int,
            least=1,
            meaning="Requests in flight where throughput is measured; the plugin's own optimum without it.",
        ),
        SettingSpec(
            name="inference_precision",
            type=str,
            choices=("f32", "f16", "bf16"),
            meaning="The arithmetic of float layers; stated always, because the plugin would pick bf16 where it can.",
        ),
    )

    def installed(self) -> str | None:
        """Return the installed version, or None."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("openvino")
        except PackageNotFoundError:
            return None

    def default_settings(self, cores: int) -> Settings:
        """Return the latency hint with all cores."""
        return (("hint", "latency"), ("threads", max(1, cores)))

    def refuse(self, precision: Precision, facts: Mapping[str, str]) -> str | None:
        """Refuse where the runtime is missing, dynamic int8, and fp16 or bf16 arithmetic on CPUs without it."""
        if facts.get(f"runtime.{NAME}") == "unknown":
            return "openvino is not installed on the device"
        if precision.kind == "int8-dynamic":
            return "OpenVINO doesn't read the operators of ONNX Runtime's dynamic int8"
        isa = facts.get("isa", "unknown")
        half = {"avx512_fp16", "asimdhp"} & set(isa.split())
        if precision.fp16 is Fp16Meaning.COMPUTE and isa != "unknown" and not half:
            return "OpenVINO computes in fp16 only on CPUs with fp16 arithmetic (avx512_fp16 or asimdhp)"
        if precision.kind == "bf16" and isa != "unknown" and not {"avx512_bf16", "amx_bf16", "bf16"} & set(isa.split()):
            return "OpenVINO computes in bf16 only on CPUs with bf16 arithmetic (avx512_bf16, amx_bf16, or bf16 on Arm)"
        return None

    def compile_step(self, request: CompileRequest) -> Step:
        """Return the conversion to IR, which is the same for every CPU; no device is needed."""
        check_request(self, request)
        if request.libraries:
            raise ModelError(
                "OpenVINO can't load ONNX Runtime's custom-op libraries.", hint="Build this model for ONNX Runtime."
            )
        return ConvertToIr(precision=request.precision, contract=request.contract)

    def pack_step(self) -> Step:
        """See ``Packing``."""
        from edgebuild.backends.ov.pack import PackIr

        return PackIr()


class ConvertToIr(Step):
    """Converts model.onnx into model.xml and model.bin.

    On the host's kernels: constants are folded while converting.
    """

    precision: Precision
    contract: Contract
    kind: ClassVar[str] = "openvino-convert"
    version: ClassVar[int] = 3
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("openvino",)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        openvino = import_openvino()
        source = inputs["model"] / "model.onnx"
        try:
            model = openvino.Core().read_model(source)
        except Exception as error:  # OpenVINO's exceptions share no root
            raise ModelError(
                f"OpenVINO can't convert {source.name}: {_reason(error)}.",
                hint="Build this model for ONNX Runtime, or export it without that operator.",
            ) from error
        ctx.check()
        openvino.save_model(model, out_dir / "model.xml", compress_to_fp16=self.precision.kind == "fp16")
        write_artifact(out_dir, backend=NAME, entry="model.xml", contract=self.contract, precision=self.precision)


def import_openvino() -> Any:
    """Return the openvino module, imported so that it can never send telemetry.

    With the package ``openvino_telemetry`` unimportable OpenVINO uses its own do-nothing stub; if another import was
    first, the tool's sender is replaced by one that does nothing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise EnvironmentGap("openvino is not installed.", hint=INSTALL) from error
    return openvino


def _reason(error: Exception) -> str:
    """OpenVINO wraps the sentence that matters in lines about where in its code it was thrown."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API failed"))]
    return "; ".join(telling[:3] or lines[:1] or [type(error).__name__])[:600].rstrip(".")
