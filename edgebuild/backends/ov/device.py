"""Runs IR and ONNX files in OpenVINO. Travels to the device alone: Python 3.8, numpy and openvino only."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    Fields = Dict[str, Any]

PROFILE_RUNS = 40
PROFILE_WARMUP = 10
#: Our names, which profiles use, to OpenVINO's.
PROPERTIES = {"threads": "INFERENCE_NUM_THREADS", "streams": "NUM_STREAMS", "pinning": "ENABLE_CPU_PINNING"}
LAYER_FACTS = ("layerType", "runtimePrecision", "primitiveType", "execTimeMcs")
PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8", "i32": "int32", "i64": "int64"}


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
    import openvino

    return str(openvino.get_version())


def load_runtime() -> None:
    """Import the runtime without its telemetry: it finds the package missing and falls back to its own stub."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # noqa: F401


class Request:
    """One infer request of a compiled model.

    Static models copy into and out of the request's own tensors, as a C++ application does; handing numpy arrays to
    the Python binding costs tens of microseconds per call, which a small model would be blamed for.
    """

    def __init__(self, compiled: Any, names: List[str], places: List[int]) -> None:
        self._names = names
        self._places = places
        self._request = compiled.create_infer_request()
        ports = list(compiled.inputs) + list(compiled.outputs)
        if all(port.partial_shape.is_static for port in ports):
            self._inputs = list(zip(names, [tensor.data for tensor in self._request.input_tensors]))
            tensors = self._request.output_tensors
            self._outputs = [tensors[place].data for place in places]
            self.run = self._static
        else:
            self.run = self._dynamic

    def _static(self, inputs: Fields) -> List[Any]:
        """Run once."""
        for name, target in self._inputs:
            target[...] = inputs[name]
        self._request.infer(None, share_inputs=True, share_outputs=True)
        return [output.copy() for output in self._outputs]

    def _dynamic(self, inputs: Fields) -> List[Any]:
        """Run once, the runtime finding out about shapes."""
        feeds = {index: inputs[name] for index, name in enumerate(self._names)}
        found = self._request.infer(feeds, share_inputs=False, share_outputs=False)
        return [found[place] for place in self._places]

    def close(self) -> None:
        """Free the request; views go before what they look into."""
        self._inputs = self._outputs = []
        del self.run, self._request


class Session:
    """One compiled model and one infer request.

    ``weights`` are the parts of model.bin, in their order, where the artifact doesn't have it.
    """

    def __init__(self, artifact: Fields, folder: str, settings: Fields, weights: Optional[Fields] = None) -> None:
        self._compiled = _compile(artifact, folder, settings, weights, profile=False)
        names = _contract_names(artifact)
        self.input_names = [_name(port, names) for port in self._compiled.inputs]
        outputs = [
            name for port in self._compiled.outputs for name in sorted(port.names & names) or [_name(port, names)]
        ]
        self.output_names = outputs
        self._places = [_place(self._compiled.outputs, name) for name in outputs]
        self._requests = [self._one()]
        self.run = self._requests[0].run

    def _one(self) -> Request:
        return Request(self._compiled, self.input_names, self._places)

    def close(self) -> None:
        """Free the model."""
        for request in self._requests:
            request.close()
        self._requests = []
        del self.run, self._compiled


class Flight(Session):
    """One compiled model with several requests; as many as the plugin calls its optimum where nothing is said.

    Each is waited for by a thread of the runner. OpenVINO's own queue calls back from its threads, which then need
    Python's lock: freeing the model right after the last call ended in a deadlock (2026.4.1).
    """

    def __init__(self, artifact: Fields, folder: str, settings: Fields, weights: Optional[Fields] = None) -> None:
        super().__init__(artifact, folder, settings, weights)
        optimum = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        wanted = int(settings.get("requests", 0)) or int(optimum)
        self._requests += [self._one() for _ in range(wanted - 1)]
        self.callers = [request.run for request in self._requests]

    def close(self) -> None:
        """Free the model."""
        self.callers = []
        super().close()


