"""Moves the weights of ONNX files that shrink there into a weights file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.backends.packing import MOST, pack
from edgebuild.core.steps import RunsOn, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.backends.packing import Taken
    from edgebuild.core.artifact import Artifact
    from edgebuild.core.steps import StepContext

#: Where the model says that its weights lie: no file, so that a program which doesn't decode them can't load it.
ELSEWHERE = "decode-weights.ebw"
#: Smaller tensors stay in the model: a runtime may need them to work out shapes.
LEAST_BYTES = 1024


class PackOnnx(Step):
    """Inputs: ``artifact``, compiled for ONNX Runtime. Writes the same one, with weights files where they pay."""

    kind: ClassVar[str] = "onnxruntime-pack"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        pack(inputs["artifact"], out_dir, _take, ctx.check)


def _take(folder: Path, artifact: Artifact, check: Callable[[], None]) -> Taken:
    """Leave the initializers that shrink out of the model and return them by name."""
    import onnx

    from edgebuild.models.onnx_graphs import save

    entry = folder / artifact.entry
    model = onnx.load(str(entry), load_external_data=False)
    given = {value.name for value in model.graph.input}
    taken = {}
    for tensor in model.graph.initializer:
        check()
        found = None if tensor.name in given else _shrunk(tensor)
        if found is not None:
            taken[tensor.name] = found
            _leave_out(tensor)
    save(model, entry)
    return taken


def _shrunk(tensor: Any) -> tuple[NDArray[Any], bytes] | None:
    """Return the value of a tensor that a weights file makes clearly smaller, and what becomes of it there."""
    import onnx

    from edgebuild.devices.runner.weights_file import DTYPES
    from edgebuild.models.weights_file import encoded

    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    value: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    if value.nbytes < LEAST_BYTES or value.dtype.str not in DTYPES:
        return None
    content = encoded(tensor.name, value)
    return (value, content) if len(content) <= MOST * value.nbytes else None


def _leave_out(tensor: Any) -> None:
    """Take the numbers out of a tensor of the model, which keeps its name, type and shape."""
    import onnx

    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(name)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    place = tensor.external_data.add()
    place.key, place.value = "location", ELSEWHERE
