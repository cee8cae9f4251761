"""TensorRT on the host: it writes the file that says it all, has it gated, and lets the device build the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from edgebuild.backends.protocol import SettingSpec, check_request, write_artifact, write_notes
from edgebuild.backends.trt import device
from edgebuild.backends.trt.gate import DISTRIBUTION, gate
from edgebuild.core.artifact import BATCH_AXIS, Contract, Fp16Meaning, Precision
from edgebuild.core.steps import RunsOn, Step
from edgebuild.devices.answers import Answer, RemoteFile, Text, checked, files_of
from edgebuild.devices.client import client_of
from edgebuild.devices.messages import one_line
from edgebuild.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.backends.protocol import CompileRequest, Settings
    from edgebuild.core.steps import StepContext

NAME = "tensorrt"
MODEL = "model.onnx"
ENGINE = "engine.plan"
#: The accelerator other than the GPU, as profiles name it.
DLA = "dla"
#: The pattern of zeros that its kernels can skip, as profiles name it.
TWO_OF_FOUR = "2:4"
#: Layers that a note names, and characters that are shown of a phase and of a line of the builder's.
MOST_NAMED, MOST_CHARACTERS, MOST_NOTED = 8, 80, 300
DEVICE_FILE = Path(device.__file__)
#: An engine of a large model takes tens of minutes on a small board.
COMPILE_LIMIT_S = 7200.0
#: An 8 GB board shares its memory between CPU and GPU and runs out of it without a cap.
WORKSPACE_BYTES = 1 << 30
#: Sizes of a dynamic axis that the engine must take, is tuned for, and must take at most.
BATCH_RANGE = (1, 1, 8)
AXIS_RANGE = (1, 64, 1024)


class TensorRt:
    """The backend for NVIDIA GPUs: Jetson boards, and desktop cards where TensorRT is installed."""

    name = NAME
    device_file = DEVICE_FILE
    install_hint = "on a Jetson it comes with JetPack: sudo apt-get install python3-libnvinfer"
    #: JetPack brings it as system packages, not as wheels.
    distributions: tuple[str, ...] = ()
    settings = (
        SettingSpec(
            name="cuda_graph",
            type=bool,
            choices=(True, False),
            meaning="Whether the kernels are recorded once and launched together: quicker for many small layers.",
        ),
        SettingSpec(
            name="spin_wait",
            type=bool,
            choices=(True, False),
            meaning="Whether the CPU waits busily for the GPU: quicker, and it takes a core.",
        ),
    )

    def installed(self) -> str | None:
        """Return the version of TensorRT on this host, or None."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tensorrt")
        except PackageNotFoundError:
            return None

    def default_settings(self, cores: int) -> Settings:
        """Return no CUDA graph and a sleeping wait: what a plain application does."""
        del cores
        return (("cuda_graph", False), ("spin_wait", False))

    def refuse(self, precision: Precision, facts: Mapping[str, str]) -> str | None:
        """Refuse where the runtime is missing, what isn't written for it yet, and int8 that isn't symmetric."""
        if facts.get(f"runtime.{NAME}") == "unknown":
            return "TensorRT (or its CUDA driver) is not there on the device"
        if precision.kind in ("bf16", "int8-dynamic", "int8-storage"):
            return f"nothing writes {precision.kind} for TensorRT yet"
        scheme = precision.scheme
        if scheme is not None and not (
            scheme.activations == "int8" and scheme.weights == "int8" and scheme.symmetric_activations
        ):
            return "TensorRT's int8 is symmetric, for activations and weights"
        return None

    def compile_step(self, request: CompileRequest) -> Step:
        """Return the step that builds the engine on the device, or without one the step that only gates the file.

        Raises ``ModelError`` for what a DLA can't take.
        """
        check_request(self, request, accelerators=(DLA,), features=(TWO_OF_FOUR,))
        precision, contract, accelerator = request.precision, request.contract, request.accelerator
        if request.libraries:
            raise UsageError("TensorRT takes no custom-op library.", hint="Export the model without custom operators.")
        if accelerator is not None:
            _check_dla(precision, contract)
        if not request.on_device:
            return GateOnnx(precision=precision, contract=contract, accelerator=accelerator)
        return BuildEngine(
            precision=precision,
            contract=contract,
            accelerator=accelerator,
            sparse=TWO_OF_FOUR in request.features,
        )


