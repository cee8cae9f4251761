"""What every backend promises: see ``edgebuild.backends.protocol``."""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING, Any

from edgebuild.backends.protocol import Backend, CompileRequest, check_settings
from edgebuild.core.artifact import Contract, Precision, StateLink, TensorSpec
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.measurement import Launch, Layer, Memory
from edgebuild.core.steps import NoProgress, Step, StepContext, never_stop
from edgebuild.core.values import digest_file
from edgebuild.devices.answers import outputs_of
from edgebuild.devices.bundle import PACKAGE_FILE
from edgebuild.devices.client import RunnerClient
from edgebuild.testing import require

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.devices.transport import Device

TOLERANCE = 1e-4
LIMIT_S = 120.0
FRAMES = 7

#: y = relu(x·w) in batches of 3, and a running sum: s' = s + x, z = s'·w.
STATELESS = Contract(
    inputs=(TensorSpec(name="x", shape=(3, 4), dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=(3, 5), dtype="float32"),),
)
STATEFUL = Contract(
    inputs=(TensorSpec(name="x", shape=(1, 4), dtype="float32"),),
    outputs=(TensorSpec(name="z", shape=(1, 5), dtype="float32"),),
    state=(StateLink(input="s", output="s_next"),),
    state_specs=(TensorSpec(name="s", shape=(1, 4), dtype="float32"),),
)


def check_backend(backend: Backend, device: Device, scratch: Path) -> None:
    """Raise ``ContractBroken`` for the first promise that ``backend`` breaks on ``device``. Takes some seconds.

    Its runtime must be installed here and on the device.
    """
    require(isinstance(backend, Backend), "a backend has every name of the protocol")
    _check_device_file(backend)
    _check_settings(backend)
    client = RunnerClient(device, {backend.name: backend.device_file})
    version = client.call("probe", {}, time_limit_s=LIMIT_S)["runtime"][backend.name]
    require(version != "unknown", "version() names the installed runtime")
    weights = _weights()
    data = _data(scratch)
    folder = _compiled(backend, client, scratch, "stateless", STATELESS, _stateless(weights))
    request = {"artifact": folder, "inputs": client.put_folder(data)}
    _check_evaluation(client, request, scratch, STATELESS, weights)
    _check_answers(client, request, backend)
    folder = _compiled(backend, client, scratch, "stateful", STATEFUL, _stateful(weights))
    _check_evaluation(client, {**request, "artifact": folder}, scratch, STATEFUL, weights)


def _check_device_file(backend: Backend) -> None:
    entry = backend.device_file
    files = sorted(entry.parent.glob("*.py")) if entry.name == PACKAGE_FILE else [entry]
    trees = {path: ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8)) for path in files}
    for tree in trees.values():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            require(not any(n.split(".")[0] == "edgebuild" for n in names), "device.py imports nothing of edgebuild")
            heavy = [n for n in names if n.split(".")[0] not in sys.stdlib_module_names]
            require(node not in tree.body or not heavy, "device.py imports its runtime inside functions only")
    body = trees[entry].body
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    require({"version", "load_runtime", "Session", "layers"} <= defined, "device.py defines the four names")


def _check_settings(backend: Backend) -> None:
    for cores in (1, 2, 64):
        check_settings(backend, backend.default_settings(cores))
    require(all(spec.meaning for spec in backend.settings), "every setting says what it means")
    refusal = backend.refuse(Precision(kind="fp32"), {f"runtime.{backend.name}": "unknown"})
    require(bool(refusal), "a device without the runtime is refused")
    require(backend.refuse(Precision(kind="fp32"), {}) is None, "an unknown fact refuses nothing")
    require(bool(backend.install_hint), "there is a hint how to install the runtime")
    require(
        isinstance(backend.distributions, tuple) and all(isinstance(name, str) for name in backend.distributions),
        "distributions is a tuple of names, empty where the runtime doesn't come as wheels",
    )


def _compiled(
    backend: Backend, client: RunnerClient, scratch: Path, name: str, contract: Contract, model: bytes
) -> str:
    source = scratch / f"{name}-model"
    source.mkdir()
    (source / "model.onnx").write_bytes(model)
    step = backend.compile_step(CompileRequest(precision=Precision(kind="fp32"), contract=contract, on_device=True))
    require(isinstance(step, Step), "compile_step returns a step")
    artifacts = []
    for turn in ("a", "b"):
        out = scratch / f"{name}-{turn}"
        out.mkdir()
        ctx = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=scratch, device=client)
        step.run({"model": source}, out, ctx)
        artifact = read_artifact(out)
        require(artifact.backend == backend.name, "the artifact names its backend")
        require(
            all(digest_file(out / file.path) == file.sha256 for file in artifact.files)
            and artifact.entry in {file.path for file in artifact.files},
            "the artifact lists its files with their digests, the entry among them",
        )
        artifacts.append(artifact)
    require(artifacts[0] == artifacts[1], "compiling twice gives the same bytes")
    return client.put_folder(scratch / f"{name}-a")


