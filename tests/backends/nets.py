"""Small real ONNX files, data folders, and the way to run them: through the real runner, in a fresh process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgebuild.backends.protocol import CompileRequest
from edgebuild.backends.table import backends
from edgebuild.core.artifact import Artifact, Contract, Fp16Meaning, Precision, TensorSpec
from edgebuild.core.artifact_files import MANIFEST, NOTES, list_files, read_artifact, write_manifest
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.devices.answers import outputs_of
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.backends.protocol import Backend

FP32 = Precision(kind="fp32")
FP16 = Precision(kind="fp16", fp16=Fp16Meaning.STORAGE)
LIMIT_S = 120.0


def conv_net(*, batch: int = 1, channels: int = 8, seed: int = 0) -> tuple[Any, Contract]:
    """Two convolutions, a mean over the image, and a dense layer to ten classes; input ``image``, output ``logits``."""
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.standard_normal((channels, 3, 3, 3)) * 0.3,
        "w2": random.standard_normal((channels, channels, 3, 3)) * 0.2,
        "w3": random.standard_normal((channels, 10)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("ReduceMean", ["r2"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "w3"], ["logits"], name="dense"),
    ]
    contract = Contract(
        inputs=(TensorSpec(name="image", shape=(batch, 3, 16, 16), dtype="float32"),),
        outputs=(TensorSpec(name="logits", shape=(batch, 10), dtype="float32"),),
    )
    return model(nodes, contract, weights), contract


def model(
    nodes: list[Any], contract: Contract, weights: Mapping[str, NDArray[Any]], *, domains: tuple[str, ...] = ()
) -> Any:
    """Return an ONNX model for a contract of float inputs; states are inputs and outputs of it."""
    states = [(link, spec) for link, spec in zip(contract.state, contract.state_specs, strict=True)]
    inputs = [(spec.name, spec.shape) for spec in (*contract.inputs, *contract.state_specs)]
    outputs = [(spec.name, spec.shape) for spec in contract.outputs] + [(k.output, s.shape) for k, s in states]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 13), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def images(count: int, *, seed: int = 1) -> dict[str, NDArray[Any]]:
    """Return random images for ``conv_net``."""
    return {"image": np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)}


def data_folder(folder: Path, arrays: Mapping[str, NDArray[Any]], lengths: list[int] | None = None) -> Path:
    """Write a data folder."""
    folder.mkdir(parents=True)
    frames = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "lengths.npy", np.array(lengths or [1] * frames, dtype=np.int64))
    return folder


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A local device with both backends in its runner."""

    root: Path
    client: RunnerClient
    backends: Mapping[str, Backend]

    @classmethod
    def open(cls, root: Path) -> Bench:
        table = backends(())
        files = {name: backend.device_file for name, backend in table.items()}
        client = RunnerClient(LocalDevice(root / "device"), files, native_libraries=True)
        return cls(root=root, client=client, backends=table)

    def compile(
        self,
        backend: str,
        net: Any,
        contract: Contract,
        *,
        precision: Precision = FP32,
        name: str = "net",
        **options: Any,
    ) -> Path:
        """Compile a model and return the artifact's folder."""
        source, out = self.root / f"{name}-{backend}-source", self.root / f"{name}-{backend}"
        source.mkdir()
        out.mkdir()
        data = net if isinstance(net, bytes) else net.SerializeToString()
        (source / "model.onnx").write_bytes(data)
        options.setdefault("on_device", True)
        step = self.backends[backend].compile_step(CompileRequest(precision=precision, contract=contract, **options))
        ctx = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=self.root, device=self.client)
        step.run({"model": source}, out, ctx)
        return out

    def call(self, op: str, artifact: Path, data: Path, **request: Any) -> dict[str, Any]:
        """Run an operation on an artifact."""
        where = {"artifact": self.client.put_folder(artifact), "inputs": self.client.put_folder(data)}
        return self.client.call(op, {**where, **request}, time_limit_s=LIMIT_S)

    def evaluate(self, artifact: Path, data: Path, **request: Any) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Evaluate an artifact and return its outputs and what the runner says of them."""
        out = self.root / f"outputs-{artifact.name}-{data.name}"
        out.mkdir(exist_ok=True)
        with self.client.workspace() as remote:
            answer = self.call("evaluate", artifact, data, outputs=remote, **request)
            self.client.fetch(remote, outputs_of(answer), out)
        return {output["name"]: np.load(out / output["file"]) for output in answer["outputs"]}, answer


def manifest(folder: Path) -> Artifact:
    """Return an artifact's manifest."""
    return read_artifact(folder)


def relist(folder: Path) -> None:
    """Let an artifact's manifest list the files as they are now."""
    files = tuple(file for file in list_files(folder) if file.path not in (MANIFEST, NOTES))
    write_manifest(folder, read_artifact(folder).model_copy(update={"files": files}))
