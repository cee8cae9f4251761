"""int8 as storage: a quarter of the bytes on disk, the arithmetic stays fp32."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.core.artifact import Int8Scheme
from edgebuild.core.steps import RunsOn, Step
from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.steps import StepContext
    from edgebuild.quantisers.own.graph import Graph

#: Tensors smaller than this save less than the operator in front of them costs.
LEAST_ELEMENTS = 1024
#: Symmetric, a scale per channel: what every runtime reads.
SCHEME = Int8Scheme(activations="uint8")
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})


class Int8Storage(Step):
    """Writes ``model.onnx`` with weights as int8 codes, a scale per channel, and which these are (int8-storage.json).

    Weights are those of convolutions, matrix products, recurrent layers and tables, at the top level of the graph; in
    front of each stands a DequantizeLinear. Input: ``model`` (a folder with ``model.onnx``). Raises ``ModelError``
    where there is no such weight.
    """

    keep_float: tuple[str, ...] = ()
    kind: ClassVar[str] = "int8-storage"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """Convert the weights."""
        from edgebuild.models.onnx_files import load_onnx
        from edgebuild.models.onnx_graphs import save
        from edgebuild.quantisers.own.graph import Graph, raised

        with ctx.progress.task("Storing weights in int8"):
            graph = Graph(raised(load_onnx(inputs["model"] / "model.onnx")))
            stored = to_int8_storage(graph, self.keep_float)
            if not stored:
                raise ModelError(
                    "The model has no weights to store in int8.",
                    hint=f"It takes constant float32 weights of {LEAST_ELEMENTS} numbers or more.",
                )
            save(graph.model, out_dir / "model.onnx")
        (out_dir / "int8-storage.json").write_text(json.dumps({"stored": stored}, indent=1) + "\n")


def to_int8_storage(graph: Graph, keep_float: tuple[str, ...] = ()) -> list[str]:
    """Change the model of ``graph`` in place; return the tensors that are codes now."""
    from onnx import NodeProto, helper

    from edgebuild.models.onnx_graphs import Names
    from edgebuild.quantisers.own.graph import add_constant

    target, names = graph.model.graph, Names(graph.model)
    fed = {value.name for value in target.input}
    found = {
        name: axis
        for name in graph.constants
        if name not in fed and (axis := _axis(graph, name, keep_float)) is not None
    }
    reals: list[Any] = []
    for name, axis in found.items():
        codes, scale = _codes(graph.constant(name), axis)
        parts = [names.value(f"{name}_{part}") for part in ("quantized", "scale")]
        for part, value in zip(parts, (codes, scale), strict=True):
            add_constant(target, part, value)
        label = names.node(f"{name}_DequantizeLinear")
        reals.append(helper.make_node("DequantizeLinear", parts, [name], name=label, axis=axis))
    kept = [t for t in target.initializer if t.name not in found]
    copies = [type(t).FromString(t.SerializeToString()) for t in kept]
    del target.initializer[:]
    target.initializer.extend(copies)
    nodes = [*reals, *(NodeProto.FromString(node.SerializeToString()) for node in target.node)]
    del target.node[:]
    target.node.extend(nodes)
    return list(found)


def _codes(weight: NDArray[Any] | None, axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    import numpy as np

    from edgebuild.quantisers.own.arithmetic import encode, weight_scale

    assert weight is not None  # noqa: S101 - ``_axis`` looked
    scale = weight_scale(weight, axis, SCHEME)
    return encode(weight, scale, axis, SCHEME).codes.astype(np.int8), scale


def _axis(graph: Graph, name: str, keep_float: tuple[str, ...]) -> int | None:
    """Return along which axis a tensor has a scale each; None for what isn't only weights, or stays float."""
    import numpy as np

    value = graph.constant(name)
    if value is None or value.size < LEAST_ELEMENTS or name in graph.outputs or not np.isfinite(value).all():
        return None
    axes = {
        _axis_of(graph, index, slot, value.ndim, keep_float)
        for index in graph.consumers.get(name, ())
        for slot, read in enumerate(graph.nodes[index].input)
        if read == name
    }
    return axes.pop() if len(axes) == 1 else None


def _axis_of(graph: Graph, index: int, slot: int, ndim: int, keep_float: tuple[str, ...]) -> int | None:
    from edgebuild.quantisers.own.graph import attribute, is_kept

    node = graph.nodes[index]
    if is_kept(graph.names[index], node.op_type, keep_float):
        return None
    if slot == 0 and node.op_type == "Gather" and attribute(node, "axis", 0) == 0 and ndim == 2:
        return 0
    if node.op_type in RECURRENT and slot in {1, 2} and ndim == 3:
        return 1
    if slot != 1 or ndim < 2:
        return None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": ndim - 1}.get(node.op_type)
