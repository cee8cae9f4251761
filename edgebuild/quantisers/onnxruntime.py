"""onnxruntime's own quantiser with its defaults: a candidate in the race, and a yardstick for ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.core.artifact import Contract, Int8Scheme
from edgebuild.core.steps import RunsOn, Step
from edgebuild.errors import EnvironmentGap, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.steps import StepContext


class OrtQuantise(Step):
    """Writes what ``onnxruntime.quantization.quantize_static`` makes of the model (QDQ, min/max) in the scheme's types.

    Inputs: ``model`` (a folder with ``model.onnx``), ``calibration`` (a data folder), ``library`` (custom operators,
    optional). Raises ``ModelError`` with its reason where it can't quantise the model.
    """

    scheme: Int8Scheme
    contract: Contract
    keep_float: tuple[str, ...] = ()
    samples: int = 300
    kind: ClassVar[str] = "ort-quantise"
    version: ClassVar[int] = 3
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """Quantise the model."""
        from edgebuild.models.onnx_files import load_onnx
        from edgebuild.models.onnx_graphs import save, settle
        from edgebuild.quantisers.calibration import all_frames, feeds, require_quantised
        from edgebuild.quantisers.own.graph import raised

        quantization = library()
        source, target = ctx.scratch / "raised.onnx", out_dir / "model.onnx"
        save(raised(load_onnx(inputs["model"] / "model.onnx")), source)
        frames = feeds(all_frames(inputs, self.contract, samples=self.samples, ctx=ctx), ctx)

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
            def get_next(self) -> dict[str, Any] | None:
                return next(frames, None)

        types = {"int8": quantization.QuantType.QInt8, "uint8": quantization.QuantType.QUInt8}
        with ctx.progress.task("Quantising with onnxruntime"), quiet():
            try:
                quantization.quantize_static(
                    str(source),
                    str(target),
                    Reader(),
                    activation_type=types[self.scheme.activations],
                    weight_type=types[self.scheme.weights],
                    per_channel=self.scheme.per_channel,
                    reduce_range=self.scheme.reduce_range,
                    nodes_to_exclude=kept_nodes(source, self.keep_float),
                    extra_options={"ActivationSymmetric": self.scheme.symmetric_activations},
                )
            except EnvironmentGap:
                raise
            except Exception as error:
                ctx.check()
                raise ModelError(
                    f"onnxruntime's quantiser failed: {type(error).__name__}: {str(error).splitlines()[0][:300]}",
                    hint="edgebuild's own quantiser may manage; this candidate is left out.",
                ) from error
        settle(target, writer="onnxruntime's quantiser")
        require_quantised(target, "onnxruntime's quantiser")


def library() -> Any:
    """Return ``onnxruntime.quantization``; raises ``EnvironmentGap`` where it isn't installed."""
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise EnvironmentGap("onnxruntime is not installed.", hint="pip install 'edgebuild[onnxruntime]'") from error
    return quantization


def kept_nodes(path: Path, keep_float: tuple[str, ...]) -> list[str]:
    """Return the names of the nodes that stay float."""
    import onnx

    from edgebuild.quantisers.own.graph import is_kept

    graph = onnx.load(str(path), load_external_data=False).graph
    return [node.name for node in graph.node if node.name and is_kept(node.name, node.op_type, keep_float)]


class quiet:  # noqa: N801 - used as a function
    """Silences the quantiser's advice to call other tools first: the model is prepared already."""

    def __enter__(self) -> None:
        import logging

        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *exc: object) -> None:
        import logging

        logging.disable(self._before)
