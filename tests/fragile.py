"""ONNX Runtime with a weak spot: real device code that crashes, or hangs, in one operation on one precision.

Where it does so, the environment variable FRAGILE says: ``operation:precision:how`` words, such as
``evaluate:int8:segv memory:fp16:hang``. It reaches the runner as the host's environment does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.backends.ort.host import OnnxRuntime

if TYPE_CHECKING:
    from pathlib import Path

WEAKNESS = """

import os as _os
import signal as _signal
import sys as _sys
import time as _time

_Session, _layers, _compile = Session, layers, compile


def _break(operation, kind):
    for word in _os.environ.get("FRAGILE", "").split():
        where, what, how = word.split(":")
        if (where, what) == (operation, kind):
            _sys.stderr.write("the runtime is about to break\\n")
            _sys.stderr.flush()
            if how == "hang":
                _time.sleep(600)
            _os.kill(_os.getpid(), {"segv": _signal.SIGSEGV, "kill": _signal.SIGKILL}[how])


def _operation():
    loaded = {name.rpartition(".")[2] for name in _sys.modules}
    return next((name for name in ("memory", "bursts", "measure", "evaluate") if name in loaded), "")


class Session(_Session):
    def __init__(self, artifact, folder, settings):
        _break(_operation(), artifact["precision"]["kind"])
        super().__init__(artifact, folder, settings)


def layers(artifact, folder, settings, inputs):
    _break("layers", artifact["precision"]["kind"])
    return _layers(artifact, folder, settings, inputs)


def compile(model, out, options):
    with open(model, "rb") as file:
        _break("compile", "int8" if b"QuantizeLinear" in file.read() else "fp32")
    return _compile(model, out, options)
"""


def write_fragile(folder: Path) -> Path:
    """Write the device code and return its path."""
    path = folder / "fragile_device.py"
    path.write_text(OnnxRuntime.device_file.read_text(encoding="utf-8") + WEAKNESS, encoding="utf-8")
    return path
