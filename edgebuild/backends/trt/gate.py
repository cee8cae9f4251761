"""What TensorRT-RTX says of a model on a machine without a GPU: it parses and builds, which proves nothing for boards.

Run as a program (``python gate.py DEVICE_FILE MODEL OPTIONS``) it is the process that may crash: it answers with one
line of JSON. It runs the backend's own device code with TensorRT-RTX's bindings in TensorRT's place.
"""

from __future__ import annotations

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
    import importlib
    import runpy

    sys.modules["tensorrt"] = importlib.import_module(PACKAGE)
    device = runpy.run_path(device_file, run_name="device")
    accepted, message = True, ""
    try:
        device["plan"](model, json.loads(options), device["Log"]())
    except device["Problem"] as error:
        accepted, message = False, str(error)
    sys.stdout.write("\n" + _MARK + json.dumps({"accepted": accepted, "message": message}) + "\n")


if __name__ == "__main__":
    _child(*sys.argv[1:])
