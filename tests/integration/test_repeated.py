"""A build that is asked for again: a finished one makes nothing new, one that was kept waiting for too long goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edgebuild.building import race
from edgebuild.building.context import Options
from edgebuild.building.timebox import TimeBox
from edgebuild.catalogue.project import load_project
from edgebuild.devices.lock import measurement_lock
from edgebuild.errors import NoTimeToWait
from edgebuild.measuring.protocols import CERTIFY, SCREEN
from edgebuild.pipeline import build
from edgebuild.planning.account import TimeAccount
from tests.cli.example import sessions, write_project, write_quick
from tests.cli.short import SHORT

from .conftest import PROFILE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from edgebuild.core.record import BuildRecord
    from edgebuild.planning.candidates import PlannedCandidate

BOXED = Options(
    time_s=3600.0,
    screen=SCREEN.model_copy(update={**SHORT, "bursts": 2, "launches": 1, "max_launches": 1}),
    certify=CERTIFY.model_copy(update={**SHORT, "bursts": 2, "launches": 2, "max_launches": 2}),
)
LATE = "left out: a test says that it is late"


@pytest.fixture(scope="module")
def late() -> Iterator[pytest.MonkeyPatch]:
    """A clock by which there is no time for fp16, for a cross-check and for a second finalist; undone by the test."""
    with pytest.MonkeyPatch.context() as patch:
        really = TimeAccount.fits

        def fits(self: TimeAccount, planned: PlannedCandidate, made: Collection[PlannedCandidate]) -> bool:
            return planned.precision.kind != "fp16" and really(self, planned, made)

        patch.setattr(TimeAccount, "fits", fits)
        patch.setattr(TimeBox, "why_not", lambda *_: LATE)
        patch.setattr(race, "finalists_that_fit", lambda *_: 1)
        yield patch


def made(folder: Path, options: Options) -> tuple[BuildRecord, list[str]]:
    """Build, and return the record and the sessions that are there by then."""
    (record,) = build(load_project(folder), options)
    assert record.outcome == "ok"
    return record, sessions(folder)


@pytest.mark.proof
def test_what_the_clock_decided_stands_until_more_is_asked_for(tmp_path: Path, late: pytest.MonkeyPatch) -> None:
    tables = {"build": 'targets = ["quick"]\nthreads = 1', "budget": "points = 20.0"}
    folder = write_project(tmp_path / "project", tables)
    write_quick(folder, profile=PROFILE)
    first, measured = made(folder, BOXED)
    assert [each.id for each in first.candidates if "fp16" in each.id] == []
    assert [each.what for each in first.refused_in_planning] == ["quick/fp16-storage"]
    late.undo()

    again, same = made(folder, BOXED)
    assert same == measured
    assert all(step.reused for step in again.steps)
    assert (again.refused_in_planning, again.chosen) == (first.refused_in_planning, first.chosen)
    assert [(each.id, each.status, each.crosscheck) for each in again.candidates] == [
        (each.id, each.status, each.crosscheck) for each in first.candidates
    ]

    more, _ = made(folder, replace(BOXED, time_s=3601.0))
    assert "quick/fp16-storage" in {each.id for each in more.candidates}
    assert LATE not in more.to_json()


@pytest.mark.proof
def test_a_build_waits_for_another_one_no_longer_than_its_box_and_goes_on_when_repeated(tmp_path: Path) -> None:
    tables = {"build": 'targets = ["quick"]\nthreads = 1', "budget": "points = 20.0"}
    folder = write_project(tmp_path / "project", tables)
    write_quick(folder, profile=PROFILE)
    with measurement_lock("the other build"), pytest.raises(NoTimeToWait, match="the other build"):
        made(folder, replace(BOXED, time_s=5.0))
    assert sessions(folder) == []
    record, _ = made(folder, BOXED)
    assert any(step.reused for step in record.steps)
    assert record.chosen is not None
