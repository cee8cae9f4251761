"""Small but complete projects, the command line as a process, and the state of a store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebuild.catalogue.project import load_project
from edgebuild.errors import EdgebuildError
from edgebuild.pipeline import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

DRIVER = Path(__file__).with_name("driver.py")
#: Generous: a shared machine may be slow, and another process may be measuring on it.
LIMIT_S = 900.0
CLASSES = 4
SHAPE = (1, 8, 8)

#: The whole project as edgebuild.toml tells it, table by table, so that a test can change one of them.
TABLES: Mapping[str, str] = {
    "project": 'name = "tiny"',
    "model": 'onnx = "model.onnx"',
    "[inputs]": 'name = "image"\nshape = ["batch", 1, 8, 8]\ndtype = "float32"',
    "freeze": "batch = 1",
    "data": 'calibration = "data:calibration"\nvalidation = "data:validation"\ntest = "data:test"',
    "metric": 'name = "accuracy"',
    "budget": "points = 2.0",
    "build": 'targets = ["quick"]\nthreads = 1',
}
#: One precision on one runtime: a build of a few seconds.
QUICK_TARGET = 'title = "This machine, for tests"\nprofiles = ["quick"]\n'
#: A board that isn't here, built for like this machine.
BOARD_TARGET = """\
title = "A board"
profiles = ["quick"]

[facts.arch]
value = "aarch64"
source = "a test"
date = "2026-11-22"
verified = "believed"
"""
QUICK_PROFILE = """\
title = "ONNX Runtime, one candidate"
backend = "onnxruntime"
requires_arch = ["x86_64", "aarch64"]
precisions = ["fp32"]

[[settings]]
threads = 1
spinning = false
arena = true
"""
DATA = """\
import numpy as np
from edgebuild import Sample

def read(split):
    with np.load(__file__.replace("data.py", f"{split}_arrays")) as arrays:
        for image, label in zip(arrays["image"], arrays["label"], strict=True):
            yield Sample(inputs={"image": image}, target=int(label))

def calibration():
    return read("calibration")

def validation():
    return read("validation")

def test():
    return read("test")
"""


def toml(tables: Mapping[str, str | None]) -> str:
    """Return edgebuild.toml with ``tables`` laid over those of the tiny project; None leaves one out."""
    merged = {**TABLES, **tables}
    return "\n".join(f"[{name}]\n{body}\n" for name, body in merged.items() if body is not None)


def write_project(folder: Path, tables: Mapping[str, str | None] | None = None) -> Path:
    """Write the tiny project: a convolutional classifier whose labels are its own answers, a few of them wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edgebuild.toml").write_text(toml(tables or {}))
    write_quick(folder)
    weights = classifier_weights()
    onnx.save(classifier(weights), str(folder / "model.onnx"))
    (folder / "data.py").write_text(DATA)
    generator = np.random.default_rng(1)
    for split, count in (("calibration", 64), ("validation", 400), ("test", 401)):
        images = generator.standard_normal((count, *SHAPE)).astype(np.float32)
        labels = classify(images, weights).argmax(axis=1)
        wrong = generator.random(count) < 0.05
        labels[wrong] = (labels[wrong] + 1) % CLASSES
        with (folder / f"{split}_arrays").open("wb") as file:
            np.savez(file, image=images, label=labels)
    return folder


def write_quick(folder: Path, *, target: str = QUICK_TARGET, profile: str = QUICK_PROFILE) -> None:
    """Write the quick target and its profile next to a project."""
    for kind, text in (("targets", target), ("profiles", profile)):
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / "quick.toml").write_text(text)


def classifier_weights() -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    shapes = {"w": (8, 1, 3, 3), "b": (8,), "v": (8 * 36, CLASSES), "c": (CLASSES,)}
    weights = {name: (generator.standard_normal(shape) / 4).astype(np.float32) for name, shape in shapes.items()}
    # Centred, so that every class is about as frequent.
    images = generator.standard_normal((1000, *SHAPE)).astype(np.float32)
    return {**weights, "c": weights["c"] - classify(images, weights).mean(axis=0)}


