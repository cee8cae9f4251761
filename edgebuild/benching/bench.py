"""Measures any model on this machine, no project needed: an ONNX file, an OpenVINO IR, or a finished artifact."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.backends.protocol import CompileRequest
from edgebuild.benching.foreign import read_foreign
from edgebuild.core.artifact import Artifact, Contract, FileEntry, Precision, TensorSpec
from edgebuild.core.artifact_files import read_artifact, write_manifest
from edgebuild.core.data import Sample
from edgebuild.core.files import cache_home
from edgebuild.core.steps import NoProgress, RunsOn, Step, StepContext
from edgebuild.core.values import digest_file
from edgebuild.devices.hold import clocks_as_asked, holding
from edgebuild.devices.local import local_device
from edgebuild.devices.messages import whole_number
from edgebuild.devices.probe import configuration_of, kernels_of, platform_of
from edgebuild.errors import EnvironmentGap, UsageError
from edgebuild.fleet.inventory import entry_of
from edgebuild.fleet.provider import InventoryProvider, attached
from edgebuild.measuring import session, side, statistics
from edgebuild.measuring.anchor import anchor_arm
from edgebuild.measuring.protocols import CERTIFY, SCREEN
from edgebuild.measuring.samples import samples_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from edgebuild.backends.protocol import Backend
    from edgebuild.core.artifact import Setting
    from edgebuild.core.measurement import Comparison, Energy, Fact, LatencySummary, Layer, Memory
    from edgebuild.core.steps import Progress
    from edgebuild.devices.client import RunnerClient
    from edgebuild.devices.transport import Device
    from edgebuild.execution.executor import Executor
    from edgebuild.fleet.provider import DeviceProvider
    from edgebuild.measuring.session import Arm, MeasurementContext

#: Distinct random inputs that are rotated.
INPUTS = 32


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure, and on which ``device`` of the inventory (this machine without).

    ``shape`` gives sizes of dynamic axes (1 without). ``native_libraries`` allows artifacts to bring native code.
    """

    model: Path
    against: Path | None = None
    backend: str | None = None
    shape: Mapping[str, int] = field(default_factory=dict)
    threads: int | None = None
    quick: bool = False
    device: str | None = None
    native_libraries: bool = False


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """What was measured of one model. ``artifact_digest`` is of what ran, its settings included."""

    model: str
    artifact_digest: str
    backend: str
    settings: tuple[tuple[str, Setting], ...]
    size_bytes: int
    summary: LatencySummary
    memory: Memory
    energy: Energy | None
    layers: tuple[Layer, ...]


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """One or two results of one session; ``comparison`` holds the first against the second.

    ``anchor_ms`` are the medians of the anchor's launches, in their order.
    """

    results: tuple[BenchResult, ...]
    comparison: Comparison | None
    protocol: str
    device: str
    folder: Path
    anchor_ms: tuple[float, ...]
    configuration: tuple[Fact, ...]


