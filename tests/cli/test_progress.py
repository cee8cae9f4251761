"""Each piece of work is printed once, and what was stopped isn't printed as if it were done."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from edgebuild.cli import progress
from edgebuild.errors import Interrupted

if TYPE_CHECKING:
    from edgebuild.core.steps import Progress


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Progress:
    monkeypatch.setattr(progress, "QUIET_BELOW_S", -1.0)
    return progress.LogProgress()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [re.sub(r"\d+ s", "N s", line.strip()) for line in capsys.readouterr().err.splitlines()]


def test_a_step_and_the_work_in_it_are_one_piece(log: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    with log.task("Building candidates", total=2), log.task("evaluate a on validation"), log.task("Evaluating", 10):
        pass
    assert lines(capsys) == ["evaluate a on validation: N s"]


def test_what_counts_others_is_printed_where_they_were_too_short(
    log: Progress, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with log.task("Building candidates", total=2):
        monkeypatch.setattr(progress, "QUIET_BELOW_S", 1e9)
        with log.task("a"):
            pass
        monkeypatch.setattr(progress, "QUIET_BELOW_S", -1.0)
    assert lines(capsys) == ["Building candidates: N s"]


def test_what_was_stopped_says_so(log: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(Interrupted), log.task("quantise"):
        raise Interrupted("stopped")
    with log.task("measure", total=3):
        pass
    assert lines(capsys) == ["quantise: stopped after N s", "measure: N s"]


def test_bars_of_a_step_and_its_work_are_drawn_as_one() -> None:
    drawn = progress.TerminalProgress()
    with drawn.task("step") as step, drawn.task("work", total=3):
        (outer, inner) = drawn._progress.tasks
        assert (outer.visible, inner.visible) == (False, True)
    assert step is not None
    with drawn.task("all", total=2), drawn.task("step"):
        assert [task.visible for task in drawn._progress.tasks] == [True, True]


@pytest.mark.parametrize(
    ("took_s", "done", "says"),
    [
        (35.0, 0.275, ""),  # one burst of the first set: its processes took the time to start
        (35.0, 5.5, ", about 665 s left"),
        (60.0, 100.0, ", about 6 s left"),
        (90.0, 110.0, ""),
        (90.0, 150.0, ""),  # further looks than were planned
    ],
)
def test_how_long_the_rest_takes_is_said_once_enough_is_done(
    log: Progress,
    took_s: float,
    done: float,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("edgebuild.cli.progress.time.monotonic", lambda: clock[0])
    with log.task("Screening", total=110.0) as task:
        clock[0] = took_s
        task.advance(done)
    assert capsys.readouterr().err.splitlines()[0] == f"  … Screening{says}"


def test_what_has_no_total_says_only_that_it_goes_on(
    log: Progress, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("edgebuild.cli.progress.time.monotonic", lambda: clock[0])
    with log.task("waiting: process 1 is measuring") as task:
        clock[0] = 31.0
        task.advance(0.0)
    assert capsys.readouterr().err.splitlines()[0] == "  … waiting: process 1 is measuring"
