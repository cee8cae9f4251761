"""What TensorRT-RTX says of a model on a machine without a GPU: it parses and builds, which proves nothing for boards.

Run as a program (``python gate.py DEVICE_FILE MODEL OPTIONS``) it is the process that may crash: it answers with one
line of JSON. It runs the backend's own device code with TensorRT-RTX's bindings in TensorRT's place.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "tensorrt_rtx"
DISTRIBUTION = "tensorrt-rtx-cu13"
LIMIT_S = 600.0
_MARK = "edgebuild-gate:"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``accepted`` is None where TensorRT-RTX isn't installed: that is never a pass."""

    accepted: bool | None
    version: str | None = None
    message: str = ""

    @property
    def label(self) -> str:
        """What may be said of the model, no more."""
        if self.accepted is None:
            return f"not gated: {self.message}"
        said = "accepted" if self.accepted else "refused"
        return f"{said} by TensorRT-RTX {self.version}" + (f": {self.message}" if self.message else "")


def installed() -> str | None:
    """Return the version of TensorRT-RTX on this host, or None."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return None


def gate(model: Path, device_file: Path, options: dict[str, Any], *, limit_s: float = LIMIT_S) -> Verdict:
    """Return TensorRT-RTX's verdict on ``model``; a crash or a hang of it is a refusal that says so."""
    version = installed()
    if version is None:
        return Verdict(accepted=None, message="TensorRT-RTX is not installed: pip install 'edgebuild[tensorrt]'")
    argv = [sys.executable, "-I", str(Path(__file__)), str(device_file), str(model), json.dumps(options)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        return Verdict(accepted=False, version=version, message=f"it gave no answer within {limit_s:g} s")
    lines = [line[len(_MARK) :] for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode != 0 or not lines:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1][:300]
        return Verdict(accepted=False, version=version, message=f"it ended with status {done.returncode} ({said})")
    answer = json.loads(lines[-1])
    return Verdict(accepted=answer["accepted"], version=version, message=answer["message"])


def _child(device_file: str, model: str, options: str) -> None:
    sys.modules["tensorrt"] = importlib.import_module(PACKAGE)
    device = _loaded(Path(device_file))
    accepted, message = True, ""
    try:
        device.plan(model, json.loads(options), device.Log())
    except device.Problem as error:
        accepted, message = False, str(error)
    sys.stdout.write("\n" + _MARK + json.dumps({"accepted": accepted, "message": message}) + "\n")


def _loaded(device_file: Path) -> Any:
    """Import the device code under a name of its own, as the runner does."""
    places = [str(device_file.parent)] if device_file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location("device", device_file, submodule_search_locations=places)
    if spec is None or spec.loader is None:
        raise ImportError(f"{device_file} can't be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["device"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    _child(*sys.argv[1:])
