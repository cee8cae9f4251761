"""Clocks are pinned only when asked for, and put back however that ends. The tool is a stand-in that keeps a file."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.devices.client import RunnerClient
from edgebuild.devices.hold import clocks_as_asked, pinned_clocks
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.runner import clocks
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from pathlib import Path

TOOL = """#!/bin/sh
case "$1" in
--store) cp {state} "$2" ;;
--restore) cp "$2" {state} ;;
*) {pin} ;;
esac
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The clocks' state, with a ``jetson_clocks`` for it on the path."""
    path = tmp_path / "state"
    path.write_text("stock")
    install(tmp_path, f"echo pinned > {path}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return path


def install(tmp_path: Path, pin: str) -> None:
    tool = tmp_path / "bin" / "jetson_clocks"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(TOOL.format(state=tmp_path / "state", pin=pin))
    tool.chmod(0o755)


def client(tmp_path: Path) -> RunnerClient:
    return RunnerClient(LocalDevice(tmp_path / "device"), {})


def becomes(path: Path, text: str) -> bool:
    deadline = time.monotonic() + 20
    while path.read_text().strip() != text and time.monotonic() < deadline:
        time.sleep(0.05)
    return path.read_text().strip() == text


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the runner would ask sudo")


@needs_root
def test_they_are_pinned_inside_the_block_and_stock_after_it(tmp_path: Path, state: Path) -> None:
    def failing() -> None:
        with pinned_clocks(client(tmp_path)):
            assert state.read_text().strip() == "pinned"
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert becomes(state, "stock")


@needs_root
def test_they_are_put_back_when_the_runner_is_killed(tmp_path: Path, state: Path) -> None:
    here = client(tmp_path)
    started: list[Any] = []
    start = here.start

    def kept(*args: Any, **kwargs: Any) -> Any:
        started.append(start(*args, **kwargs))
        return started[-1]

    here.start = kept  # type: ignore[method-assign]
    with pinned_clocks(here):
        os.kill(started[0].pid, signal.SIGKILL)
        assert becomes(state, "stock")


@needs_root
def test_a_tool_that_refuses_ends_in_one_sentence(tmp_path: Path, state: Path) -> None:
    install(tmp_path, "echo Error: run this as root >&2; exit 1")
    with pytest.raises(EnvironmentGap, match="run this as root") as caught, pinned_clocks(client(tmp_path)):
        pass
    assert "sudo without a password" in (caught.value.hint or "")
    assert state.read_text() == "stock"


@needs_root
def test_what_is_measured_with_them_is_probed_with_them(tmp_path: Path, state: Path) -> None:
    before = {"arch": "as it was"}
    with clocks_as_asked(client(tmp_path), before, pin=False) as found:
        assert found == before
        assert state.read_text() == "stock"
    with clocks_as_asked(client(tmp_path), before, pin=True) as found:
        assert found["arch"] == os.uname().machine
        assert state.read_text().strip() == "pinned"


def test_others_than_root_ask_sudo_and_never_for_a_password(state: Path) -> None:
    assert clocks.command_of(1000)[:2] == ["sudo", "-n"]


def test_without_the_tool_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentGap, match="has no jetson_clocks"), pinned_clocks(client(tmp_path)):
        pass
