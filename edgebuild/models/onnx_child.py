"""`python -m edgebuild.models.onnx_child IN OUT LIBRARY TASK…`: native code on a model, in a process of its own.

Some models crash onnxruntime's optimiser, onnx's converter or its shape inference, and some make them take all memory:
none of that may take a build with it. LIBRARY is empty where there is none. Exits with 0; with 1 and JSON on stdout
where a task refuses the model (``task``, ``reason``); with ``NOT_INSTALLED``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.errors import EdgebuildError, EnvironmentGap, ModelError
from edgebuild.models.onnx_graphs import save, tidy

if TYPE_CHECKING:
    from collections.abc import Callable

#: How the process says that onnxruntime isn't there.
NOT_INSTALLED = 3
#: Address space of the process: what the libraries take by themselves, and so many times the model.
LEAST_MEMORY_BYTES = 4 << 30
COPIES = 10
#: No task takes longer on a model that is one.
LIMIT_S = 900


class Refused(ModelError):
    """A task refused the model; ``task`` and ``reason`` say which and why."""

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(reason)
        self.task, self.reason = task, reason


def run_apart(model: Any, *tasks: str, library: Path | None = None) -> Any | None:
    """Return what the tasks, one after the other, make of a model; None where one of them crashes or
    never ends.

    Raises ``Refused`` where one says no, ``EnvironmentGap`` without onnxruntime.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgebuild-") as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        save(model, source)
        argv = [sys.executable, "-m", "edgebuild.models.onnx_child", str(source), str(target), str(library or "")]
        try:
            done = subprocess.run(
                [*argv, *tasks], capture_output=True, text=True, errors="replace", check=False, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return None
        if done.returncode == NOT_INSTALLED:
            raise EnvironmentGap("onnxruntime is not installed.", hint="pip install 'edgebuild[onnxruntime]'")
        if done.returncode == 1 and done.stdout:
            said = json.loads(done.stdout.splitlines()[-1])
            raise Refused(said["task"], said["reason"])
        return tidy(onnx.load(str(target))) if done.returncode == 0 else None


def main(source: str, target: str, library: str, *tasks: str) -> int:
    """Write what the tasks make of a model; return the exit status."""
    _limit_memory(Path(source).stat().st_size)
    for task in tasks:
        try:
            _TASKS[task](source, target, library)
        except ImportError:
            return NOT_INSTALLED
        except Exception as error:  # noqa: BLE001 - neither library's exceptions share a root
            reason = error.message if isinstance(error, EdgebuildError) else str(error) or type(error).__name__
            print(json.dumps({"task": task, "reason": reason}))
            return 1
        source = target
    return 0


def _limit_memory(model_bytes: int) -> None:
    """Let an allocation that no model of this size needs fail, rather than take other processes with it."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # not every system has the limit
        import resource

        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = min(total, LEAST_MEMORY_BYTES + COPIES * model_bytes)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _session(source: str, library: str, level: str, target: str = "") -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    if target:
        options.optimized_model_filepath = target
    if library:
        options.register_custom_ops_library(library)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _simplify(source: str, target: str, library: str) -> None:
    """onnxruntime's *basic* optimisations."""
    made = f"{target}.optimised"
    _session(source, library, "ORT_ENABLE_BASIC", made)
    Path(made).replace(target)


def _open(source: str, target: str, library: str) -> None:
    """What loads a model loads it; it stays as it is."""
    _session(source, library, "ORT_DISABLE_ALL")
    if source != target:
        Path(target).write_bytes(Path(source).read_bytes())


def _infer(source: str, target: str, *, strict: bool = False) -> None:
    import onnx

    save(onnx.shape_inference.infer_shapes(tidy(onnx.load(source)), strict_mode=strict, data_prop=True), Path(target))


def _raise_opset(source: str, target: str, opset: int) -> None:
    import onnx

    save(tidy(onnx.version_converter.convert_version(onnx.load(source), opset)), Path(target))


_TASKS: dict[str, Callable[[str, str, str], None]] = {
    "open": _open,
    "simplify": _simplify,
    "infer": lambda source, target, _: _infer(source, target),
    "infer-strictly": lambda source, target, _: _infer(source, target, strict=True),
    "opset-13": lambda source, target, _: _raise_opset(source, target, 13),
}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