def classifier(weights: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["conv"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("Flatten", ["relu"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "v", "c"], ["logits"], name="head"),
    ]
    return model_of(
        nodes,
        inputs={"image": ["batch", *SHAPE]},
        outputs={"logits": ["batch", CLASSES]},
        weights=weights,
    )


def classify(images: NDArray[np.float32], weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The classifier in numpy."""
    windows = np.lib.stride_tricks.sliding_window_view(images[:, 0], (3, 3), axis=(1, 2))
    maps = np.einsum("nyxij,cij->ncyx", windows, weights["w"][:, 0]) + weights["b"][:, None, None]
    flat = np.maximum(maps, 0).reshape(len(images), -1)
    logits: NDArray[np.float32] = flat @ weights["v"] + weights["c"]
    return logits


def model_of(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, NDArray[Any]] | None = None,
    opsets: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """Return a model of float tensors."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 17}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


# The command line as a process


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str


def command(*args: str, driver: bool = True) -> list[str]:
    """Return the argument list: the command line with short protocols, or as it is."""
    start = [str(DRIVER)] if driver else ["-m", "edgebuild"]
    return [sys.executable, *start, *args]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1", **(extra or {})}


def run(*args: str, cwd: Path, env: Mapping[str, str] | None = None, driver: bool = True) -> Ended:
    """Run the command line in ``cwd`` to its end."""
    return finished(subprocess.Popen(command(*args, driver=driver), cwd=cwd, env=environment(env), **PIPES))


PIPES: Mapping[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
}


def finished(process: subprocess.Popen[str]) -> Ended:
    """Wait for a process; one that doesn't end in time is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"did not end within {LIMIT_S:g} s:\n{out}\n{err}") from None
    return Ended(code=process.returncode, out=out, err=err)


@contextlib.contextmanager
def started(*args: str, cwd: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start the command line and leave nothing of it running."""
    # A shell that runs its jobs in the background has them ignore Ctrl-C; a terminal doesn't.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command(*args), cwd=cwd, env=environment(env), **PIPES)
    finally:
        signal.signal(signal.SIGINT, previous)
    try:
        yield process
    finally:
        for pid in (*runners(cwd), process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ValueError):  # its pipes were read to their end already
            process.communicate()


def runners(project: Path) -> tuple[int, ...]:
    """Return the processes that run a project's runner: they live in its device folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if any(word.startswith(str(project.resolve() / ".edgebuild").encode()) for word in words):
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    found.append(int(path.name))
    return tuple(found)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Poll until ``what`` returns something true; fails when the process ends before."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        if process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"ended with {process.returncode} before that:\n{out}\n{err}")
        time.sleep(0.005)
    raise AssertionError("never happened")


# The store


def stored(root: Path) -> dict[str, str]:
    """Return every entry and content of a store with its digest, checked to be whole: nothing is half there."""
    entries = {path.name: path.read_bytes() for path in (root / "entries").glob("*")} if root.is_dir() else {}
    blobs = {path.name: digest(path) for path in (root / "blobs").glob("*/*")} if root.is_dir() else {}
    assert all(name == content for name, content in blobs.items()), "a content isn't what its name says"
    for key, manifest in entries.items():
        named = {file["sha256"] for file in json.loads(manifest)["manifest"]["files"]}
        assert named <= set(blobs), f"entry {key} names contents that are not there"
    return {**{key: hashlib.sha256(data).hexdigest() for key, data in entries.items()}, **blobs}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unfinished(root: Path) -> list[Path]:
    """Return what living or killed processes left in the store's staging."""
    return sorted((root / "tmp").iterdir()) if (root / "tmp").is_dir() else []


def assert_as_before(before: Mapping[str, str], root: Path) -> None:
    """The store holds what it held, perhaps more whole results, and nothing half done."""
    after = stored(root)
    assert before.items() <= after.items()
    assert unfinished(root) == []


def refused(
    folder: Path,
    *args: str,
    code: int,
    message: str,
    hint: str,
    env: Mapping[str, str] | None = None,
    driver: bool = True,
) -> Ended:
    """Run a command that must be refused with exactly this on stderr, leaving the store as it was."""
    root = folder / ".edgebuild" / "store"
    before = stored(root)
    ended = run(*args, cwd=folder, env=env, driver=driver)
    assert told(ended.err) == f"edgebuild: {message}" + (f"\n  how to fix it: {hint}" if hint else ""), ended
    assert ended.code == code
    assert runners(folder) == ()
    assert_as_before(before, root)
    return ended


def refused_build(folder: Path, *, message: str, hint: str) -> None:
    """Build in this process what must be refused with exactly this, leaving the store as it was.

    That the command line prints such an error is ``refused``'s to show.
    """
    root = folder / ".edgebuild" / "store"
    before = stored(root)
    with pytest.raises(EdgebuildError) as caught:
        build(load_project(folder))
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.exit_code == 2
    assert_as_before(before, root)


def told(err: str) -> str:
    """Return the error on stderr without the lines of progress before it."""
    start = err.find("edgebuild: ")
    return err[start:].rstrip("\n") if start >= 0 else err


# Builds


def newest(folder: Path) -> Path:
    """Return the folder of a project's newest build."""
    builds = sorted((folder / ".edgebuild" / "builds").glob("*/build.json"), key=lambda path: path.stat().st_mtime_ns)
    return builds[-1].parent


def record(folder: Path) -> dict[str, Any]:
    """Return the record of a project's newest build."""
    found: dict[str, Any] = json.loads((newest(folder) / "build.json").read_bytes())
    return found


def sessions(folder: Path) -> list[str]:
    """Return the measurement sessions of a project."""
    return sorted(path.name for path in (folder / ".edgebuild" / "measurements").glob("*/"))


def copy(project: Path, folder: Path) -> Path:
    """Copy a project with all it built; hard links become files of their own."""
    shutil.copytree(project, folder, symlinks=True)
    return folder
