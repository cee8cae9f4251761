"""Builds and runs TensorRT engines. Travels to the device alone: Python 3.8, numpy, tensorrt and libcudart only.

Written for TensorRT 8.5, 10 and 11 by asking each library what it has. What it was run against is in docs/jetson.md.
"""

from __future__ import annotations

from .cuda import Cuda, Problem
from .engine import ENGINE, compile, plan  # noqa: A004  the operation's name
from .inspector import described_layer, lost_precision, placed
from .log import Log
from .machine import accelerator_memory, facts, nvmap_bytes, version_text
from .session import Session, layers, numpy_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

__all__ = [
    "ENGINE",
    "Cuda",
    "Log",
    "Problem",
    "Session",
    "accelerator_memory",
    "compile",
    "described_layer",
    "facts",
    "layers",
    "load_runtime",
    "lost_precision",
    "numpy_type",
    "nvmap_bytes",
    "placed",
    "plan",
    "version",
    "version_text",
]


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
