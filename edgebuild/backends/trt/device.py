"""Builds and runs TensorRT engines. Travels to the device alone: Python 3.8, numpy, tensorrt and libcudart only.

Written for TensorRT 8.5, 10 and 11 by asking each library what it has. What it was run against is in docs/jetson.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import hashlib
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    Fields = Dict[str, Any]

ENGINE = "engine.plan"
PROFILE_RUNS = 40
#: Where the inspector's JSON names a tensor's type, and in what words; the first that fits counts.
TYPE_FIELDS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
TYPE_WORDS = (
    ("int8", "int8"),
    ("bf16", "bf16"),
    ("bfloat", "bf16"),
    ("fp16", "fp16"),
    ("half", "fp16"),
    ("float16", "fp16"),
    ("fp32", "fp32"),
    ("float", "fp32"),
)
LOG_LINES = 20000
#: cudaMemcpyKind, cudaDeviceScheduleSpin and cudaDeviceScheduleBlockingSync of driver_types.h.
TO_DEVICE, TO_HOST = 1, 2
SCHEDULE_SPIN, SCHEDULE_BLOCK = 1, 4
RELAXED_CAPTURE = 2


class Problem(Exception):
    """What to tell the user; ``kind`` is "model" or "environment"."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.hint = hint


def version() -> Optional[str]:
    """Return TensorRT's version, or None where it isn't installed."""
    try:
        load_runtime()
    except ImportError:
        return None
    import tensorrt

    return str(tensorrt.__version__)


def load_runtime() -> None:
    """Import the runtime."""
    import tensorrt  # noqa: F401


class Log:
    """Keeps what the library says; made into its logger by ``_logger``."""

    def __init__(self) -> None:
        self.lines: List[str] = []
        self.errors: List[str] = []

    def add(self, severity: Any, message: str) -> None:
        """Keep one line."""
        name = str(severity).rpartition(".")[2]
        if len(self.lines) < LOG_LINES:
            self.lines.append("%s %s" % (name, message))
        if name in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message)


def _logger(log: Log) -> Any:
    import tensorrt as trt

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(severity, message)

    return Logger()


def plan(model: str, options: Fields, log: Log, cache: bytes = b"") -> Tuple[Any, bytes]:
    """Return the serialised engine of the ONNX file ``model``, and the timing cache after it.

    Raises ``Problem`` that names the node. The references held here live until the engine is built: the parser reads
    the network's memory.
    """
    import tensorrt as trt

    logger = _logger(log)
    builder = trt.Builder(logger)
    if builder is None:
        raise _no_driver()
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(model):
        raise Problem("model", "TensorRT can't read the model: %s" % _parser_errors(parser))
    config = builder.create_builder_config()
    timing = _configure(trt, builder, config, options, cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise Problem("model", "TensorRT can't build an engine: %s" % _said(log))
    return engine, bytes(memoryview(timing.serialize())) if timing is not None else b""


def _network_flags(trt: Any) -> int:
    """Strongly typed where the library can; explicit batch where that isn't the only sort yet (8.5)."""
    flags = trt.NetworkDefinitionCreationFlag
    names = ("STRONGLY_TYPED",) if hasattr(flags, "STRONGLY_TYPED") else ("EXPLICIT_BATCH",)
    return sum(1 << int(getattr(flags, name)) for name in names)


def _configure(trt: Any, builder: Any, config: Any, options: Fields, cache: bytes) -> Any:
    """Set everything that the options and the library have in common; return the timing cache, None without one."""
    if "workspace_bytes" in options:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options["workspace_bytes"]))
    if hasattr(trt, "ProfilingVerbosity"):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        for name in {"fp16": ("FP16",), "int8": ("INT8",)}.get(options["precision"], ()):
            config.set_flag(getattr(trt.BuilderFlag, name))
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    if hasattr(trt.BuilderFlag, "TF32"):
        # fp32 means fp32: with TF32 its matrix products would have fp16's mantissa.
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.get("profiles"):
        profile = builder.create_optimization_profile()
        for name, shapes in sorted(options["profiles"].items()):
            profile.set_shape(name, *[tuple(shape) for shape in shapes])
        config.add_optimization_profile(profile)
    if "timing_caches" not in options:
        return None
    timing = config.create_timing_cache(cache)
    config.set_timing_cache(timing, False)
    return timing


def _parser_errors(parser: Any) -> str:
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name = error.node_name() if hasattr(error, "node_name") else ""
        op = error.node_operator() if hasattr(error, "node_operator") else ""
        found.append("node %r (%s): %s" % (name or "number %d" % error.node(), op or "?", error.desc()))
    return "; ".join(found[:3]) or "it doesn't say why"


