"""The anchor: one small fixed model, measured in every session, so that a device that drifted shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.backends.protocol import CompileRequest
from edgebuild.core.artifact import Contract, Precision, TensorSpec
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.data import Sample
from edgebuild.core.steps import RunsOn, Step, StepContext
from edgebuild.measuring.session import ANCHOR, Arm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from edgebuild.backends.protocol import Backend
    from edgebuild.execution.executor import Executor

_SIZE = 32
_CHANNELS = 16
_SPEC = TensorSpec(name="x", shape=(1, 3, _SIZE, _SIZE), dtype="float32")
_CONTRACT = Contract(
    inputs=(_SPEC,), outputs=(TensorSpec(name="y", shape=(1, _CHANNELS, _SIZE, _SIZE), dtype="float32"),)
)


class AnchorModel(Step):
    """Writes the anchor's ``model.onnx``; the same bytes for ever, or ``version`` is raised."""

    kind: ClassVar[str] = "anchor-model"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``; takes no inputs."""
        del inputs, ctx
        from onnx import TensorProto, helper

        from edgebuild.models.onnx_graphs import save

        nodes = [
            helper.make_node("Conv", ["x", "w0"], ["c0"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c0"], ["r0"]),
            helper.make_node("Conv", ["r0", "w1"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        ]
        graph = helper.make_graph(
            nodes,
            "anchor",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(_SPEC.shape))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, _CHANNELS, _SIZE, _SIZE])],
            [_weight("w0", (_CHANNELS, 3, 3, 3)), _weight("w1", (_CHANNELS, _CHANNELS, 3, 3))],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        save(model, out_dir / "model.onnx")


class AnchorData(Step):
    """Writes the anchor's inputs."""

    kind: ClassVar[str] = "anchor-data"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``; takes no inputs."""
        del inputs
        from edgebuild.core.steps import NoProgress
        from edgebuild.models.dataset import write_dataset

        write_dataset(
            _samples(), out_dir, specs=(_SPEC,), stateful=False, source="anchor", task=NoProgress(), check=ctx.check
        )


def _samples() -> Iterator[Sample]:
    for index in range(16):
        yield Sample(inputs={"x": _wave((3, _SIZE, _SIZE), index)})


def _wave(shape: tuple[int, ...], phase: int) -> Any:
    """Numbers in [-1, 1] that need no generator whose stream might change between versions."""
    import math

    import numpy as np

    steps = np.arange(math.prod(shape), dtype=np.float64)
    return np.sin(steps * 0.7 + phase).astype(np.float32).reshape(shape)


def _weight(name: str, shape: tuple[int, ...]) -> Any:
    import math

    import onnx

    return onnx.numpy_helper.from_array(_wave(shape, 1) / math.prod(shape[1:]) ** 0.5, name)


def anchor_arm(backends: Mapping[str, Backend], executor: Executor) -> Arm | None:
    """Return the anchor as an arm in the first installed backend, or None where there is none."""
    for name in sorted(backends):
        backend = backends[name]
        if backend.installed() is None:
            continue
        precision = Precision(kind="fp32")
        model = executor.run(AnchorModel(), {}, label="anchor model")
        data = executor.run(AnchorData(), {}, label="anchor data")
        step = backend.compile_step(CompileRequest(precision=precision, contract=_CONTRACT, on_device=True))
        compiled = executor.run(step, {"model": model.entry}, label="compile the anchor")
        artifact = read_artifact(compiled.path)
        return Arm(
            id=ANCHOR,
            artifact=artifact,
            folder=compiled.path,
            inputs=data.path,
            inputs_digest=data.entry.digest,
            keep=True,
        )
    return None
