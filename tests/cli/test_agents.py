"""`mcp`: the protocol's own client asks a real process, and gets what the commands print."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import TextContent

from edgebuild.cli import agents
from edgebuild.farm import tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.database import Database, sqlite_url
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import Scope
from tests.cli.example import newest
from tests.farm.serving import served
from tests.farm.shelves import fill

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LOOKS = {
    "targets",
    "builds",
    "build_summary",
    "build_record",
    "explain",
    "farm_devices",
    "farm_jobs",
    "farm_status",
    "farm_log",
    "farm_history",
    "farm_compare",
}


def talk(project: Path, *calls: tuple[str, dict[str, Any]], options: Sequence[str] = (), **env: str) -> list[Any]:
    """Start the command, list its tools, and call some of them; return the tools and the answers."""
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "edgebuild", "mcp", "--project", str(project), *options],
        env={**os.environ, **env},
    )

    async def session() -> list[Any]:
        async with Client(command) as client:
            tools = (await client.list_tools()).tools
            return [tools, *[await client.call_tool(name, given) for name, given in calls]]

    return asyncio.run(session())


def text(answer: Any) -> str:
    (content,) = answer.content
    assert isinstance(content, TextContent)
    return content.text


@pytest.fixture
def project(built_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(built_once, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[dict[str, str]]:
    database = Database(sqlite_url(tmp_path / "farm.db"))
    database.upgrade()
    made = Farm(database, Blobs(tmp_path / "blobs"))
    made.do(lambda db, now: fill(db, "pi-1", now=now))
    token = made.do(lambda db, now: tokens.make(db, "agent", Scope.READ, now, days=1))
    with served(made) as url:
        yield {"EDGEBUILD_FARM": url, "EDGEBUILD_FARM_TOKEN": token}
    database.close()


def test_an_agent_that_may_only_look_sees_builds_and_has_no_other_tool(project: Path) -> None:
    tools, targets, builds, summary, record, wrong = talk(
        project,
        ("targets", {}),
        ("builds", {}),
        ("build_summary", {}),
        ("build_record", {}),
        ("explain", {"candidate": "no such"}),
    )
    assert {tool.name for tool in tools} == LOOKS
    assert all(tool.annotations.read_only_hint for tool in tools)
    assert "raspberry-pi-5" in text(targets)
    built = json.loads((newest(project) / "build.json").read_bytes())
    assert built["build_id"] in text(builds)
    assert "on quick: ACCEPTED" in text(summary)
    assert json.loads(text(record))["build_id"] == built["build_id"]
    assert wrong.is_error
    assert "no candidate 'no such'" in text(wrong)


def test_an_agent_looks_at_the_farm_of_the_environment(tmp_path: Path, farm: dict[str, str]) -> None:
    _, devices, missing = talk(tmp_path, ("farm_devices", {}), ("farm_log", {"job": "j" + "0" * 15}), **farm)
    assert json.loads(text(devices))[0]["name"] == "pi-1"
    assert missing.is_error
    assert "no job" in text(missing)


def test_changes_are_allowed_twice_by_the_option_and_by_the_token(tmp_path: Path, farm: dict[str, str]) -> None:
    (tmp_path / "outside.onnx").write_bytes(b"")
    project = tmp_path / "project"
    project.mkdir()
    tools, cancel, outside = talk(
        project,
        ("farm_cancel", {"job_or_lease": "j" + "0" * 15}),
        ("farm_bench", {"model": "../outside.onnx", "target": "raspberry-pi-5"}),
        options=("--allow-changes",),
        **farm,
    )
    assert {tool.name for tool in tools} == LOOKS | {"plan", "farm_bench", "farm_cancel"}
    assert {tool.name for tool in tools if not tool.annotations.read_only_hint} == {"plan", "farm_bench", "farm_cancel"}
    assert cancel.is_error
    assert "doesn't allow that" in text(cancel)
    assert outside.is_error
    assert "outside" in text(outside)


def test_an_agent_plans_with_the_projects_code_as_it_is_now(project: Path) -> None:
    code = project / "data.py"
    _, before, wrong = talk(project, ("plan", {}), ("plan", {"target": "no-such"}), options=("--allow-changes",))
    assert text(before).startswith("Plan for quick")
    assert wrong.is_error
    assert "no-such" in text(wrong)
    code.write_text("print('a word of its own')\nraise RuntimeError('changed since')\n" + code.read_text())
    _, after = talk(project, ("plan", {}), options=("--allow-changes",))
    assert "changed since" in text(after)


def test_what_is_too_long_is_asked_for_in_parts_and_a_log_ends_as_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "MOST_CHARACTERS", 100)
    assert agents.printed(lambda: print("x" * 99)) == "x" * 99 + "\n"
    with pytest.raises(ToolError, match="101 characters"):
        agents.printed(lambda: print("x" * 100))
    log = agents.printed(lambda: print("begins" + "x" * 100 + "ends"), tail=True)
    assert "begins" not in log
    assert log.endswith("ends\n")


def test_what_the_system_refuses_is_an_answer(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"gone\.json: No such file"):
        agents.printed(lambda: (tmp_path / "gone.json").read_bytes())


def test_jobs_are_asked_for_in_a_state_that_there_is(tmp_path: Path, farm: dict[str, str]) -> None:
    _, queued, wrong = talk(
        tmp_path, ("farm_jobs", {"state": "queued"}), ("farm_jobs", {"state": "queued&x=1"}), **farm
    )
    assert json.loads(text(queued)) == []
    assert wrong.is_error