def layers(
    artifact: Fields, folder: str, settings: Fields, inputs: Fields, weights: Optional[Fields] = None
) -> List[Fields]:
    """Return the layers that really ran: precision from the runtime's graph, time the median of 40 profiled runs."""
    compiled = _compile(artifact, folder, settings, weights, profile=True)
    names = _contract_names(artifact)
    request = compiled.create_infer_request()
    feeds = {index: inputs[_name(port, names)] for index, port in enumerate(compiled.inputs)}
    times: Dict[str, List[float]] = {}
    for run in range(PROFILE_WARMUP + PROFILE_RUNS):
        request.infer(feeds)
        if run >= PROFILE_WARMUP:
            for info in request.profiling_info:
                times.setdefault(info.node_name, []).append(info.real_time.total_seconds() * 1e6)
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: str(value.astype(str)) for key, value in node.rt_info.items() if key in LAYER_FACTS}
        if facts.get("layerType") in ("Input", "Output") or facts.get("execTimeMcs") == "not_executed":
            continue
        measured = sorted(times.get(node.friendly_name, []))
        found.append(
            {
                "name": node.friendly_name,
                "op": facts.get("layerType", node.get_type_name()),
                "precision": _precision(facts),
                "time_us": measured[len(measured) // 2] if measured else None,
            }
        )
    return found


def _precision(facts: Dict[str, str]) -> str:
    """Name the arithmetic of the kernel that was chosen, such as ``brgconv_avx512_f32``.

    ``runtimePrecision`` names the stored weights instead where these are fp16 and the kernel computes in fp32.
    """
    kernel = facts.get("primitiveType", "").rpartition("_")[2].lower()
    said = kernel if kernel in PRECISIONS else facts.get("runtimePrecision", "unknown")
    return PRECISIONS.get(said, said)


def _compile(artifact: Fields, folder: str, settings: Fields, weights: Optional[Fields], profile: bool) -> Any:
    load_runtime()
    import openvino

    core = openvino.Core()
    path = os.path.join(folder, artifact["entry"])
    try:
        model = core.read_model(path) if weights is None else _read(core, path, weights)
    except Exception as error:  # the runtime's errors share no root
        raise ModelProblem("OpenVINO can't read %s: %s" % (artifact["entry"], _line(error))) from error
    try:
        return core.compile_model(model, "CPU", _config(artifact, settings, profile))
    except Exception as error:  # as above
        raise ModelProblem("OpenVINO can't compile %s: %s" % (artifact["entry"], _line(error))) from error


def _read(core: Any, path: str, weights: Fields) -> Any:
    """Read a model whose weights were decoded. The runtime gets a copy, which it keeps as long as it needs it."""
    import numpy as np
    import openvino

    with open(path, "rb") as file:
        described = file.read()
    parts = [value.reshape(-1).view(np.uint8) for value in weights.values()]
    return core.read_model(described, openvino.Tensor(np.concatenate(parts)))


def _config(artifact: Fields, settings: Fields, profile: bool) -> Fields:
    """The arithmetic is always stated: left alone, a CPU with bf16 or fp16 would silently compute in less than fp32."""
    precision = artifact["precision"]
    kind = "f16" if precision.get("fp16") == "compute" else "bf16" if precision.get("kind") == "bf16" else "f32"
    config: Fields = {
        "PERFORMANCE_HINT": str(settings.get("hint", "latency")).upper(),
        "INFERENCE_PRECISION_HINT": str(settings.get("inference_precision", kind)),
    }
    if precision.get("kind") == "int8-storage":
        # The plugin would round what such weights are multiplied with to 8 bits, call by call.
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    for ours, theirs in PROPERTIES.items():
        if ours in settings:
            config[theirs] = settings[ours]
    if profile:
        config["PERF_COUNT"] = True
    return config


def _contract_names(artifact: Fields) -> "set[str]":
    contract = artifact["contract"]
    names = {each["name"] for part in ("inputs", "outputs", "constants", "state_specs") for each in contract[part]}
    return names | {link["output"] for link in contract["state"]}


def _name(port: Any, wanted: "set[str]") -> str:
    """A port may have several names; the contract's is the one that counts."""
    return str(min(port.names & wanted or port.names or {port.node.friendly_name}))


def _place(ports: Any, name: str) -> int:
    for index, port in enumerate(ports):
        if name in port.names or name == port.node.friendly_name:
            return index
    raise ModelProblem("The compiled model has no output %r." % name)


def _line(error: BaseException) -> str:
    """OpenVINO wraps the sentence that matters in lines about where in its code it was thrown."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return "; ".join(telling[:3] or lines[:1] or [type(error).__name__])[:600]