class RandomInputs(Step):
    """Writes seeded random inputs: normal for floats, 0 and 1 for integers, which every vocabulary has."""

    specs: tuple[TensorSpec, ...]
    kind: ClassVar[str] = "random-inputs"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("numpy",)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``; takes no inputs."""
        del inputs
        from edgebuild.models.dataset import write_dataset

        write_dataset(
            self._samples(ctx.seed),
            out_dir,
            specs=self.specs,
            stateful=False,
            source="random inputs",
            task=NoProgress(),
            check=ctx.check,
        )

    def _samples(self, seed: int) -> Iterator[Sample]:
        import numpy as np

        generator = np.random.default_rng(seed)
        for _ in range(INPUTS):
            yield Sample(inputs={spec.name: self._array(spec, generator) for spec in self.specs})

    def _array(self, spec: TensorSpec, generator: Any) -> Any:
        sizes = [size if isinstance(size, int) else 1 for size in spec.shape[1:]]
        if spec.dtype.startswith("float"):
            return generator.standard_normal(sizes).astype(spec.dtype)
        return generator.integers(0, 2, sizes).astype(spec.dtype)


@dataclass(frozen=True, kw_only=True)
class BenchContext:
    """What a bench stands on."""

    executor: Executor
    client: RunnerClient
    backends: Mapping[str, Backend]
    cores: int


def run_bench(
    request: BenchRequest,
    *,
    progress: Progress,
    check: Callable[[], None],
    devices: DeviceProvider | None = None,
) -> BenchReport:
    """Measure under the certify protocol (screen with ``quick``); two models are interleaved in one session.

    Raises ``UsageError`` for what isn't a model, ``ModelError`` for one that can't be read, ``DeviceError``.
    """
    from edgebuild.backends.table import backends
    from edgebuild.execution.executor import Executor
    from edgebuild.execution.store import Store

    home, table, native = cache_home() / "bench", backends(), request.native_libraries
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(attached(local_device(home), table, native_libraries=native))
        isa, pin = kernels_of(at.probe), False
        if request.device is not None:
            device, pin = _connected(request.device, devices or InventoryProvider(), stack)
            at = stack.enter_context(attached(device, table, native_libraries=native))
        executor = Executor(
            store=stack.enter_context(Store.open(home / "store", quota_bytes=2_000_000_000)),
            progress=progress,
            check=check,
            seed=0,
            isa=isa,
            device_configuration=platform_of(at.client, at.probe),
            device=at.client,
            hold=holding(at.client, progress, check),
            project="bench",
        )
        cores = whole_number(at.probe.get("cores", "")) or 1
        arms = _arms(request, BenchContext(executor=executor, client=at.client, backends=table, cores=cores))
        stack.enter_context(holding(at.client, progress, check)("bench", False))
        probe = stack.enter_context(clocks_as_asked(at.client, at.probe, pin=pin, check=check))
        bench = session.MeasurementContext(
            client=at.client,
            root=home / "measurements",
            progress=progress,
            check=check,
            configuration=configuration_of(probe),
            remeasure=True,
            anchor=anchor_arm(table, executor),
        )
        return _measure(bench, arms, request)


def _connected(name: str, devices: DeviceProvider, stack: contextlib.ExitStack) -> tuple[Device, bool]:
    """Return the device of this name, which can be timed, and whether its clocks are to be pinned."""
    entry = entry_of(name, devices.entries())
    device = devices.connect(entry)
    stack.callback(device.close)
    device.capabilities.require_clock(device.id)
    return device, entry.pin_clocks


def _arms(request: BenchRequest, ground: BenchContext) -> list[Arm]:
    arms = [_arm(path, request, ground) for path in (request.model, request.against) if path is not None]
    if len({arm.id for arm in arms}) < len(arms):
        raise UsageError("--against names the very same model.", hint="Name another one.")
    return arms


def _measure(bench: MeasurementContext, arms: list[Arm], request: BenchRequest) -> BenchReport:
    protocol = SCREEN if request.quick else CERTIFY
    measured = session.measure(bench, protocol, arms, title="Measuring")
    results = []
    for arm in arms:
        launches = measured.measurements[arm.id].launches
        results.append(
            BenchResult(
                model=arm.id,
                artifact_digest=arm.artifact.digest(),
                backend=arm.artifact.backend,
                settings=arm.artifact.settings,
                size_bytes=arm.artifact.size_bytes,
                summary=statistics.summarise(
                    launches, samples_reader(measured.folder.path), batch=arm.artifact.contract.batch
                ),
                memory=side.measure_memory(bench, measured.folder, arm),
                energy=side.measure_energy(bench, measured.folder, arm),
                layers=side.read_layers(bench, measured.folder, arm),
            )
        )
    comparison = session.compare_arms(measured, arms[0].id, arms[1].id) if len(arms) > 1 else None
    return BenchReport(
        results=tuple(results),
        comparison=comparison,
        protocol=protocol.name,
        device=bench.client.device.id,
        folder=measured.folder.path,
        anchor_ms=measured.anchor_ms,
        configuration=bench.configuration,
    )


def _arm(path: Path, request: BenchRequest, ground: BenchContext) -> Arm:
    if path.is_dir() and (path / "artifact.json").is_file():
        artifact, folder = read_foreign(path, ground.backends, native_libraries=request.native_libraries), path
    elif path.suffix == ".onnx":
        artifact, folder = _compile_onnx(path, request, ground)
    elif path.suffix == ".xml":
        artifact, folder = _wrap_ir(path, request, ground)
    else:
        raise UsageError(
            f"{path} is neither an .onnx file, nor an OpenVINO .xml, nor a folder with an artifact.json.",
            hint="Name one of these; a finished build's lies in .edgebuild/builds/…/artifact.",
        )
    if artifact.stages:
        raise UsageError(
            f"{path} may end early: what it takes depends on its inputs, and a bench feeds random ones.",
            hint="A build measures it on validation data, in their natural mix.",
        )
    if request.threads is not None:
        settings = dict(artifact.settings) | {"threads": request.threads}
        artifact = artifact.with_settings(tuple(settings.items()))
    data = ground.executor.run(RandomInputs(specs=artifact.contract.inputs), {}, label="random inputs")
    return session.Arm(
        id=str(path), artifact=artifact, folder=folder, inputs=data.path, inputs_digest=data.entry.digest, keep=True
    )


def _backend(name: str, ground: BenchContext) -> Backend:
    from edgebuild.catalogue.tables import unknown

    if name not in ground.backends:
        raise UsageError(f"--backend: {unknown('backend', name, ground.backends)}")
    backend = ground.backends[name]
    if backend.installed() is None:
        raise EnvironmentGap(f"{name} is not installed.", hint=backend.install_hint)
    return backend


def _compile_onnx(path: Path, request: BenchRequest, ground: BenchContext) -> tuple[Artifact, Path]:
    from edgebuild.execution.executor import external_input
    from edgebuild.models.onnx_files import import_inputs, load_onnx, read_facts
    from edgebuild.models.steps import FreezeShapes, ImportOnnx

    facts = read_facts(load_onnx(path))
    if facts.unranked:
        raise UsageError(
            f"{path} doesn't say the shape of its input {facts.unranked[0]!r}.",
            hint="`edgebuild init` starts a project, in which it can be given.",
        )
    sizes = {name: request.shape.get(name, 1) for spec in facts.inputs for name in spec.shape if isinstance(name, str)}
    wrong = sorted(set(request.shape) - set(sizes))
    if wrong:
        raise UsageError(
            f"--shape: {path} has no dynamic axis {wrong[0]!r}.", hint=f"It has: {', '.join(sizes) or '-'}"
        )
    shapes = tuple(
        (spec.name, tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape))
        for spec in facts.inputs
    )
    executor = ground.executor
    read = {name: external_input(file) for name, file in import_inputs(path).items()}
    imported = executor.run(ImportOnnx(), read, label=f"import {path.name}")
    frozen = executor.run(FreezeShapes(shapes=shapes), {"model": imported.entry}, label=f"freeze {path.name}")
    backend = _backend(request.backend or "onnxruntime", ground)
    contract = Contract.model_validate_json((frozen.path / "contract.json").read_bytes())
    step = backend.compile_step(CompileRequest(precision=Precision(kind="fp32"), contract=contract, on_device=True))
    compiled = executor.run(step, {"model": frozen.entry}, label=f"compile {path.name}")
    return _with_defaults(read_artifact(compiled.path), backend, ground), compiled.path


def _with_defaults(artifact: Artifact, backend: Backend, ground: BenchContext) -> Artifact:
    return artifact.with_settings(tuple(backend.default_settings(ground.cores)))


def _wrap_ir(path: Path, request: BenchRequest, ground: BenchContext) -> tuple[Artifact, Path]:
    """Make an artifact of an OpenVINO IR as it is; dynamic axes are refused, since its shape is what ships."""
    import shutil

    backend = _backend("openvino", ground)
    if request.backend not in {None, "openvino"}:
        raise UsageError(f"{path} is an OpenVINO IR: it runs in openvino only.", hint="Leave --backend out.")
    from edgebuild.backends.ov.host import import_openvino

    openvino = import_openvino()
    try:
        model = openvino.Core().read_model(str(path))
    except RuntimeError as error:
        raise UsageError(f"{path} can't be read as OpenVINO IR: {str(error).splitlines()[0]}") from error
    if model.is_dynamic():
        raise UsageError(f"{path} has dynamic shapes.", hint="Reshape it to the shape that ships, and save it again.")
    contract = Contract(
        inputs=tuple(_port_spec(port) for port in model.inputs), outputs=tuple(_port_spec(p) for p in model.outputs)
    )
    folder = cache_home() / "bench" / "ir" / digest_file(path)[:16]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = [path, *([weights] if (weights := path.with_suffix(".bin")).is_file() else [])]
    for file in files:
        shutil.copyfile(file, folder / f"model{file.suffix}")
    entries = tuple(
        FileEntry(path=f"model{f.suffix}", sha256=digest_file(f), size_bytes=f.stat().st_size) for f in files
    )
    artifact = Artifact(
        backend="openvino", entry="model.xml", files=entries, contract=contract, precision=Precision(kind="fp32")
    )
    artifact = _with_defaults(artifact, backend, ground)
    write_manifest(folder, artifact)
    return artifact, folder


def _port_spec(port: Any) -> TensorSpec:
    return TensorSpec(
        name=port.get_any_name(), shape=tuple(port.get_shape()), dtype=port.get_element_type().to_dtype().name
    )
