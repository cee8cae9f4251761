"""onnxruntime's dynamic quantisation: weights in 8 bits; the range of what they multiply is found at each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgebuild.core.artifact import Int8Scheme
from edgebuild.core.steps import RunsOn, Step
from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.steps import StepContext
    from edgebuild.quantisers.own.graph import Graph

#: How the names of what the library adds end.
MADE_UP = ("_scale", "_zero_point", "_quantized")
#: What has a dynamic 8-bit kernel that is worth it: onnxruntime's ConvInteger is slower than a float convolution.
OPERATORS = ("Gather", "Gemm", "LSTM", "MatMul")


class QuantiseDynamically(Step):
    """Writes what ``onnxruntime.quantization.quantize_dynamic`` makes of products, LSTMs and tables.

    Weights have a scale per channel. No calibration data are needed. Input: ``model`` (a folder with ``model.onnx``).
    Raises ``ModelError`` with its reason where it can't quantise the model.
    """

    scheme: Int8Scheme
    keep_float: tuple[str, ...] = ()
    kind: ClassVar[str] = "ort-quantise-dynamically"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """Quantise the model."""
        from edgebuild.models.onnx_files import load_onnx
        from edgebuild.models.onnx_graphs import save, settle
        from edgebuild.quantisers.onnxruntime import kept_nodes, library, quiet
        from edgebuild.quantisers.own.graph import Graph, raised

        quantization = library()
        source, target = ctx.scratch / "raised.onnx", out_dir / "model.onnx"
        graph = Graph(raised(load_onnx(inputs["model"] / "model.onnx")))
        _rename(graph)
        save(graph.model, source)
        with ctx.progress.task("Quantising dynamically with onnxruntime"), quiet():
            try:
                quantization.quantize_dynamic(
                    str(source),
                    str(target),
                    op_types_to_quantize=list(OPERATORS),
                    per_channel=self.scheme.per_channel,
                    reduce_range=self.scheme.reduce_range,
                    weight_type=quantization.QuantType.QInt8,
                    nodes_to_exclude=kept_nodes(source, self.keep_float),
                    # Products of two activations stay float.
                    extra_options={"MatMulConstBOnly": True},
                )
            except Exception as error:
                ctx.check()
                raise ModelError(
                    f"onnxruntime's dynamic quantiser failed: {type(error).__name__}: "
                    f"{(str(error).splitlines() or [''])[0][:300]}",
                    hint="This candidate is left out; the others don't depend on it.",
                ) from error
        settle(target, writer="onnxruntime's quantiser")
        _require_dynamic(target)


def _rename(graph: Graph) -> None:
    """Give nodes names, and values other ones than the library makes up without looking: it would mix them up."""
    from edgebuild.models.onnx_graphs import Names

    for node, name in zip(graph.nodes, graph.names, strict=True):
        node.name = name
    names = Names(graph.model)
    values = [*graph.constants, *graph.producer]
    others = {v: names.value(f"{v}_given") for v in values if v.endswith(MADE_UP) and v not in graph.outputs}
    for tensor in graph.model.graph.initializer:
        tensor.name = others.get(tensor.name, tensor.name)
    for node in graph.nodes:
        node.input[:] = [others.get(name, name) for name in node.input]
        node.output[:] = [others.get(name, name) for name in node.output]


def _require_dynamic(path: Path) -> None:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    if not any(node.op_type in {"DynamicQuantizeLSTM", "MatMulInteger"} for node in model.graph.node):
        raise ModelError(
            "onnxruntime's dynamic quantiser found nothing to quantise in the model.",
            hint="It takes matrix products and LSTMs whose weights are constants of the main graph.",
        )
