"""Two hosts at one board, a board that isn't what it is said to be, and a clock that is stepped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgebuild.backends.table import backends
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.hold import hold_device
from edgebuild.errors import ConfigError, DeviceError
from edgebuild.execution.executor import Executor
from edgebuild.execution.store import Store
from edgebuild.measuring.anchor import anchor_arm

if TYPE_CHECKING:
    from collections.abc import Callable

    from .rig import Board


class Waited(Exception):
    """A host was still waiting after a while."""


def impatient(limit_s: float) -> Callable[[], None]:
    end = time.monotonic() + limit_s

    def check() -> None:
        if time.monotonic() > end:
            raise Waited

    return check


def end_everything(board: Board) -> None:
    for pid in subprocess.run(["ip", "netns", "pids", board.namespace], capture_output=True, text=True).stdout.split():
        if b".pyz" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)


def test_a_second_host_waits_its_turn(board: Board) -> None:
    first, second = RunnerClient(board.device(), {}), RunnerClient(board.device(), {})
    with hold_device(first, "the first"):
        number = first.attempt
        assert number is not None
        with pytest.raises(Waited), hold_device(second, "the second", check=impatient(1.0)):
            pass
        first.call("probe", {}, time_limit_s=30.0)
    with hold_device(second, "the second"):
        assert second.attempt == number + 1
    board.wait_until_idle(5.0)


def test_a_host_that_lost_its_turn_is_refused(board: Board) -> None:
    first, second = RunnerClient(board.device(), {}), RunnerClient(board.device(), {})
    with hold_device(first, "the first"):
        end_everything(board)
        board.wait_until_idle(5.0)
        with hold_device(second, "the second"):
            with pytest.raises(DeviceError, match="Another host took this device"):
                first.call("probe", {}, time_limit_s=30.0)
            second.call("probe", {}, time_limit_s=30.0)
    board.wait_until_idle(5.0)


def test_a_board_that_is_not_its_target_is_not_enrolled(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgebuild.fleet.enrol import enrol

    inventory = tmp_path / "devices.toml"
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(inventory))
    with pytest.raises(ConfigError, match="aarch64"):
        enrol(board.entry("raspberry-pi-5"), None)
    assert not inventory.exists()
    assert not board.processes()


def test_a_stepped_clock_makes_a_launch_invalid(board: Board, tmp_path: Path) -> None:
    """A stand-in: no clock of this machine is set; the board's Python reads one that jumps by an hour each time."""
    site = board.root / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "real, hours = time.time, itertools.count()\n"
        "time.time = lambda: real() + 3600.0 * next(hours)\n"
    )
    python = board.program("python", f'#!/bin/sh\nPYTHONPATH={site} exec {board.python} "$@"\n')
    ort = backends()["onnxruntime"]
    client = RunnerClient(board.device(python=python), {"onnxruntime": ort.device_file})
    executor = Executor(
        store=Store.open(tmp_path / "store"),
        progress=NoProgress(),
        check=never_stop,
        seed=0,
        isa="",
        device_configuration={},
        device=client,
    )
    arm = anchor_arm({"onnxruntime": ort}, executor)
    assert arm is not None
    with client.workspace() as out:
        request = {
            "artifact": client.put_folder(arm.folder),
            "inputs": client.put_folder(arm.inputs),
            "out": out,
            "warmup_min_s": 0.05,
            "warmup_cap_s": 0.5,
            "sample_s": 0.1,
        }
        launch = client.call("measure", request, time_limit_s=60.0)
    assert any("clock was stepped" in reason for reason in launch["invalid"])
