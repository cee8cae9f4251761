"""The versions of everything that shapes a build: its lock, and what a bug report begins with."""

from __future__ import annotations

import platform
from importlib import metadata

#: Distributions whose versions shape a build.
LOCKED = (
    "edgebuild",
    "numpy",
    "nncf",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "pycocotools",
    "safetensors",
    "scipy",
    "tensorly",
    "torch",
    "torch-pruning",
)


def installed_versions() -> tuple[tuple[str, str], ...]:
    """Return the version of everything that shapes a build and is installed, Python included."""
    versions = [("python", platform.python_version())]
    for name in LOCKED:
        try:
            versions.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(versions)
