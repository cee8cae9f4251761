"""Builds that are stopped, killed, hung or doubled: nothing is left running or half done, and the next run goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper

from .example import (
    SHAPE,
    assert_as_before,
    copy,
    finished,
    model_of,
    record,
    run,
    runners,
    sessions,
    started,
    stored,
    told,
    toml,
    unfinished,
    wait_for,
    write_project,
)

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from numpy.typing import NDArray

#: Made before the evaluation that is interrupted here.
EARLIER = (
    "import the ONNX model",
    "read the calibration data",
    "describe the calibration data",
    "read the validation data",
    "describe the validation data",
    "read the test data",
    "describe the test data",
    "reference on validation",
    "freeze the model",
    "compile quick/fp32",
)
DATA = """\
import numpy as np
from edgebuild import Sample

def read(seed):
    generator = np.random.default_rng(seed)
    for _ in range(48):
        yield Sample(inputs={"image": generator.standard_normal((1, 8, 8)).astype(np.float32)}, target=0)

def calibration():
    return read(1)

def validation():
    return read(2)

def test():
    return read(3)
"""


def slow_model() -> onnx.ModelProto:
    """A model of a few tens of milliseconds, so that its evaluation can be caught while it runs."""
    generator = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {
        "repeats": np.array([1, 1, 40, 40], dtype=np.int64),
        "w": (generator.standard_normal((16, 1, 3, 3)) / 3).astype(np.float32),
        "v": (generator.standard_normal((16, 16, 3, 3)) / 12).astype(np.float32),
        "u": (generator.standard_normal((16, 4))).astype(np.float32),
    }
    nodes = [
        helper.make_node("Tile", ["image", "repeats"], ["large"]),
        helper.make_node("Conv", ["large", "w"], ["first"]),
        helper.make_node("Relu", ["first"], ["positive"]),
        helper.make_node("Conv", ["positive", "v"], ["second"]),
        helper.make_node("Conv", ["second", "v"], ["third"]),
        helper.make_node("GlobalAveragePool", ["third"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "u"], ["logits"]),
    ]
    return model_of(nodes, inputs={"image": ["batch", *SHAPE]}, outputs={"logits": ["batch", 4]}, weights=weights)


def evaluating(project: Path) -> bool:
    """Whether the first outputs of an evaluation are there."""
    return any((project / ".edgebuild" / "device" / "work").glob("*/logits.npy"))


def waiting_runner(project: Path, process: subprocess.Popen[str]) -> int:
    """Return the process that evaluates."""
    wait_for(lambda: evaluating(project), process)
    (runner,) = runners(project)
    return runner


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A slow project whose first build was stopped by Ctrl-C while it evaluated, and how that build ended."""
    project = write_project(tmp_path_factory.mktemp("slow") / "project")
    (project / "edgebuild.toml").write_text(toml({"budget": "points = 20.0"}))
    onnx.save(slow_model(), str(project / "model.onnx"))
    (project / "data.py").write_text(DATA)
    with started("build", cwd=project) as process:
        wait_for(lambda: evaluating(project), process)
        process.send_signal(signal.SIGINT)
        ended = finished(process)
    return project, ended.code, ended.err


@pytest.fixture
def slow(interrupted: tuple[Path, int, str], tmp_path: Path) -> Path:
    """The project up to its first evaluation, for one test alone."""
    return copy(interrupted[0], tmp_path / "project")


def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(interrupted: tuple[Path, int, str], slow: Path) -> None:
    project, code, err = interrupted
    assert told(err) == (
        "edgebuild: interrupted during evaluate quick/fp32 on validation; what was finished is kept\n"
        "  how to fix it: the same command resumes from here"
    )
    assert code == 130
    assert runners(project) == ()
    assert unfinished(project / ".edgebuild" / "store") == []
    assert not (project / ".edgebuild" / "lock").exists()

    before = stored(slow / ".edgebuild" / "store")
    ended = run("build", cwd=slow)
    assert ended.code == 0, ended
    made = record(slow)
    steps = {step["label"]: step for step in made["steps"]}
    assert [label for label, step in steps.items() if step["reused"]] == list(EARLIER)
    assert made["runs"] == 2, "the run that was stopped counts"
    assert re.search(r"evaluate quick/fp32 on validation: \d", err) is None, "it isn't printed as if it were done"
    assert_as_before(before, slow / ".edgebuild" / "store")