def _check_dla(precision: Precision, contract: Contract) -> None:
    """Raise for what a DLA can't take, as NVIDIA's «Working with DLA» says."""
    if precision.fp16 is not Fp16Meaning.COMPUTE:
        raise ModelError(
            f"A DLA can't take {precision.label}: it has no fp32, and takes int8 by calibrated ranges, not by Q/DQ.",
            hint='In the profile for the DLA, say precisions = ["fp16"].',
        )
    dynamic = sorted(profiles(contract))
    if dynamic:
        raise ModelError(
            f"A DLA takes fixed shapes only, and {', '.join(dynamic)} has a dynamic axis.",
            hint="Leave the axes out of keep_dynamic, or build for the GPU alone.",
        )


class GateOnnx(Step):
    """Writes the typed ONNX file and what TensorRT-RTX says of it: all that a host can do."""

    precision: Precision
    contract: Contract
    accelerator: str | None = None
    kind: ClassVar[str] = "tensorrt-gate"
    version: ClassVar[int] = 3
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("onnx", DISTRIBUTION)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        ctx.check()
        _, label = write_typed(inputs["model"] / MODEL, out_dir, self.precision, self.contract)
        write_artifact(out_dir, backend=NAME, entry=MODEL, contract=self.contract, precision=self.precision)
        write_notes(out_dir, [f"gate: {label}"])


class BuildEngine(Step):
    """Writes the typed ONNX file, has it gated, and lets the device build the engine from it.

    ``sparse`` lets the builder take kernels that skip zeros where weights have the 2:4 pattern.
    """

    precision: Precision
    contract: Contract
    workspace_bytes: int = WORKSPACE_BYTES
    accelerator: str | None = None
    sparse: bool = False
    kind: ClassVar[str] = "tensorrt-engine"
    version: ClassVar[int] = 4
    runs_on: ClassVar[RunsOn] = RunsOn.DEVICE
    # The builder times its kernels on the GPU, and keeps those times.
    measures: ClassVar[bool] = True
    tools: ClassVar[tuple[str, ...]] = ("onnx", DISTRIBUTION)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        typed = ctx.scratch / "typed"
        typed.mkdir(exist_ok=True)
        options, label = write_typed(inputs["model"] / MODEL, typed, self.precision, self.contract)
        options["workspace_bytes"] = self.workspace_bytes
        options["timing_caches"] = f"{client_of(ctx).device.root}/timing-caches"
        if self.accelerator is not None:
            options["accelerator"] = self.accelerator
        if self.sparse:
            options["sparse_weights"] = True
        answer = self._built(typed, options, out_dir, ctx)
        (out_dir / "gate.json").write_text((typed / "gate.json").read_text(encoding="utf-8"), encoding="utf-8")
        load: Settings = (("tensorrt", str(answer["version"])),)
        load += (("accelerator", self.accelerator),) if self.accelerator is not None else ()
        write_artifact(out_dir, backend=NAME, entry=ENGINE, contract=self.contract, precision=self.precision, load=load)
        write_notes(out_dir, [f"gate: {label}", *_placement(answer), *_sparsity(answer)])

    def _built(self, typed: Path, options: Mapping[str, Any], out_dir: Path, ctx: StepContext) -> dict[str, Any]:
        """Let the device build the engine, fetch it with what was found out, and return what the device says."""
        title, client = "Building the TensorRT engine on the device", client_of(ctx)
        with ctx.progress.task(title) as task, client.workspace() as remote:
            folder = client.put_folder(typed)
            answer = client.call(
                "compile",
                {"backend": NAME, "model": f"{folder}/{MODEL}", "out": remote, "options": options},
                on_event=lambda event: task.advance(0.0, note=_phase(event)),
                time_limit_s=COMPILE_LIMIT_S,
                check=ctx.check,
            )
            who = client.device.id
            answer = checked(EngineBuilt, answer, who)
            client.fetch(remote, files_of(answer, [ENGINE, "build.log", "layers.json"], who), out_dir)
        return answer


