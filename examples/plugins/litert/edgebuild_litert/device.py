"""Runs .tflite files in LiteRT. Travels to the device alone: Python 3.8, numpy and ai-edge-litert only."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ModelProblem(Exception):
    """The model can't be loaded or run; ``kind`` tells the runner whom to tell."""

    kind = "model"


def version() -> str | None:
    """Return the runtime's version, or None where it isn't installed."""
    from importlib import metadata

    try:
        return metadata.version("ai-edge-litert")
    except metadata.PackageNotFoundError:
        return None


def load_runtime() -> None:
    """Import the runtime."""
    import ai_edge_litert.interpreter  # noqa: F401


class Session:
    """One model in one interpreter. ``set_tensor`` and ``get_tensor`` copy, so what is returned is the caller's."""

    def __init__(self, artifact: dict[str, Any], folder: str, settings: dict[str, Any]) -> None:
        self._interpreter = _open(artifact, folder, settings)
        self._inputs = {each["name"]: each["index"] for each in self._interpreter.get_input_details()}
        self._outputs = {each["name"]: each["index"] for each in self._interpreter.get_output_details()}
        self.input_names = list(self._inputs)
        self.output_names = list(self._outputs)

    def run(self, inputs: dict[str, Any]) -> list[Any]:
        """Run once."""
        for name, index in self._inputs.items():
            self._interpreter.set_tensor(index, inputs[name])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs.values()]

    def close(self) -> None:
        """Free the model."""
        del self._interpreter


def layers(
    artifact: dict[str, Any], folder: str, settings: dict[str, Any], inputs: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the nodes that the interpreter holds; it gives no time per node, so ``time_us`` is None."""
    del inputs
    interpreter = _open(artifact, folder, settings)
    found = []
    for node in interpreter._get_ops_details():
        kind = node["operand_types"][0].__name__
        precision = {"float32": "fp32", "float16": "fp16", "uint8": "int8"}.get(kind, kind)
        name = f"{node['index']}-{node['op_name']}"
        found.append({"name": name, "op": node["op_name"], "precision": precision, "time_us": None})
    return found


def _open(artifact: dict[str, Any], folder: str, settings: dict[str, Any]) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    path = os.path.join(folder, artifact["entry"])  # noqa: PTH118
    try:
        interpreter = Interpreter(model_path=path, num_threads=int(settings.get("threads", 1)))
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelProblem(f"LiteRT can't load {artifact['entry']}: {error}") from error
    return interpreter