def test_sigterm_is_as_clean(slow: Path) -> None:
    before = stored(slow / ".edgebuild" / "store")
    with started("build", cwd=slow) as process:
        wait_for(lambda: evaluating(slow), process)
        process.terminate()
        ended = finished(process)
    assert ended.code == 130
    assert "interrupted during evaluate quick/fp32 on validation" in ended.err
    assert runners(slow) == ()
    assert_as_before(before, slow / ".edgebuild" / "store")


def test_a_killed_runner(slow: Path) -> None:
    before = stored(slow / ".edgebuild" / "store")
    with started("build", cwd=slow) as process:
        os.kill(waiting_runner(slow, process), signal.SIGKILL)
        ended = finished(process)
    assert told(ended.err) == (
        f"edgebuild: The runner on local-{socket.gethostname()} (evaluate) was ended by SIGKILL "
        "(something killed it; the system does so when memory runs out) without an answer.\n"
        "  how to fix it: Try again; `edgebuild doctor` checks the device."
    )
    assert ended.code == 5
    assert runners(slow) == ()
    assert not evaluating(slow)
    assert_as_before(before, slow / ".edgebuild" / "store")


def test_a_runner_that_hangs(slow: Path) -> None:
    before = stored(slow / ".edgebuild" / "store")
    with started("build", cwd=slow, env={"TEST_SILENCE_S": "5"}) as process:
        os.kill(waiting_runner(slow, process), signal.SIGSTOP)
        ended = finished(process)
    assert told(ended.err) == (
        f"edgebuild: The runner on local-{socket.gethostname()} (evaluate) said nothing for 5 s and was stopped.\n"
        "  how to fix it: Try again; `edgebuild doctor` checks the device."
    )
    assert ended.code == 5
    assert runners(slow) == ()
    assert_as_before(before, slow / ".edgebuild" / "store")


def test_two_builds_at_once(slow: Path) -> None:
    lock = slow / ".edgebuild" / "lock"
    before = stored(slow / ".edgebuild" / "store")
    with started("build", cwd=slow) as process:
        runner = waiting_runner(slow, process)
        os.kill(runner, signal.SIGSTOP)  # the first build waits for as long as the second one takes
        holder = json.loads(lock.read_bytes())
        assert holder["pid"] == process.pid
        second = run("build", cwd=slow)
        assert told(second.err) == (
            f"edgebuild: another build of this project is running (pid {process.pid}, since {holder['since']}; "
            f"lock file {lock})\n"
            "  how to fix it: wait until it ends, or stop that process; the lock goes with it"
        )
        assert second.code == 6
        assert process.poll() is None
        assert json.loads(lock.read_bytes()) == holder
        assert runners(slow) == (runner,)
        process.send_signal(signal.SIGINT)
        assert finished(process).code == 130
    assert_as_before(before, slow / ".edgebuild" / "store")


def launches(project: Path) -> list[str]:
    found = (project / ".edgebuild" / "measurements").glob("*/launch-*.json")
    return sorted(f"{path.parent.name}/{path.name}" for path in found)


@pytest.mark.proof
def test_a_killed_host_leaves_nothing_running_and_measuring_goes_on_launch_by_launch(project: Path) -> None:
    with started("build", cwd=project) as process:
        wait_for(lambda: len(launches(project)) >= 2, process)
        process.kill()
        finished(process)
        kept = launches(project)
        contents = [(project / ".edgebuild" / "measurements" / name).read_bytes() for name in kept]
        ended = run("build", cwd=project)
    assert ended.code == 0, ended
    assert runners(project) == ()
    found = record(project)
    steps = {step["label"]: step for step in found["steps"]}
    assert steps["evaluate quick/fp32 on validation"]["reused"]
    assert not steps["evaluate quick/fp32 on test"]["reused"]
    assert [name.split("-")[0] for name in sessions(project)] == ["certify", "screen"]
    assert [(project / ".edgebuild" / "measurements" / name).read_bytes() for name in kept] == contents
    assert set(kept) < set(launches(project))
    stored(project / ".edgebuild" / "store")


def test_a_second_ctrl_c_is_not_needed_while_measuring(built: Path) -> None:
    before, measured = stored(built / ".edgebuild" / "store"), set(launches(built))
    with started("build", "--remeasure", cwd=built) as process:
        wait_for(lambda: set(launches(built)) - measured, process)
        process.send_signal(signal.SIGINT)
        ended = finished(process)
    assert told(ended.err) == (
        "edgebuild: Interrupted; what was finished is kept.\n  how to fix it: Run the same command again to go on."
    )
    assert ended.code == 130
    assert runners(built) == ()
    assert_as_before(before, built / ".edgebuild" / "store")