def _said(log: Log) -> str:
    return "; ".join(line.strip()[:400] for line in log.errors[-3:]) or "it doesn't say why"


def _no_driver() -> Problem:
    return Problem(
        "environment",
        "TensorRT is installed, but there is no CUDA driver that it can use.",
        "Run on a machine with an NVIDIA GPU; on a Jetson, check that JetPack's driver is loaded (`nvidia-smi`).",
    )


def compile(model: str, out: str, options: Fields) -> Fields:  # noqa: A001  the operation's name
    """Build ``engine.plan`` into ``out``, with ``build.log`` and ``layers.json``; see ``plan`` for what it raises.

    Raises ``Problem`` too where a layer runs in fp32 that the file wants in less: the engine would be slower than
    what was asked for, and nobody would be told.
    """
    import tensorrt as trt

    cuda = Cuda()
    log = Log()
    path = _cache_path(model, options, cuda.device_name(), str(trt.__version__))
    engine, timing = plan(model, options, log, _read(path))
    data = bytes(memoryview(engine))
    with open(os.path.join(out, ENGINE), "wb") as file:
        file.write(data)
    if timing:
        _write_whole(path, timing)
    with open(os.path.join(out, "build.log"), "w", encoding="utf-8") as file:
        # Times and addresses in the other lines differ from build to build.
        file.write("".join("%s\n" % line for line in log.lines if not line.startswith(("VERBOSE", "INFO"))))
    runtime, built = _deserialise(data, log)
    found = _described(built)
    del built, runtime  # in this order
    with open(os.path.join(out, "layers.json"), "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1, sort_keys=True)
    lost = lost_precision(found, options.get("expected", {}))
    if lost:
        raise Problem(
            "model",
            "TensorRT does not run %d layers in the precision that was asked for: %s."
            % (len(lost), ", ".join(lost[:5])),
            "layers.json lists them; name them in keep_float, or leave this precision out.",
        )
    skipped = sum("skipping tactic" in line.lower() for line in log.lines)
    return {
        "version": str(trt.__version__),
        "timing_cache_sha256": hashlib.sha256(timing).hexdigest(),
        "skipped_tactics": skipped,
        "gpu_memory": gpu_memory(),
    }


def lost_precision(found: List[Fields], expected: Dict[str, str]) -> List[str]:
    """Return the nodes that ``expected`` wants in int8 or fp16 and that run in fp32.

    A node that no layer names is taken for lost where no layer at all runs in its precision.
    """
    anywhere = {layer["precision"] for layer in found}
    lost = []
    for node, want in sorted(expected.items()):
        ran = [layer["precision"] for layer in found if node in layer["nodes"]]
        if want != "fp32" and want not in (ran or anywhere):
            lost.append(node)
    return lost


def _described(engine: Any) -> List[Fields]:
    """Return the layers as the inspector tells of them: {name, op, precision, nodes}."""
    import tensorrt as trt

    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return [described_layer(each) for each in json.loads(text)["Layers"]]


def described_layer(layer: Any) -> Fields:
    """Read one layer of the inspector's JSON; an engine without detailed verbosity only has names."""
    if not isinstance(layer, dict):
        return {"name": str(layer), "op": "unknown", "precision": "unknown", "nodes": []}
    name = str(layer.get("Name", "unknown"))
    seen = [_precision(tensor) for tensor in [*layer.get("Inputs", []), *layer.get("Outputs", [])]]
    nodes = [part.strip() for part in name.replace("||", " + ").split(" + ")]
    nodes += [part.partition("]")[0] for part in str(layer.get("Metadata", "")).split("[ONNX Layer: ")[1:]]
    op = str(layer.get("LayerType", "unknown"))
    return {"name": name, "op": op, "precision": seen[0] if seen else "unknown", "nodes": nodes}


def _precision(tensor: Any) -> str:
    """Name a tensor's type: 8.5 and 10 say it in ``Format/Datatype``, 11 has split that into two fields."""
    fields = tensor if isinstance(tensor, dict) else {}
    text = " ".join(str(fields.get(name, "")) for name in TYPE_FIELDS).lower()
    return next((short for word, short in TYPE_WORDS if word in text), "unknown")


def _cache_path(model: str, options: Fields, gpu: str, runtime: str) -> str:
    digest = hashlib.sha256()
    with open(model, "rb") as file:
        digest.update(file.read())
    shape = {name: value for name, value in options.items() if name != "timing_caches"}
    digest.update(json.dumps([shape, gpu, runtime], sort_keys=True).encode())
    return os.path.join(options["timing_caches"], digest.hexdigest())


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _write_whole(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open("%s.%d" % (path, os.getpid()), "wb") as file:
        file.write(data)
    os.replace(file.name, path)


class Cuda:
    """The few calls of libcudart that are needed, through ctypes; every failure is a ``Problem`` with its name."""

    def __init__(self) -> None:
        self._lib = _library()
        self._lib.cudaGetErrorString.restype = ctypes.c_char_p
        count = ctypes.c_int(0)
        if self._lib.cudaGetDeviceCount(ctypes.byref(count)) != 0 or count.value == 0:
            raise _no_driver()

    def call(self, name: str, *arguments: Any) -> None:
        """Call ``name`` and raise if it doesn't answer 0."""
        status = getattr(self._lib, name)(*arguments)
        if status != 0:
            said = self._lib.cudaGetErrorString(status)
            raise Problem("environment", "%s failed: %s." % (name, said.decode("utf-8", "replace")))

    def device_name(self) -> str:
        """Return the GPU's compute capability, which an engine is tied to."""
        values = []
        for attribute in (75, 76):  # cudaDevAttrComputeCapabilityMajor and -Minor
            value = ctypes.c_int(0)
            self.call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_int(0))
            values.append(str(value.value))
        return ".".join(values)

    def handle(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Return what ``name`` creates: a stream, an event, memory."""
        made = ctypes.c_void_p()
        self.call(name, ctypes.byref(made), *arguments)
        return made


def _library() -> Any:
    names = ["libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"]
    names += sorted(glob.glob("/usr/local/cuda*/lib64/libcudart.so*"))
    for name in names:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise Problem("environment", "libcudart is not installed on the device.", "JetPack brings it: cuda-cudart.")


def _deserialise(data: bytes, log: Log) -> Tuple[Any, Any]:
    """Return the runtime, which must outlive its engine, and the engine."""
    import tensorrt as trt

    runtime = trt.Runtime(_logger(log))
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise Problem(
            "model",
            "TensorRT %s can't load the engine: %s" % (trt.__version__, _said(log)),
            "An engine is tied to the TensorRT version and the GPU that built it: build the artifact again.",
        )
    return runtime, engine


class Session:
    """One engine on one stream. ``run`` is end to end, both copies included; ``device_ns`` is the GPU's own time.

    ``device_ns`` is that of the last run, from events around the kernels, copies left out.
    """

    def __init__(self, artifact: Fields, folder: str, settings: Fields) -> None:
        import tensorrt as trt

        if artifact["entry"] != ENGINE:
            raise Problem("model", "The artifact was compiled without a device: it holds no engine.", "Build it again.")
        self._cuda = Cuda()
        self._cuda.call("cudaSetDeviceFlags", SCHEDULE_SPIN if settings.get("spin_wait") else SCHEDULE_BLOCK)
        with open(os.path.join(folder, artifact["entry"]), "rb") as file:
            self._runtime, self.engine = _deserialise(file.read(), Log())
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise Problem("environment", "TensorRT can't create an execution context: is there enough memory?")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        inputs = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.input_names = inputs
        self.output_names = [n for n in names if n not in inputs]
        self._types = {n: trt.nptype(self.engine.get_tensor_dtype(n)) for n in names}
        self._stream = self._cuda.handle("cudaStreamCreate")
        self._events = [self._cuda.handle("cudaEventCreate") for _ in range(2)]
        self._memory: Dict[str, Tuple[ctypes.c_void_p, int]] = {}
        self._static = all(-1 not in tuple(self.engine.get_tensor_shape(n)) for n in names)
        self._want_graph = bool(settings.get("cuda_graph")) and self._static
        self._graph: Optional[ctypes.c_void_p] = None

    def run(self, inputs: Fields) -> List[Any]:
        """Copy in, run, copy out, wait."""
        import numpy as np

        kept = []
        for name in self.input_names:
            array = np.ascontiguousarray(inputs[name], dtype=self._types[name])
            kept.append(array)  # alive until the stream has read it
            if not self._static and not self.context.set_input_shape(name, array.shape):
                raise Problem("model", "Input %r: the engine was not built for shape %s." % (name, list(array.shape)))
            self._copy(array.ctypes.data, self._place(name, array.nbytes), array.nbytes, TO_DEVICE)
        outputs = [np.empty(self._shape(name), dtype=self._types[name]) for name in self.output_names]
        for name, array in zip(self.output_names, outputs):
            self._place(name, array.nbytes)
        self._cuda.call("cudaEventRecord", self._events[0], self._stream)
        self._execute()
        self._cuda.call("cudaEventRecord", self._events[1], self._stream)
        for name, array in zip(self.output_names, outputs):
            self._copy(self._memory[name][0], array.ctypes.data, array.nbytes, TO_HOST)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return outputs

    @property
    def device_ns(self) -> int:
        """The time of the last run's kernels on the GPU."""
        elapsed = ctypes.c_float(0.0)
        self._cuda.call("cudaEventElapsedTime", ctypes.byref(elapsed), *self._events)
        return int(elapsed.value * 1e6)

    def close(self) -> None:
        """Free the model."""
        self._cuda.call("cudaStreamSynchronize", self._stream)
        if self._graph is not None:
            self._cuda.call("cudaGraphExecDestroy", self._graph)
        del self.context, self.engine, self._runtime
        for pointer, _ in self._memory.values():
            self._cuda.call("cudaFree", pointer)
        for event in self._events:
            self._cuda.call("cudaEventDestroy", event)
        self._cuda.call("cudaStreamDestroy", self._stream)
        self._memory.clear()

    def _shape(self, name: str) -> Tuple[int, ...]:
        shape = tuple(self.context.get_tensor_shape(name))
        if any(axis < 0 for axis in shape):
            raise Problem("model", "The shape of output %r depends on values: %s." % (name, list(shape)))
        return shape

    def _place(self, name: str, size: int) -> ctypes.c_void_p:
        """Return memory on the device for a tensor, and tell the context of it; it only ever grows."""
        pointer, room = self._memory.get(name, (None, 0))
        if pointer is None or room < size:
            if pointer is not None:
                self._cuda.call("cudaFree", pointer)
            pointer = self._cuda.handle("cudaMalloc", ctypes.c_size_t(max(size, 1)))
            self._memory[name] = (pointer, size)
            self.context.set_tensor_address(name, pointer.value)
        return pointer

    def _copy(self, source: Any, target: Any, size: int, kind: int) -> None:
        source, target = (p if isinstance(p, ctypes.c_void_p) else ctypes.c_void_p(p) for p in (source, target))
        self._cuda.call("cudaMemcpyAsync", target, source, ctypes.c_size_t(size), ctypes.c_int(kind), self._stream)

    def _execute(self) -> None:
        if self._graph is not None:
            self._cuda.call("cudaGraphLaunch", self._graph, self._stream)
            return
        if not self.context.execute_async_v3(self._stream.value):
            raise Problem("model", "TensorRT can't run the model.")
        if self._want_graph:
            # The first run was a plain one: TensorRT asks for that before a capture.
            self._want_graph = False
            self._cuda.call("cudaStreamSynchronize", self._stream)
            self._cuda.call("cudaStreamBeginCapture", self._stream, ctypes.c_int(RELAXED_CAPTURE))
            self.context.execute_async_v3(self._stream.value)
            graph = ctypes.c_void_p()
            self._cuda.call("cudaStreamEndCapture", self._stream, ctypes.byref(graph))
            self._graph = self._cuda.handle("cudaGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))


def layers(artifact: Fields, folder: str, settings: Fields, inputs: Fields) -> List[Fields]:
    """Return every layer with the precision that the inspector names, and its median time on the GPU."""
    import tensorrt as trt

    times: Dict[str, List[float]] = {}

    class Profiler(trt.IProfiler):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms)

    session = Session(artifact, folder, {**settings, "cuda_graph": False})
    profiler = Profiler()
    session.context.profiler = profiler
    for _ in range(PROFILE_RUNS):
        session.run(inputs)
    found = []
    for layer in _described(session.engine):
        taken = sorted(times.get(layer["name"], []))
        middle = taken[len(taken) // 2] * 1000.0 if taken else None
        found.append({"name": layer["name"], "op": layer["op"], "precision": layer["precision"], "time_us": middle})
    session.close()
    return found


def gpu_memory() -> Fields:
    """Return the bytes of GPU memory in use and who said so: nvmap up to Orin, NVML on Thor and desktop cards."""
    try:
        with open("/sys/kernel/debug/nvmap/iovmm/maps", encoding="ascii", errors="replace") as file:
            return {"source": "nvmap", "used_bytes": nvmap_bytes(file.read())}
    except OSError:
        pass

    class Memory(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return {"source": "unknown", "used_bytes": None}
    device, memory = ctypes.c_void_p(), Memory()
    ok = nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) == 0
    ok = ok and nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
    return {"source": "NVML" if ok else "unknown", "used_bytes": memory.used if ok else None}


def nvmap_bytes(text: str) -> Optional[int]:
    """Return the total of nvmap's table, whose last line is ``total   123456K``."""
    for line in reversed(text.splitlines()):
        words = line.split()
        if len(words) >= 2 and words[0] == "total" and words[-1][-1:] == "K" and words[-1][:-1].isdigit():
            return int(words[-1][:-1]) * 1024
    return None
