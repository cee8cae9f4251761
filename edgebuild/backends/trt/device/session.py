"""Runs an engine: copies in, kernels, copies out, on one stream."""

from __future__ import annotations

import ctypes
import os

from .cuda import RELAXED_CAPTURE, SCHEDULE_BLOCK, SCHEDULE_SPIN, TO_DEVICE, TO_HOST, Cuda, Problem
from .engine import ENGINE, deserialise
from .inspector import described
from .log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    Fields = Dict[str, Any]

PROFILE_RUNS = 40
#: TensorRT's types by name. Its own ``nptype`` fails in 8.5 where numpy is 1.24 to 1.26: it asks for ``numpy.bool``.
NUMPY_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}


def numpy_type(kind: Any) -> str:
    """Return numpy's name of a TensorRT type; raises ``Problem`` for one that numpy doesn't have."""
    if kind.name not in NUMPY_TYPES:
        raise Problem("model", "An input or output of the engine has the type %s, which numpy lacks." % kind.name)
    return NUMPY_TYPES[kind.name]


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
            dla = dict(artifact.get("load", ())).get("accelerator") == "dla"
            self._runtime, self.engine = deserialise(file.read(), Log(), dla=dla)
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise Problem("environment", "TensorRT can't create an execution context: is there enough memory?")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        inputs = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.input_names = inputs
        self.output_names = [n for n in names if n not in inputs]
        self._types = {n: numpy_type(self.engine.get_tensor_dtype(n)) for n in names}
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
    for layer in described(session.engine):
        taken = sorted(times.get(layer["name"], []))
        middle = taken[len(taken) // 2] * 1000.0 if taken else None
        found.append({"name": layer["name"], "op": layer["op"], "precision": layer["precision"], "time_us": middle})
    session.close()
    return found
