"""The few calls of libcudart that are needed, through ctypes: JetPack brings no Python bindings for CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import glob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: cudaMemcpyKind, cudaDeviceScheduleSpin and cudaDeviceScheduleBlockingSync of driver_types.h.
TO_DEVICE, TO_HOST = 1, 2
SCHEDULE_SPIN, SCHEDULE_BLOCK = 1, 4
RELAXED_CAPTURE = 2
#: cudaDevAttrComputeCapabilityMajor and -Minor.
CAPABILITY = (75, 76)


class Problem(Exception):
    """What to tell the user; ``kind`` is "model" or "environment"."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.hint = hint


def no_driver() -> Problem:
    """Return what is wrong where TensorRT is there and no GPU can be used."""
    return Problem(
        "environment",
        "TensorRT is installed, but there is no CUDA driver that it can use.",
        "Run on a machine with an NVIDIA GPU; on a Jetson, check that JetPack's driver is loaded (`nvidia-smi`).",
    )


class Cuda:
    """libcudart; every failure is a ``Problem`` with the call's name. Making one raises where there is no GPU."""

    def __init__(self) -> None:
        self._lib = _library()
        self._lib.cudaGetErrorString.restype = ctypes.c_char_p
        count = ctypes.c_int(0)
        if self._lib.cudaGetDeviceCount(ctypes.byref(count)) != 0 or count.value == 0:
            raise no_driver()

    def call(self, name: str, *arguments: Any) -> None:
        """Call ``name`` and raise if it doesn't answer 0."""
        status = getattr(self._lib, name)(*arguments)
        if status != 0:
            said = self._lib.cudaGetErrorString(status)
            raise Problem("environment", "%s failed: %s." % (name, said.decode("utf-8", "replace")))

    def number(self, name: str, *arguments: int) -> int:
        """Return the whole number that ``name`` writes through its first argument."""
        value = ctypes.c_int(0)
        self.call(name, ctypes.byref(value), *[ctypes.c_int(each) for each in arguments])
        return value.value

    def device_name(self) -> str:
        """Return the GPU's compute capability, which an engine is tied to."""
        return ".".join(str(self.number("cudaDeviceGetAttribute", which, 0)) for which in CAPABILITY)

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
