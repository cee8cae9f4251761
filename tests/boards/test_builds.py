"""Two targets on two boards: one build, in which both boards work at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.building.context import Options
from edgebuild.catalogue.project import load_project
from edgebuild.devices.runner.turns import OVERRIDE
from edgebuild.errors import DeviceError
from edgebuild.fleet.inventory import save_entry
from edgebuild.measuring.protocols import CERTIFY, SCREEN
from edgebuild.pipeline import build
from tests.cli.example import write_project

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.catalogue.project import Project

    from .rig import Board

TARGETS = ("first", "second")
#: Both boards are this machine: what they take from each other invalidates no launch of a test of behaviour.
SHORT = {
    "launches": 2,
    "max_launches": 2,
    "warmup_min_s": 0.02,
    "warmup_cap_s": 0.02,
    "sample_s": 0.05,
    "waiting_ratio": 1e9,
    "steal_ratio": 1.0,
}


def wired(folder: Path, boards: list[Board], monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a target on each board; every board has a lock of its own, as machines have."""
    project = write_project(folder / "project", {"build": f'targets = ["{TARGETS[0]}", "{TARGETS[1]}"]\nthreads = 1'})
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(folder / "devices.toml"))
    for target, board in zip(TARGETS, boards, strict=False):
        (project / "targets" / f"{target}.toml").write_text(f'title = "{target}"\nprofiles = ["quick"]\n')
        lock = board.root / "machine.lock"
        python = board.program("own-lock", f'#!/bin/sh\nexec env {OVERRIDE}={lock} {board.python} "$@"\n')
        save_entry(board.entry(target, python=python))
    return load_project(project)


def options() -> Options:
    return Options(targets=TARGETS, screen=SCREEN.model_copy(update=SHORT), certify=CERTIFY.model_copy(update=SHORT))


@pytest.mark.proof
def test_a_build_for_two_boards_measures_each_on_its_own(
    boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = build(wired(tmp_path, boards, monkeypatch), options())
    assert [record.target for record in records] == list(TARGETS)
    for record, board in zip(records, boards, strict=False):
        assert record.outcome == "ok"
        assert f"board-{board.number}" in record.device
        assert any(candidate.measured.latency for candidate in record.candidates)
    assert len({record.test_set for record in records}) == 1
    assert not {each.path for each in records[0].evidence} & {each.path for each in records[1].evidence}


def test_a_board_that_is_gone_ends_the_build_and_leaves_nothing_running(
    boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = wired(tmp_path, boards, monkeypatch)
    lies = boards[1].program("own-lock", "#!/bin/sh\nexec sleep 0\n")
    save_entry(boards[1].entry(TARGETS[1], python=lies))
    with pytest.raises(DeviceError):
        build(project, options())
    for board in boards[:2]:
        board.wait_until_idle(60)
