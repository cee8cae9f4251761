"""A build whose objective is throughput: screened, certified, judged and chosen with several requests in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.example import QUICK_PROFILE, record, run, sessions, write_project, write_quick

if TYPE_CHECKING:
    from pathlib import Path

#: Slow: the parts of it have tests of their own.
pytestmark = pytest.mark.proof
TWO = QUICK_PROFILE.replace("threads = 1", "threads = 1\nrequests = 2")


def test_throughput_as_objective_and_limit(tmp_path: Path) -> None:
    project = write_project(
        tmp_path / "project",
        {
            "build": 'targets = ["quick"]\nobjective = "throughput"',
            "budget": "points = 20.0",
            "limits": "throughput_per_s = 0.5",
        },
    )
    write_quick(project, profile=TWO)
    ended = run("build", cwd=project)
    assert ended.code == 0, ended
    (found,) = record(project)["candidates"]
    assert found["status"] == "chosen"
    flight = found["measured"]["throughput"]
    assert (flight["requests"], flight["concurrent"]) == (2, True)
    (limit,) = found["test"]["limits"]
    assert (limit["name"], limit["measured"], limit["outcome"]) == ("throughput_per_s", flight["per_s"], "accepted")
    assert (found["screened"]["latency"], found["screened"]["throughput"]) == (None, None), "alone: no screening"
    assert found["measured"]["latency"]["point_ms"] > 0
    assert [name.split("-")[0] for name in sessions(project)] == ["certify", "certify"]
    assert "a second with 2 requests in flight" in " ".join(ended.out.split())
    explained = " ".join(run("explain", found["id"], cwd=project).out.split())
    assert "throughput" in explained
    assert "a second with 2 requests in flight in 2 launches" in explained
    (page,) = (project / ".edgebuild" / "builds").glob("*/report.html")
    assert "samples completed a second with several requests in flight" in page.read_text()
