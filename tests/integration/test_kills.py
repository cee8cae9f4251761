"""A build that is killed at any moment and started again ends as one that nobody disturbed: same keys, same bytes."""

from __future__ import annotations

import contextlib
import json
import queue
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest

import edgebuild
from edgebuild.core.values import digest_bytes, digest_json
from edgebuild.devices.runner.turns import OVERRIDE
from edgebuild.execution.store import Store
from tests.cli.example import environment, newest, record, runners, stored, unfinished, write_project, write_quick

from .conftest import PROFILE

KILLS = 200
WORKERS = 2
LIMIT_S = 900.0
#: Beyond the undisturbed build's length, so that its last moments are among them on a slower run too.
STRETCH = 1.1
#: Forks a build that has everything imported already, and kills it after so many seconds: ``folder<TAB>seconds``.
SERVER = """
import os, signal, sys, time
import tests.cli.driver
from edgebuild.measuring import protocols
protocols.SCREEN = protocols.SCREEN.model_copy(update={"launches": 1, "max_launches": 1})
protocols.CERTIFY = protocols.CERTIFY.model_copy(update={"launches": 2, "max_launches": 2})
import edgebuild.building.context, edgebuild.pipeline, edgebuild.quantisers.registry
import numpy, onnx, onnxruntime, pydantic, scipy.stats
from edgebuild.cli.app import app
from edgebuild.cli.console import run

def build(folder):
    os.chdir(folder)
    os.setsid()
    for number in (1, 2):
        os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["edgebuild", "build"]
    os._exit(run(app))

for line in sys.stdin:
    folder, _, seconds = line.rstrip("\\n").partition("\\t")
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        build(folder)
    ended, status = 0, 0
    while not ended and time.monotonic() < started + float(seconds):
        ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), time.monotonic() - started, flush=True)
"""


class Builds:
    """Runs builds in a process that has imported all there is to import."""

    def __init__(self, lock: Path) -> None:
        # A lock of its own: no figure of these builds is read.
        env = environment({OVERRIDE: str(lock)})
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
        )

    def run(self, project: Path, seconds: float) -> tuple[int, float]:
        """Build, or be killed after so many seconds; return the exit code and how long it took."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{project}\t{seconds}\n")
        self._server.stdin.flush()
        code, took = self._server.stdout.readline().split()
        return int(code), float(took)

    def close(self) -> None:
        self._server.communicate()


def project_in(folder: Path) -> Path:
    """Two precisions, of which the smaller wins, so that no clock decides what is chosen."""
    project = write_project(folder, {"build": 'targets = ["quick"]\nthreads = 1\nobjective = "size"'})
    write_quick(project, profile=PROFILE.replace('"fp16", ', ""))
    return project


def result_of(project: Path) -> dict[str, Any]:
    """What a finished build must have made, whatever happened on its way."""
    root = project / ".edgebuild" / "store"
    with Store.open(root) as store:
        store.gc()  # sweeps what the killed one left
    stored(root)  # whole, every content what its name says
    assert unfinished(root) == []
    assert runners(project) == ()
    assert not list((root / "scratch").iterdir()), "unfinished work"
    manifests = {path.name: json.loads(path.read_bytes())["manifest"] for path in (root / "entries").iterdir()}
    built = record(project)
    shipped = newest(project) / "artifact"
    return {
        "keys and contents": {key: manifest["files"] for key, manifest in manifests.items()},
        "choice": [built["outcome"], built["chosen"], {**built["test_set"], "opened_at": ""}],
        "candidates": [[each["id"], each["status"], each["validation"], each["test"]] for each in built["candidates"]],
        "artifact": {
            path.relative_to(shipped).as_posix(): digest_bytes(path.read_bytes())
            for path in sorted(shipped.rglob("*"))
            if path.is_file()
        },
    }


def code_digest() -> str:
    folder = Path(edgebuild.__file__).parent
    return digest_json([[str(path.relative_to(folder)), path.read_text()] for path in sorted(folder.rglob("*.py"))])


@pytest.mark.proof
def test_a_build_killed_at_any_moment_ends_as_if_it_had_not_been(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Moments that held for this code aren't tried again: an interrupted proof resumes. Two builds run at a time."""
    cache, name = request.config.cache, f"edgebuild/kills-{code_digest()[:16]}"
    assert cache is not None
    held: list[int] = cache.get(name, [])
    with contextlib.ExitStack() as stack:
        free: queue.Queue[Builds] = queue.Queue()
        for number in range(WORKERS):
            free.put(stack.enter_context(contextlib.closing(Builds(tmp_path / f"lock-{number}"))))
        builds = free.get()
        code, length_s = builds.run(project_in(tmp_path / "undisturbed"), LIMIT_S)
        free.put(builds)
        assert code == 0, (tmp_path / "undisturbed" / "log").read_text()
        right = result_of(tmp_path / "undisturbed")
        assert len(right["keys and contents"]) > 10

        def tried(seed: int) -> int:
            builds = free.get()
            try:
                project = project_in(tmp_path / f"killed-{seed}")
                at = random.Random(seed).random() * STRETCH
                killed, _ = builds.run(project, at * length_s)
                code, took_s = builds.run(project, LIMIT_S)
            finally:
                free.put(builds)
            assert (killed, code) in {(-9, 0), (0, 0)}, (seed, at, (project / "log").read_text())
            assert result_of(project) == right, (seed, at)
            shutil.rmtree(project)
            print(f"{seed}: {killed} at {at:.0%} of {length_s:.1f} s, the next took {took_s:.1f} s", flush=True)
            return seed

        with ThreadPoolExecutor(WORKERS) as pool:
            for done in as_completed(pool.submit(tried, seed) for seed in range(KILLS) if seed not in held):
                held.append(done.result())
                cache.set(name, held)