def _check_evaluation(
    client: RunnerClient, request: dict[str, Any], scratch: Path, contract: Contract, weights: NDArray[Any]
) -> None:
    import numpy as np

    name = contract.outputs[0].name
    with client.workspace() as remote:
        answer = client.call("evaluate", {**request, "outputs": remote}, time_limit_s=LIMIT_S)
        client.fetch(remote, outputs_of(answer), scratch)
    got = np.load(scratch / f"{name}.npy")
    x = np.load(scratch / "data" / "x.npy")
    lengths = np.load(scratch / "data" / "lengths.npy")
    if contract.state:
        sums = np.concatenate([np.cumsum(part, axis=0) for part in np.split(x, np.cumsum(lengths)[:-1])])
        want = sums @ weights
    else:
        want = np.maximum(x @ weights, 0.0)
    require(got.shape == want.shape and got.dtype == np.float32, "one output per frame, padding dropped")
    require(
        bool(np.abs(got - want).max() < TOLERANCE), "outputs are those of the model, batch by batch, state fed back"
    )


def _check_answers(client: RunnerClient, request: dict[str, Any], backend: Backend) -> None:
    settings = dict(backend.default_settings(1))
    with client.workspace() as remote:
        quick = {"out": remote, "warmup_min_s": 0.05, "warmup_cap_s": 0.2, "sample_s": 0.05, "settings": settings}
        answer = client.call("measure", {**request, **quick}, time_limit_s=LIMIT_S)
    launch = Launch.model_validate({**answer, "index": 0, "arm": "contract"})
    require(launch.count >= 1 and launch.median_ns > 0, "a launch has samples")
    with client.workspace() as remote:
        answer = client.call("throughput", {**request, **quick, "out": remote}, time_limit_s=LIMIT_S)
    flight = Launch.model_validate({**answer, "index": 0, "arm": "contract"})
    require(bool(flight.per_s and flight.per_s > 0 and flight.requests), "a throughput launch says its rate")
    offered = "class Flight" in backend.device_file.read_text(encoding="utf-8")
    require(flight.concurrent is offered, "requests are in flight side by side where device.py has a Flight")
    require(flight.requests == 1 or offered, "without a Flight one request is in flight")
    memory = Memory.model_validate(client.call("memory", {**request, "seconds": 0.1}, time_limit_s=LIMIT_S))
    require(memory.peak_bytes >= memory.baseline_bytes > 0, "memory peaks are above the baseline")
    layers = client.call("layers", request, time_limit_s=LIMIT_S)["layers"]
    require(
        bool(layers) and all(Layer.model_validate(layer).precision for layer in layers), "layers say their precision"
    )


def _weights() -> NDArray[Any]:
    import numpy as np

    return np.linspace(-1.0, 1.0, 20, dtype=np.float32).reshape(4, 5)


def _data(scratch: Path) -> Path:
    import numpy as np

    folder = scratch / "data"
    folder.mkdir()
    np.save(folder / "x.npy", np.random.RandomState(0).standard_normal((FRAMES, 4)).astype(np.float32))
    np.save(folder / "lengths.npy", np.array([3, 1, 3], dtype=np.int64))
    return folder


def _stateless(weights: NDArray[Any]) -> bytes:
    from onnx import helper

    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    return _model(nodes, {"x": (3, 4)}, {"y": (3, 5)}, weights)


def _stateful(weights: NDArray[Any]) -> bytes:
    from onnx import helper

    nodes = [helper.make_node("Add", ["s", "x"], ["s_next"]), helper.make_node("MatMul", ["s_next", "w"], ["z"])]
    return _model(nodes, {"x": (1, 4), "s": (1, 4)}, {"z": (1, 5), "s_next": (1, 4)}, weights)


def _model(
    nodes: list[Any], inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]], weights: NDArray[Any]
) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    from edgebuild.models import onnx_graphs

    def values(specs: dict[str, tuple[int, ...]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in specs.items()]

    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx_graphs.serialised(model)
