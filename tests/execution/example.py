"""A step and helpers that the tests of this folder share; importable from child processes too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgebuild.core.steps import NoProgress, ProjectCode, RunsOn, Step, StepContext, never_stop
from edgebuild.core.values import digest_bytes
from edgebuild.execution.executor import Executor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.execution.store import Store


def key(text: str) -> str:
    return digest_bytes(text.encode())


def folder_with(path: Path, **files: bytes) -> Path:
    for name, data in files.items():
        file = path / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


def commit(store: Store, name: str, data: bytes) -> str:
    """Commit one entry that holds ``data`` under the key of ``name``."""
    with store.work_folder() as folder:
        store.commit(key(name), folder_with(folder, data=data), {"name": name})
    return key(name)


def contents(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def whole_store(root: Path) -> dict[str, bytes]:
    """Everything in a store but its records of verified files and of past builds, which say nothing about content."""
    ignored = ("verified/", "labels/", "tmp/")
    return {name: data for name, data in contents(root).items() if not name.startswith(ignored)}


class Repeat(Step):
    """A step that writes its input, or its text, several times over."""

    kind: ClassVar[str] = "repeat"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("pydantic",)
    #: A note for the test, and what it makes the step do: neither shapes the output.
    unkeyed: ClassVar[frozenset[str]] = frozenset({"ran", "act"})

    text: str = ""
    times: int = 1
    ran: Path | None = None
    act: Callable[..., None] | None = None

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        if self.ran is not None:
            with self.ran.open("a") as file:
                file.write(f"{os.getpid()}\n")
        if self.act is not None:
            self.act(inputs, out_dir, ctx)
        data = b"".join((path / "data").read_bytes() for path in inputs.values()) + self.text.encode()
        (out_dir / "data").write_bytes(data * self.times)


def executor(
    store: Store,
    *,
    seed: int = 0,
    isa: str = "avx2",
    device: Mapping[str, str] | None = None,
    reached: object | None = None,
    code: ProjectCode | None = None,
    project: str = "",
) -> Executor:
    return Executor(
        store=store,
        progress=NoProgress(),
        check=never_stop,
        seed=seed,
        isa=isa,
        device_configuration=device or {},
        device=reached,
        code=code,
        project=project,
    )


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a child process that can import the product and this module."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here.parent}:{here.parents[1]}"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], limit_s: float = 30) -> None:
    """Wait until ``condition`` holds; fails with the child's words when the child ends first."""
    end = time.monotonic() + limit_s
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.005)
