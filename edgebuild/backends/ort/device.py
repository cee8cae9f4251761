"""Runs ONNX files in ONNX Runtime. Travels to the device alone: Python 3.8, numpy and onnxruntime only."""

from __future__ import annotations

import json
import os
import tempfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    Fields = Dict[str, Any]

#: Runs under the profiler: the first ones warm up, of the others the median counts.
PROFILE_WARMUP = 10
PROFILE_RUNS = 40
#: The offline-optimised model runs the same kernels; this allows for another order of additions.
VERIFY_TOLERANCE = 1e-4
#: It makes one kernel of a residual sum and a LayerNormalization, which takes five times as long as the two: 250 us
#: instead of 51 for 128 x 384 numbers (onnxruntime 1.32, x86 with AVX-512).
SLOW_FUSIONS = ("SkipLayerNormFusion",)
#: They read floats, and round them to 8 bits themselves.
DYNAMIC = ("DynamicQuantizeLSTM", "DynamicQuantizeMatMul")


class ModelProblem(Exception):
    """The model can't be loaded or run; ``kind`` tells the runner whom to tell."""

    kind = "model"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def version() -> Optional[str]:
    """Return the runtime's version, or None where it isn't installed."""
    try:
        load_runtime()
    except ImportError:
        return None
    import onnxruntime

    return str(onnxruntime.__version__)


def load_runtime() -> None:
    """Import the runtime with its telemetry off: it reads the variable when it is imported, and only then."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # noqa: F401


class TooOld(ModelProblem):
    """This version of the runtime lacks what the artifact needs."""

    kind = "environment"


class Session:
    """One model in one InferenceSession.

    ``weights`` are the tensors that the model's file leaves out; the session looks into their memory.

    A plain ``run``: it takes numpy's memory as it is and hands out arrays of its own, as an application would.
    """

    def __init__(self, artifact: Fields, folder: str, settings: Fields, weights: Optional[Fields] = None) -> None:
        self._weights = weights
        load = dict(artifact["load"])
        self._session = _open(os.path.join(folder, artifact["entry"]), _options(load, folder, settings, weights), load)
        self.input_names = [each.name for each in self._session.get_inputs()]
        self.output_names = [each.name for each in self._session.get_outputs()]
        self._run = self._session.run

    def run(self, inputs: Fields) -> List[Any]:
        """Run once."""
        return self._run(self.output_names, inputs)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Free the model."""
        del self._session, self._run
        self._weights = None


