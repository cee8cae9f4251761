"""What a finished build decided is found again, as long as what it measured is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.building.decisions import Decisions, recalled
from edgebuild.measuring.session_folder import open_session
from edgebuild.planning.plan import make_plan
from tests.planning.test_plan import FP32, OURS, THEIRS, inputs, profile

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_decided_earlier_isn_t_decided_again() -> None:
    first = Decisions()
    assert first.once("finalists", lambda: 2) == 2
    assert first.once("late", lambda: "too long") == "too long"
    again = Decisions(earlier=first.made)
    assert again.once("finalists", lambda: 4) == 2
    assert again.once("late", lambda: None) == "too long"
    assert again.once("new", lambda: True)


@pytest.mark.parametrize("harm", ["", "session", "unfinished", "file"])
def test_a_plan_as_it_was_carried_out_is_recalled_with_its_sessions(tmp_path: Path, harm: str) -> None:
    measurements, path = tmp_path / "measurements", tmp_path / "decided" / "a.json"
    session = open_session(measurements, "screen", "k" * 16, {}, remeasure=False)
    if harm != "unfinished":
        session.finish({"launches": 0})
    plan = make_plan(inputs(profile("a", precisions=(FP32, OURS, THEIRS))))
    made = plan.candidates[:2]
    decisions = Decisions(path=path)
    decisions.once("finalists", lambda: 1)
    decisions.keep(plan, made, [session.path])
    if harm == "session":
        session.path.rename(tmp_path / "elsewhere")
    elif harm == "file":
        path.write_text(path.read_text().replace('"finalists":1', '"finalists":3'))
    found = recalled(path, measurements)
    if harm:
        assert found is None
    else:
        assert found is not None
        assert found[0].candidates == made
        assert found[0].refused == plan.refused
        assert found[1].once("finalists", lambda: 4) == 1


def test_nothing_is_recalled_where_nothing_was_kept(tmp_path: Path) -> None:
    Decisions().keep(make_plan(inputs(profile("a"))), (), ())
    assert recalled(tmp_path / "none.json", tmp_path) is None
