"""ONNX Runtime on the host: an ONNX file, optimised by the device itself where that may be kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.backends.ort.fusions import float_products, harmful
from edgebuild.backends.protocol import SettingSpec, check_request, write_artifact, write_notes
from edgebuild.core.artifact import Contract, Fp16Meaning, Precision
from edgebuild.core.steps import RunsOn, Step
from edgebuild.core.values import digest_file
from edgebuild.devices.answers import files_of
from edgebuild.devices.client import client_of
from edgebuild.errors import DeviceError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.backends.protocol import CompileRequest, Settings
    from edgebuild.core.steps import StepContext

NAME = "onnxruntime"
MODEL = "model.onnx"
COMPILE_LIMIT_S = 1800.0


class OnnxRuntime:
    """The backend for ONNX Runtime's CPU kernels."""

    name = NAME
    device_file = Path(__file__).with_name("device.py")
    install_hint = "pip install 'edgebuild[onnxruntime]'"
    distributions = ("onnxruntime",)
    settings = (
        SettingSpec(name="threads", type=int, least=1, meaning="Threads that share one inference."),
        SettingSpec(
            name="spinning",
            type=bool,
            choices=(True, False),
            meaning="Whether idle threads wait busily for the next operator: quicker, and it takes the cores.",
        ),
        SettingSpec(
            name="arena",
            type=bool,
            choices=(True, False),
            meaning="Whether memory is kept between inferences: quicker, and the peak stays.",
        ),
        SettingSpec(
            name="requests",
            type=int,
            least=1,
            meaning="Requests in flight where throughput is measured; as many as fill the cores without it.",
        ),
    )

    def installed(self) -> str | None:
        """Return the installed version, or None."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("onnxruntime")
        except PackageNotFoundError:
            return None

    def default_settings(self, cores: int) -> Settings:
        """Return all cores, spinning, with an arena: the library's own defaults, said aloud."""
        return (("arena", True), ("spinning", True), ("threads", max(1, cores)))

    def refuse(self, precision: Precision, facts: Mapping[str, str]) -> str | None:
        """Refuse where the runtime is missing, and fp16 or bf16 arithmetic on CPUs that it has no kernels for."""
        if facts.get(f"runtime.{NAME}") == "unknown":
            return "onnxruntime is not installed on the device"
        isa = facts.get("isa", "unknown")
        if precision.fp16 is Fp16Meaning.COMPUTE and isa != "unknown" and "asimdhp" not in isa.split():
            return "ONNX Runtime computes in fp16 only on Arm CPUs with fp16 vectors (asimdhp)"
        if precision.kind == "bf16" and isa != "unknown" and "bf16" not in isa.split():
            return "ONNX Runtime computes in bf16 only on Arm CPUs with bf16 products (bf16)"
        return None

    def compile_step(self, request: CompileRequest) -> Step:
        """Return a step on the device where there is one and the optimised form may be kept, else a copy.

        Optimising folds stored weights back into fp32: such files stay as they are. A custom-op
        library is code: it is shipped, and loaded by the session, but not run while building.
        """
        check_request(self, request)
        precision, contract, libraries = request.precision, request.contract, request.libraries
        names = tuple((path.name, digest_file(path)) for path in libraries)
        if not request.on_device or libraries or precision.only_stored:
            return ShipOnnx(precision=precision, contract=contract, libraries=names, library_paths=libraries)
        return OptimizeOnnx(precision=precision, contract=contract)

    def pack_step(self) -> Step:
        """See ``Packing``: the runtime takes weights from memory since its version 1.12."""
        from edgebuild.backends.ort.pack import PackOnnx

        return PackOnnx()


class ShipOnnx(Step):
    """Ships the ONNX file as it is; the session optimises it when it loads."""

    precision: Precision
    contract: Contract
    libraries: tuple[tuple[str, str], ...] = ()
    library_paths: tuple[Path, ...] = ()
    #: Where they lie; their names and digests are in the key.
    unkeyed: ClassVar[frozenset[str]] = frozenset({"library_paths"})
    kind: ClassVar[str] = "onnxruntime-ship"
    version: ClassVar[int] = 4
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        ctx.check()
        disabled = ",".join(harmful(_read(inputs["model"] / MODEL, self.library_paths)))
        _copy_model(inputs["model"], out_dir)
        for path in self.library_paths:
            shutil.copyfile(path, out_dir / path.name)
        load: Settings = (("libraries", ",".join(p.name for p in self.library_paths)),) if self.library_paths else ()
        load += (("disabled", disabled),) if disabled else ()
        load += _arithmetic(self.precision)
        write_artifact(out_dir, backend=NAME, entry=MODEL, contract=self.contract, precision=self.precision, load=load)