class Flight(Session):
    """One InferenceSession that several threads call at once; as many as fill the cores where nothing is said."""

    def __init__(self, artifact: Fields, folder: str, settings: Fields, weights: Optional[Fields] = None) -> None:
        super().__init__(artifact, folder, settings, weights)
        cores = len(os.sched_getaffinity(0))
        requests = int(settings.get("requests", 0)) or max(1, cores // (int(settings.get("threads", 0)) or cores))
        self.callers = [self.run] * requests


def layers(
    artifact: Fields, folder: str, settings: Fields, inputs: Fields, weights: Optional[Fields] = None
) -> List[Fields]:
    """Return the nodes that really ran, from the profiler: precision is what a node reads, time a median of 40."""
    with tempfile.TemporaryDirectory() as scratch:
        load = dict(artifact["load"])
        options = _options(load, folder, settings, weights)
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(scratch, "profile")
        session = _open(os.path.join(folder, artifact["entry"]), options, load)
        feeds = {each.name: inputs[each.name] for each in session.get_inputs()}
        for _ in range(PROFILE_WARMUP + PROFILE_RUNS):
            _call(session, feeds)
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    return _summed_up(events)


def compile(model: str, out: str, options: Fields) -> Fields:  # noqa: A001  the operation's name
    """Save the model as this device's runtime optimises it, once it is shown to answer the same.

    ``options`` hold a ``seed``, and as ``disabled`` the optimisers to leave out, with commas between. Returns
    ``{"optimized": bool, "difference": float}``; without an optimised file where the answers differ.
    """
    import numpy as np

    target = os.path.join(out, "model.onnx")
    full = _options({}, "", {})
    full.optimized_model_filepath = target
    reference = _open(model, full, options)
    feeds = _random_feeds(reference, int(options.get("seed", 0)))
    loaded = _open(target, _options({"optimized": True}, "", {}), {})
    difference = 0.0
    for left, right in zip(_call(reference, feeds), _call(loaded, feeds)):
        if left.dtype.kind not in "fiub" or left.shape != right.shape:
            difference = float("inf")
            continue
        a, b = left.astype(np.float64), right.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        gap = np.where(same, 0.0, np.abs(a - b)) / (1.0 + np.abs(a))
        difference = max(difference, float(gap.max()) if gap.size else 0.0)
    alike = difference <= VERIFY_TOLERANCE
    if not alike:
        os.unlink(target)
    return {"optimized": alike, "difference": difference if difference < 1e300 else 1e300}


def _options(load: Fields, folder: str, settings: Fields, weights: Optional[Fields] = None) -> Any:
    """``optimized`` files were optimised on this device: optimising again would only cost load time."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL if load.get("optimized") else level.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = int(settings.get("threads", 0))
    options.enable_cpu_mem_arena = bool(settings.get("arena", True))
    spinning = "1" if settings.get("spinning", True) else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    if load.get("bf16"):
        options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
    if load.get("unpack"):
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    for name in str(load.get("libraries", "")).split(","):
        if name:
            try:
                options.register_custom_ops_library(os.path.join(folder, name))
            except Exception as error:  # the runtime's errors share no root
                raise ModelProblem("The custom-op library %s can't be loaded: %s" % (name, _line(error))) from error
    if weights is not None:
        if not hasattr(options, "add_external_initializers"):
            raise TooOld(
                "ONNX Runtime %s can't take weights from memory, and this artifact ships them in a weights file."
                % ort.__version__,
                "Install a newer one, or build with another objective than size.",
            )
        values = [ort.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
        options.add_external_initializers(list(weights), values)
    return options


def _open(path: str, options: Any, load: Fields) -> Any:
    import onnxruntime as ort

    disabled = {*SLOW_FUSIONS, *str(load.get("disabled", "")).split(",")}
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
    except Exception as error:  # as above
        hint = "Is every operator known to this version, or is a custom-op library missing?"
        raise ModelProblem("ONNX Runtime can't load %s: %s" % (os.path.basename(path), _line(error)), hint) from error


def _call(session: Any, feeds: Fields) -> List[Any]:
    try:
        outputs: List[Any] = session.run(None, feeds)
    except Exception as error:  # as above
        raise ModelProblem("ONNX Runtime can't run the model: %s" % _line(error)) from error
    return outputs


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:600]


def _summed_up(events: List[Fields]) -> List[Fields]:
    found: Dict[str, Fields] = {}
    runs: Dict[str, List[float]] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        name = event["name"][: -len("_kernel_time")]
        arguments = event["args"]
        runs.setdefault(name, []).append(float(event["dur"]))
        op = arguments["op_name"]
        precision = "int8" if op in DYNAMIC else _precision(arguments)
        found.setdefault(name, {"name": name, "op": op, "precision": precision})
    for name, layer in found.items():
        times = runs[name]
        kept = sorted(times[len(times) * PROFILE_WARMUP // (PROFILE_WARMUP + PROFILE_RUNS) :])
        # A node inside a loop runs several times in one inference: what counts is its time per inference.
        layer["time_us"] = kept[len(kept) // 2] * len(kept) / PROFILE_RUNS
    return list(found.values())


def _precision(arguments: Fields) -> str:
    """Name what the node reads first (what it writes, if it reads nothing); 8-bit integers count as int8."""
    for place in ("input_type_shape", "output_type_shape"):
        for tensor in arguments.get(place, []):
            for kind in tensor:
                return {"float": "fp32", "float16": "fp16", "uint8": "int8", "double": "fp64"}.get(kind, str(kind))
    return "unknown"


def _random_feeds(session: Any, seed: int) -> Fields:
    """Return legal inputs for a check: normal numbers, and zeros and ones where integers may be indices."""
    import numpy as np

    generator = np.random.RandomState(seed)
    kinds = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
    feeds: Fields = {}
    for each in session.get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else 1 for d in each.shape]
        if each.type in kinds:
            feeds[each.name] = generator.standard_normal(shape).astype(kinds[each.type])
        else:
            dtype = each.type[len("tensor(") : -1]
            feeds[each.name] = generator.randint(0, 2, size=shape).astype(dtype)
    return feeds
