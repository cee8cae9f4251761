"""A build that goes on after it was stopped counts what its earlier runs took; another build doesn't."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.building.runs import EVERY_S, NAME, Runs, resumed

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def run(home: Path, seconds: float, asked: str = "this") -> Runs:
    """One run of so many seconds that is stopped."""
    clock = Clock()
    found = resumed(home, asked, 0.0)
    found.clock = clock
    clock.now_s = seconds
    found.keep(now=True)
    return found


def test_runs_add_up_until_the_build_ends(tmp_path: Path) -> None:
    run(tmp_path, 10)
    total = run(tmp_path, 5).total()
    assert (total.runs, total.seconds) == (2, 15)
    assert total.peak_bytes > 0
    last = run(tmp_path, 1)
    assert last.total().seconds == 16
    last.finish()
    assert not (tmp_path / NAME).exists()
    last.keep(now=True)
    assert run(tmp_path, 2).total().seconds == 2


def test_another_build_begins_anew(tmp_path: Path) -> None:
    run(tmp_path, 10, "that")
    assert run(tmp_path, 5).total().runs == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"asked": "this", "runs": [{}]}', '{"asked": "this", "runs": [{"seconds": "x"}]}']
)
def test_a_damaged_file_is_no_run(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    assert resumed(tmp_path, "this", 0.0).total().runs == 1


def test_time_is_written_down_now_and_then_while_steps_run(tmp_path: Path) -> None:
    found = Runs(home=tmp_path, asked="this", started_s=0.0, clock=Clock())
    found.keep()
    assert not (tmp_path / NAME).exists()
    Clock.now_s = EVERY_S
    try:
        found.keep()
        assert resumed(tmp_path, "this", 0.0).earlier[0].seconds == EVERY_S
    finally:
        Clock.now_s = 0.0