class OptimizeOnnx(Step):
    """Lets the device optimise the file for its own CPU, fully, once; the session then only loads it."""

    precision: Precision
    contract: Contract
    kind: ClassVar[str] = "onnxruntime-optimize"
    version: ClassVar[int] = 4
    runs_on: ClassVar[RunsOn] = RunsOn.DEVICE
    tools: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        source = inputs["model"] / MODEL
        disabled = ",".join(harmful(_read(source, ())))
        optimized = False
        if not _external(source):
            client = client_of(ctx)
            with client.workspace() as remote:
                model = f"{client.put_folder(inputs['model'])}/{MODEL}"
                options = {"seed": ctx.seed, "disabled": disabled}
                answer = client.call(
                    "compile",
                    {"backend": NAME, "model": model, "out": remote, "options": options},
                    time_limit_s=COMPILE_LIMIT_S,
                    check=ctx.check,
                )
                optimized = answer.get("optimized") is True
                if optimized:
                    client.fetch(remote, files_of(answer, [MODEL], client.device.id), out_dir)
                    compiled = _require_same_interface(source, out_dir / MODEL, client.device.id)
                    write_notes(out_dir, _notes(float_products(compiled)))
        if not optimized:
            _copy_model(inputs["model"], out_dir)
        load: Settings = (("optimized", True),) if optimized else (("disabled", disabled),) if disabled else ()
        load += _arithmetic(self.precision)
        write_artifact(out_dir, backend=NAME, entry=MODEL, contract=self.contract, precision=self.precision, load=load)


def _arithmetic(precision: Precision) -> Settings:
    """Return what the session must be told of a precision.

    The file of bf16 is that of fp32. Weights that are only stored in 8 bits are made real once, when it loads: left
    alone, the runtime computes their products in 8 bits.
    """
    return {"bf16": (("bf16", True),), "int8-storage": (("unpack", True),)}.get(precision.kind, ())


def _notes(in_float: tuple[str, ...]) -> tuple[str, ...]:
    if not in_float:
        return ()
    named = ", ".join(in_float[:3]) + (", …" if len(in_float) > 3 else "")
    return (f"ONNX Runtime computes {len(in_float)} of the layers with 8-bit weights in float: {named}",)


def _require_same_interface(source: Path, compiled: Path, who: str) -> Any:
    """Return what a device made of a model.

    Raises ``DeviceError`` where that is no ONNX file with the same inputs and outputs.
    """
    import onnx
    from google.protobuf.message import DecodeError

    given = onnx.load(str(source), load_external_data=False)
    try:
        came = onnx.load(str(compiled), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise DeviceError(f"{who} sent back an optimised model that can't be read.", hint="Try again.") from error
    fed = {tensor.name for model in (given, came) for tensor in model.graph.initializer}
    for side in ("input", "output"):
        names = [{value.name for value in getattr(model.graph, side)} - fed for model in (given, came)]
        if names[0] != names[1]:
            raise DeviceError(f"{who} sent back an optimised model with other {side}s.", hint="Try again.")
    return came


def _external(model: Path) -> tuple[Path, ...]:
    from edgebuild.models.onnx_files import external_files

    return external_files(model)


def _copy_model(folder: Path, out_dir: Path) -> None:
    """Copy the model and the external data that it names; only what exceeds protobuf's 2 GB has any."""
    for path in (folder / MODEL, *_external(folder / MODEL)):
        target = out_dir / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _read(model: Path, libraries: tuple[Path, ...]) -> Any:
    """Return the model without its external data.

    Refuses operators that need a library which nobody named, before the runtime stumbles over the first of them.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from edgebuild.models.onnx_files import custom_domains, read_facts

    try:
        loaded = onnx.load(str(model), load_external_data=False)
        facts = read_facts(loaded)
    except (OSError, DecodeError, ValueError) as error:
        raise ModelError(f"Can't read {model}: {error}.", hint="Is it a complete ONNX file?") from error
    domains = custom_domains(facts)
    if domains and not libraries:
        raise ModelError(
            f"The model uses operators of {', '.join(domains)}, which ONNX Runtime doesn't have.",
            hint="Name the shared library that brings them, or export the model without them.",
        )
    return loaded
