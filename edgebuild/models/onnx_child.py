"""`python -m edgebuild.models.onnx_child IN OUT LIBRARY TASK…`: native code on a model, in a process of its own.

Some models crash onnxruntime's optimiser, onnx's converter or its shape inference, and some make them take all memory:
none of that may take a build with it. LIBRARY is empty where there is none. Exits with 0; with ``REFUSED`` and JSON on
stdout where a task refuses the model (``task``, ``reason``); with ``NOT_INSTALLED`` or ``DISK_FULL``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.errors import EdgebuildError, EnvironmentGap, ModelError, StoreError
from edgebuild.execution.disk import FULL
from edgebuild.models.onnx_graphs import Names, graphs_of, save, tidy

if TYPE_CHECKING:
    from collections.abc import Callable

#: How the process says that a task refuses the model, that onnxruntime isn't there, and that the disk is full.
REFUSED, NOT_INSTALLED, DISK_FULL = 10, 11, 12
#: How native code crashes on a model; any other signal comes from the machine or a person.
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
#: One thread and few arenas: what each reserves counts as memory, and machines have many cores.
FRUGAL = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
#: Address space of the process: what the libraries take on their own, and this many times the model.
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
    """Return what the tasks, one after the other, make of a model; None where one of them crashes.

    Raises ``Refused`` where one says no, ``EnvironmentGap`` without onnxruntime and where the machine ends the process
    or time does, ``StoreError`` where the disk for temporary files is full.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgebuild-") as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        try:
            save(model, source)
        except OSError as error:
            raise _disk_full(folder) if error.errno in FULL else error from error
        done = _run([str(source), str(target), str(library or ""), *tasks])
        if done.returncode == NOT_INSTALLED:
            raise EnvironmentGap("onnxruntime is not installed.", hint="pip install 'edgebuild[onnxruntime]'")
        if done.returncode == DISK_FULL:
            raise _disk_full(folder)
        if done.returncode == REFUSED:
            said = json.loads(done.stdout.splitlines()[-1])
            raise Refused(said["task"], said["reason"])
        if done.returncode == 0:
            return tidy(onnx.load(str(target)))
    if -done.returncode in CRASHES:
        return None
    raise EnvironmentGap(
        f"The process that runs native code on the model ({', '.join(tasks)}) ended with status {done.returncode}: "
        f"{(done.stderr.strip().splitlines() or ['it said nothing'])[-1][:300]}",
        hint="Was memory short (status -9)? Try again.",
    )


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    # -P: a module in the working folder, which may be a stranger's, is none of ours.
    argv = [sys.executable, "-P", "-m", "edgebuild.models.onnx_child", *arguments]
    package = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    try:
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=LIMIT_S,
            env={**os.environ, **FRUGAL, "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentGap(
            f"Native code didn't finish with the model within {LIMIT_S} s.", hint="Try a quieter or faster machine."
        ) from error


def _disk_full(folder: str) -> StoreError:
    return StoreError(
        f"The disk for temporary files is full: {Path(folder).parent}.", hint="Free some space, or set TMPDIR."
    )


def main(source: str, target: str, library: str, *tasks: str) -> int:
    """Write what the tasks make of a model; return the exit status."""
    _limit_memory(Path(source).stat().st_size)
    for task in tasks:
        try:
            _TASKS[task](source, target, library)
        except ImportError:
            return NOT_INSTALLED
        except Exception as error:  # noqa: BLE001 - neither library's exceptions share a root
            if isinstance(error, OSError) and error.errno in FULL:
                return DISK_FULL
            reason = error.message if isinstance(error, EdgebuildError) else str(error) or type(error).__name__
            print(json.dumps({"task": task, "reason": reason}))
            return REFUSED
        source = target
    return 0


def _limit_memory(model_bytes: int) -> None:
    """Let an allocation that no model of this size needs fail, rather than take other processes with it."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # not every system has the limit
        import resource

        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = min(total, LEAST_MEMORY_BYTES + COPIES * model_bytes)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _session(source: str, library: str, level: str, target: str = "") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if target:
        options.optimized_model_filepath = target
    if library:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _simplify(source: str, target: str, library: str) -> None:
    """onnxruntime's *basic* optimisations."""
    made = f"{target}.optimised"
    _session(source, library, "ORT_ENABLE_BASIC", made)
    _rename_added(source, made)
    Path(made).replace(target)


def _rename_added(source: str, made: str) -> None:
    """Rename the constants that the optimiser added: optimised again it may make up their names again, and stumble.

    onnxruntime 1.32 does so over two passes of MatMulAddFusion: "Attempt to replace the existing tensor".
    """
    import onnx

    model, free = onnx.load(made), Names(onnx.load(source))
    added = [tensor.name for tensor in model.graph.initializer if free.value(tensor.name) == tensor.name]
    names = Names(model)
    new = {name: names.value(f"{name}_added") for name in added}
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for graph in graphs_of(model.graph):
        for node in graph.node:
            node.input[:] = [new.get(name, name) for name in node.input]
    save(tidy(model), Path(made))


def _open(source: str, target: str, library: str) -> None:
    """What loads a model loads it; it stays as it is."""
    _session(source, library, "ORT_DISABLE_ALL")
    if source != target:
        Path(target).write_bytes(Path(source).read_bytes())


def _infer(source: str, target: str, *, strict: bool = False) -> None:
    import onnx

    save(onnx.shape_inference.infer_shapes(tidy(onnx.load(source)), strict_mode=strict, data_prop=True), Path(target))


def _note_types(source: str, target: str, library: str) -> None:
    """Note what onnxruntime finds of values of which onnx's inference, which knows fewer operators, finds nothing."""
    import onnx

    model, asked = onnx.load(source), onnx.load(source)
    graph = model.graph
    known = {value.name for value in (*graph.input, *graph.output, *graph.value_info)}
    open_ = [name for node in graph.node for name in node.output if name and name not in known]
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in open_)
    save(asked, Path(f"{target}.asked"))
    given = {value.name: value for value in graph.output}
    try:
        answers = _session(f"{target}.asked", library, "ORT_DISABLE_ALL").get_outputs()
    except Exception:  # noqa: BLE001 - then it doesn't know either, and what needs the types says so
        answers = []
    for said in answers:
        element, value = _ELEMENTS.get(said.type), given.get(said.name)
        if element is None or (value is not None and value.type.tensor_type.HasField("shape")):
            continue
        # An empty shape is a scalar's, or none that it knows.
        noted = onnx.helper.make_tensor_value_info(said.name, element, said.shape or None)
        (value or graph.value_info.add()).CopyFrom(noted)
    save(model, Path(target))


def _raise_opset(source: str, target: str, opset: int) -> None:
    import onnx

    save(tidy(onnx.version_converter.convert_version(onnx.load(source), opset)), Path(target))


#: ONNX's numbers for the element types that onnxruntime names in its own way.
_ELEMENTS = {
    f"tensor({name})": number
    for number, name in enumerate(
        ("float", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "double"), start=1
    )
}

_TASKS: dict[str, Callable[[str, str, str], None]] = {
    "open": _open,
    "simplify": _simplify,
    "infer": lambda source, target, _: _infer(source, target),
    "note-types": _note_types,
    "infer-strictly": lambda source, target, _: _infer(source, target, strict=True),
    "opset-13": lambda source, target, _: _raise_opset(source, target, 13),
}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
