"""NNCF's post-training quantiser as its authors recommend it: a candidate in the race, and a yardstick for ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.core.artifact import Contract, Int8Scheme
from edgebuild.core.steps import RunsOn, Step
from edgebuild.errors import EdgebuildError, EnvironmentGap, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.steps import StepContext


#: What may stand between a softmax and its product.
_PASSING = frozenset({"Cast", "Dropout", "Identity", "Reshape", "Transpose"})


class NncfQuantise(Step):
    """Writes what ``nncf.quantize`` makes of the model, as explicit Q/DQ that every runtime takes.

    NNCF chooses types, granularity and placement itself, and is told where a model is a transformer. Of the scheme only
    ``reduce_range`` has a counterpart there (``overflow_fix``). Inputs: ``model`` (a folder with ``model.onnx``),
    ``calibration`` (a data folder), ``library`` (custom operators, optional). Raises ``ModelError`` with its reason
    where it can't quantise the model.
    Nothing is ever sent to anyone.
    """

    scheme: Int8Scheme
    contract: Contract
    keep_float: tuple[str, ...] = ()
    samples: int = 300
    kind: ClassVar[str] = "nncf-quantise"
    version: ClassVar[int] = 4
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("nncf", "numpy", "onnx", "onnxruntime", "openvino")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """Quantise the model."""
        from edgebuild.models.onnx_files import load_onnx
        from edgebuild.models.onnx_graphs import save, tidy
        from edgebuild.quantisers.calibration import all_frames, require_quantised
        from edgebuild.quantisers.onnxruntime import kept_nodes
        from edgebuild.quantisers.own.graph import raised

        nncf = _import_nncf()
        model = raised(load_onnx(inputs["model"] / "model.onnx"))
        halves = all_frames(inputs, self.contract, samples=self.samples, ctx=ctx)
        count = sum(half.runs for half in halves)
        kept = kept_nodes(inputs["model"] / "model.onnx", self.keep_float)
        fix = nncf.quantization.advanced_parameters.OverflowFix.ENABLE
        advanced = nncf.AdvancedQuantizationParameters(overflow_fix=fix) if self.scheme.reduce_range else None
        with ctx.progress.task("Quantising with NNCF"):
            try:
                quantised = nncf.quantize(
                    model,
                    nncf.Dataset(_Replay(halves, ctx)),
                    subset_size=count,
                    model_type=nncf.ModelType.TRANSFORMER if has_attention(model) else None,
                    ignored_scope=nncf.IgnoredScope(names=kept) if kept else None,
                    advanced_parameters=advanced,
                )
            except EdgebuildError:
                raise
            except Exception as error:
                ctx.check()
                raise ModelError(
                    told(error), hint="edgebuild's own quantiser may manage; this candidate is left out."
                ) from error
        save(tidy(quantised), out_dir / "model.onnx", writer="NNCF")
        require_quantised(out_dir / "model.onnx", "NNCF")


def told(error: Exception) -> str:
    """Return what NNCF said; of an error that it didn't foresee, which says little, also where it happened."""
    import traceback

    said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
    if type(error).__module__.partition(".")[0] == "nncf":
        return f"NNCF failed: {said}"
    files = [
        (frame.f_code.co_filename.partition("/nncf/")[2], line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    place = next((f" in nncf/{file}:{line}" for file, line in reversed(files) if file), "")
    return f"NNCF failed on this model with an error that it didn't foresee{place}: {said}"


def has_attention(model: Any) -> bool:
    """Whether a product in the model weighs by a softmax: NNCF's defaults would quantise such a model's masks."""
    weights = {name for node in model.graph.node if node.op_type == "Softmax" for name in node.output}
    for node in model.graph.node:  # in the order in which they are computed
        if node.op_type in _PASSING and weights.intersection(node.input):
            weights.update(node.output)
    return any(node.op_type == "MatMul" and weights.intersection(node.input) for node in model.graph.node)


class _Replay:
    """Frames that NNCF can go through more than once."""

    def __init__(self, halves: Any, ctx: StepContext) -> None:
        self._halves, self._ctx = halves, ctx

    def __iter__(self) -> Any:
        from edgebuild.quantisers.calibration import feeds

        return feeds(self._halves, self._ctx)


def _import_nncf() -> Any:
    forbid_telemetry()
    try:
        import nncf
    except ImportError as error:
        raise EnvironmentGap("nncf is not installed.", hint="pip install 'edgebuild[openvino]'") from error
    _silence()
    return nncf


def _silence() -> None:
    """Keep NNCF's progress bars and advice off the terminal, where ours are."""
    import logging
    from functools import partialmethod

    from nncf.common.logging.track_progress import track

    logging.getLogger("nncf").setLevel(logging.ERROR)
    if not isinstance(vars(track)["__init__"], partialmethod):
        track.__init__ = partialmethod(track.__init__, disable=True)


def forbid_telemetry() -> None:
    """Make sure that NNCF and OpenVINO send nothing from this process; must be called before either is imported.

    Both run without the ``openvino_telemetry`` package and then use a stand-in that does nothing, so the package is
    kept from being imported. Where it already was, its sender is replaced.
    """
    import sys

    loaded = sys.modules.get("openvino_telemetry")
    if loaded is None:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        return
    from openvino_telemetry.utils.sender import TelemetrySender  # type: ignore[import-untyped]

    TelemetrySender.send = lambda *_: None