class EngineBuilt(Answer):
    """What the device code says of an engine: TensorRT's version, and where layers went and what became of zeros."""

    files: tuple[RemoteFile, ...]
    version: Annotated[str, Field(min_length=1, max_length=64)]
    fell_back: Annotated[tuple[Text, ...], Field(max_length=100_000)] = ()
    on_dla: Annotated[tuple[Text, ...], Field(max_length=100_000)] = ()
    sparsity: Annotated[tuple[Text, ...], Field(max_length=10_000)] = ()


def _phase(event: Mapping[str, Any]) -> str:
    """What a device says of its progress, made harmless for a terminal."""
    phase = one_line(str(event.get("phase", "")), MOST_CHARACTERS)
    done, total = event.get("done"), event.get("total")
    return f"{phase} {done:g}/{total:g}" if isinstance(done, int | float) and isinstance(total, int | float) else phase


def _placement(answer: Mapping[str, Any]) -> list[str]:
    """Say which layers a DLA left to the GPU; nothing where no DLA was asked for."""
    if "fell_back" not in answer:
        return []
    fell = [one_line(name) for name in answer["fell_back"]]
    regions = len(answer.get("on_dla", ()))
    if not fell:
        return [f"DLA: runs the whole model in {regions} parts"]
    more = f" and {len(fell) - MOST_NAMED} more" if len(fell) > MOST_NAMED else ""
    return [f"DLA: {regions} parts; {len(fell)} layers fell back to the GPU: {', '.join(fell[:MOST_NAMED])}{more}"]


def _sparsity(answer: Mapping[str, Any]) -> list[str]:
    """Say what became of the 2:4 pattern; nothing where no kernel was to skip zeros."""
    return [f"{TWO_OF_FOUR}: {one_line(line, MOST_NOTED)}" for line in answer.get("sparsity", ())]


def write_typed(source: Path, out: Path, precision: Precision, contract: Contract) -> tuple[dict[str, Any], str]:
    """Write ``model.onnx`` as TensorRT wants it, and ``gate.json``.

    Return what the device needs to build it, and what the gate says of it.

    Raises ``ModelError`` naming the node for what TensorRT is known to refuse or to misread, and for what TensorRT-RTX
    refuses.
    """
    from edgebuild.backends.trt import typed
    from edgebuild.models.onnx_files import load_onnx
    from edgebuild.models.onnx_graphs import save

    model = load_onnx(source)
    biases = typed.float_biases(model)
    found = typed.problems(model)
    if found:
        raise ModelError(
            f"TensorRT can't take this model as it is quantised: {'; '.join(found[:3])}.",
            hint="Quantise with symmetric int8, per-channel weights on their output axis, and float biases.",
        )
    full = typed.to_half(model) if precision.fp16 is Fp16Meaning.COMPUTE else {}
    save(model, out / MODEL)
    options: dict[str, Any] = {
        "precision": precision.kind,
        "expected": typed.expected_precisions(model),
        "profiles": profiles(contract),
    }
    verdict = gate(out / MODEL, DEVICE_FILE, options)
    report = {"gate": verdict.label, "biases_in_float": biases, "kept_float32": full}
    (out / "gate.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if verdict.accepted is False:
        raise ModelError(f"The model is {verdict.label}.", hint="keep_float leaves the node that it names out of int8.")
    return options, verdict.label


def profiles(contract: Contract) -> dict[str, list[list[int]]]:
    """Return the least, best and largest shape of every input with a dynamic axis; empty where all are static."""

    def size(axis: int | str, which: int) -> int:
        return axis if isinstance(axis, int) else (BATCH_RANGE if axis == BATCH_AXIS else AXIS_RANGE)[which]

    return {
        spec.name: [[size(axis, which) for axis in spec.shape] for which in range(3)]
        for spec in (*contract.inputs, *contract.state_specs)
        if any(isinstance(axis, str) for axis in spec.shape)
    }
