"""A bench on a device of the inventory: it is measured as its entry asks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.benching import bench
from edgebuild.benching.bench import BenchRequest
from edgebuild.devices.local import LocalDevice
from edgebuild.fleet import provider
from edgebuild.fleet.inventory import DeviceEntry, save_entry
from edgebuild.measuring import session
from edgebuild.measuring.protocols import SCREEN
from edgebuild.pipeline import bench as measure
from tests.cli.example import write_project

if TYPE_CHECKING:
    from pathlib import Path

SHORT = {"warmup_min_s": 0.02, "warmup_cap_s": 0.02, "sample_s": 0.05, "launches": 2, "max_launches": 2}
#: A busy machine must not fail a test of behaviour.
PATIENT = {"waiting_ratio": 1e9, "steal_ratio": 1.0}
#: Stands for a Jetson's, and for the sudo that others than root call it by: the clocks are a file.
CLOCKS = """#!/bin/sh
case "$1" in
--store) cp {state} "$2" ;;
--restore) cp "$2" {state} ;;
*) echo pinned > {state} ;;
esac
"""
SUDO = '#!/bin/sh\nshift\nexec "$@"\n'


@pytest.fixture
def clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of the clocks of this machine, which is the inventory's device ``board``, reached without a network."""
    state, tools = tmp_path / "state", tmp_path / "bin"
    state.write_text("stock")
    tools.mkdir()
    for name, text in (("jetson_clocks", CLOCKS.format(state=state)), ("sudo", SUDO)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    monkeypatch.setattr(provider, "connect", lambda entry: LocalDevice(tmp_path / "device", name=entry.name))
    monkeypatch.setattr(bench, "SCREEN", SCREEN.model_copy(update={**SHORT, **PATIENT}))
    return state


def test_clocks_are_pinned_while_measuring_where_the_entry_asks_for_it(
    clocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = session.measure

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(clocks.read_text().strip())
        return real(*args, **kwargs)

    monkeypatch.setattr(session, "measure", watched)
    entry = {"name": "board", "target": "jetson-thor", "address": "a@b", "host_keys": ("k",), "pin_clocks": True}
    save_entry(DeviceEntry.model_validate(entry))
    model = write_project(tmp_path / "project") / "model.onnx"
    report = measure(BenchRequest(model=model, device="board", quick=True, threads=1))
    assert report.device == "board"
    assert seen == ["pinned"]
