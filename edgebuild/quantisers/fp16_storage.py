"""fp16 as storage: half the bytes on disk, the arithmetic stays fp32."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.core.steps import RunsOn, Step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.steps import StepContext

#: Largest finite float16 (IEEE 754-2019, binary16).
LARGEST_HALF = 65504.0
#: Tensors smaller than this gain less than the Cast next to them costs.
LEAST_ELEMENTS = 64
#: Root-mean-square error, relative to the tensor's own, beyond which it stays fp32: well above float16's 2**-11.
MOST_ERROR = 1e-3


class HalfStorage(Step):
    """Writes ``model.onnx`` with its float32 initialisers stored as float16 behind a Cast, and ``half.json`` on which.

    A tensor stays float32 where a value is beyond float16's range, or where so many are too small for it that the
    tensor's relative error exceeds ``MOST_ERROR``. Input: ``model`` (a folder with ``model.onnx``). Nothing in
    subgraphs is touched.
    """

    kind: ClassVar[str] = "half-storage"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """Convert the initialisers."""
        from edgebuild.models.onnx_files import load_onnx
        from edgebuild.models.onnx_graphs import save

        with ctx.progress.task("Storing weights in fp16"):
            model = load_onnx(inputs["model"] / "model.onnx")
            before = sum(f.stat().st_size for f in inputs["model"].glob("model.onnx*"))
            kept = to_half_storage(model)
            save(model, out_dir / "model.onnx")
        after = (out_dir / "model.onnx").stat().st_size
        report = {"kept_float32": kept, "file_bytes": {"before": before, "after": after}, "larger": after > before}
        (out_dir / "half.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


def to_half_storage(model: Any) -> dict[str, str]:
    """Change ``model`` in place; return the tensors that stay float32, with the reason for each."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgebuild.models.onnx_graphs import Names

    kept: dict[str, str] = {}
    casts: list[Any] = []
    names = Names(model)
    fed = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name in fed:
            continue
        values = numpy_helper.to_array(tensor)
        reason = why_not_half(values)
        if reason is not None:
            kept[tensor.name] = reason
            continue
        name, half = tensor.name, names.value(f"{tensor.name}_half")
        tensor.CopyFrom(numpy_helper.from_array(values.astype("float16"), half))
        casts.append(helper.make_node("Cast", [half], [name], name=names.node(f"{name}_Cast"), to=TensorProto.FLOAT))
    nodes = [*casts, *(onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return kept


def why_not_half(values: NDArray[Any]) -> str | None:
    """Return why a tensor must stay float32, or None."""
    import numpy as np

    if values.size < LEAST_ELEMENTS:
        return f"fewer than {LEAST_ELEMENTS} elements"
    largest = float(np.abs(values).max())
    if not largest <= LARGEST_HALF:
        return f"a value of magnitude {largest:g} is beyond fp16's {LARGEST_HALF:g}"
    error = float(np.sqrt(np.mean((values.astype(np.float16).astype(np.float64) - values) ** 2)))
    size = float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
    if error > MOST_ERROR * size:
        return f"values too small for fp16: relative error {error / size:.2g}"
    return None
