"""Runs .onnx files as they are. Travels to the device alone."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def version() -> str | None:
    """Return the runtime's version, or None where it isn't installed."""
    from importlib import metadata

    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return None


def load_runtime() -> None:
    """Import the runtime."""
    import onnxruntime  # noqa: F401


class Session:
    """One model."""

    def __init__(self, artifact: dict[str, Any], folder: str, settings: dict[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = int(settings.get("threads", 1))
        path = os.path.join(folder, artifact["entry"])  # noqa: PTH118
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input_names = [each.name for each in self._session.get_inputs()]
        self.output_names = [each.name for each in self._session.get_outputs()]

    def run(self, inputs: dict[str, Any]) -> list[Any]:
        """Run once."""
        return list(self._session.run(None, inputs))

    def close(self) -> None:
        """Free the model."""
        del self._session


def layers(
    artifact: dict[str, Any], folder: str, settings: dict[str, Any], inputs: dict[str, Any]
) -> list[dict[str, Any]]:
    """Say nothing of single layers."""
    del artifact, folder, settings, inputs
    return []
