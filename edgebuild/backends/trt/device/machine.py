"""What TensorRT's side of the machine is: GPU, CUDA, driver, DLA, and the GPU memory in use."""

from __future__ import annotations

import ctypes

from .cuda import Cuda, Problem
from .log import Log, made

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

    Fields = Dict[str, Any]

NVMAP = "/sys/kernel/debug/nvmap/iovmm/maps"


def facts() -> Fields:
    """Return what an engine is tied to beside TensorRT's version, and the accelerators that TensorRT offers.

    Empty where TensorRT isn't installed or no GPU can be used.
    """
    try:
        import tensorrt as trt

        cuda = Cuda()
        cores = int(made(trt.Builder, Log()).num_DLA_cores)
    except (ImportError, Problem):
        return {}
    found = {
        "gpu_architecture": cuda.device_name(),
        "cuda": version_text(cuda.number("cudaRuntimeGetVersion")),
        "cuda_driver": version_text(cuda.number("cudaDriverGetVersion")),
        "accelerators": "dla" if cores else "none",
    }
    driver = _nvml_driver()
    return {**found, "driver": driver} if driver else found


def version_text(number: int) -> str:
    """Return CUDA's 12060 as ``12.6``."""
    return "%d.%d" % (number // 1000, number % 1000 // 10)


def accelerator_memory() -> Fields:
    """Return the bytes of GPU memory in use and who said so: nvmap up to Orin, NVML on Thor and desktop cards."""
    try:
        with open(NVMAP, encoding="ascii", errors="replace") as file:
            return {"source": "nvmap", "used_bytes": nvmap_bytes(file.read())}
    except OSError:
        pass

    class Memory(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    nvml = _nvml()
    if nvml is None:
        return {"source": "unknown", "used_bytes": None}
    device, memory = ctypes.c_void_p(), Memory()
    ok = nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) == 0
    ok = ok and nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
    return {"source": "NVML" if ok else "unknown", "used_bytes": memory.used if ok else None}


def nvmap_bytes(text: str) -> Optional[int]:
    """Return the total of nvmap's table, whose last line is ``total   123456K``."""
    for line in reversed(text.splitlines()):
        words = line.split()
        if len(words) >= 2 and words[0] == "total" and words[-1][-1:] == "K" and words[-1][:-1].isdigit():
            return int(words[-1][:-1]) * 1024
    return None


def _nvml() -> Any:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return nvml if nvml.nvmlInit_v2() == 0 else None


def _nvml_driver() -> Optional[str]:
    nvml = _nvml()
    text = ctypes.create_string_buffer(96)
    if nvml is None or nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text))) != 0:
        return None
    return text.value.decode("ascii", "replace")
