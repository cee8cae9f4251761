"""The agent of the server's own machine: started again, gone with the server, its token seen by nobody."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.farm import tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.server import embedded
from edgebuild.farm.server.embedded import Embedded
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import Scope

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.farm.database import Database

#: Stands for the agent: says what it was told, and ends when its standard input does.
PRETEND_AGENT = """
import json, os, pathlib, sys
begin = json.loads(sys.stdin.readline())
folder = pathlib.Path(sys.argv[1])
new = folder / f".{os.getpid()}"
new.write_text(json.dumps({**begin, "argv": sys.argv, "pid": os.getpid()}))
new.rename(folder / f"{os.getpid()}.json")
sys.stdin.read()
"""


@pytest.fixture
def farm(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Farm:
    monkeypatch.setattr(embedded, "FIRST_WAIT_S", 0.05)
    return Farm(database, Blobs(tmp_path / "blobs"))


def pretend(farm: Farm, folder: Path) -> Embedded:
    folder.mkdir()
    return Embedded(
        farm, "https://localhost:1", folder, "desk", command=(sys.executable, "-c", PRETEND_AGENT, str(folder))
    )


def told(folder: Path, count: int) -> list[dict[str, Any]]:
    """Wait for so many agents, and return what they were told, in the order in which they began."""
    while len(found := sorted(folder.glob("[0-9]*.json"), key=lambda path: path.stat().st_mtime_ns)) < count:
        time.sleep(0.02)
    return [json.loads(path.read_text()) for path in found]


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_gets_a_hosts_token_that_no_command_line_shows(farm: Farm, tmp_path: Path) -> None:
    with pretend(farm, tmp_path / "said").running():
        (begin,) = told(tmp_path / "said", 1)
        who = farm.look(lambda db: tokens.identify(db, begin["token"], farm.now))
        assert who is not None
        assert (who.name, who.scope) == ("host-desk", Scope.HOST)
        assert begin["token"] not in str(begin["argv"])
        assert (begin["url"], begin["host"]) == ("https://localhost:1", "desk")
    assert not runs(begin["pid"])


def test_one_that_dies_is_started_again_and_the_old_token_is_over(farm: Farm, tmp_path: Path) -> None:
    with pretend(farm, tmp_path / "said").running():
        (first,) = told(tmp_path / "said", 1)
        os.kill(first["pid"], signal.SIGKILL)
        again = told(tmp_path / "said", 2)[1]
        assert farm.look(lambda db: tokens.identify(db, first["token"], farm.now)) is None
        known = farm.look(lambda db: tokens.identify(db, again["token"], farm.now))
        assert known is not None
    assert not runs(again["pid"])


def test_one_that_doesnt_end_is_ended(farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "END_S", 0.2)
    folder = tmp_path / "said"
    folder.mkdir()
    deaf = PRETEND_AGENT + "\nimport signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"
    command = (sys.executable, "-c", deaf, str(folder))
    with Embedded(farm, "https://localhost:1", folder, "desk", command=command).running():
        (begin,) = told(folder, 1)
    assert not runs(begin["pid"])
