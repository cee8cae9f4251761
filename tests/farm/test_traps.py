"""What queues of others fall for when something dies, as it would look here: none of it happens."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

from edgebuild import __version__
from edgebuild.errors import UsageError
from edgebuild.farm import desk, jobs, leases, shelf, tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.client import FarmAddress, FarmAway, FarmClient
from edgebuild.farm.database import Database, sqlite_url
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.routes import hosting as routes
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Ask, Finished, Health, Job, JobEnd, JobSpec, LeaseEnd, Offered, Shelved, Work
from tests.devices.sshd import Board, board, needs_sshd
from tests.farm.hosting import Host, begun, ended, wait_for
from tests.farm.serving import served
from tests.farm.shelves import PI

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

__all__ = ["board"]


class Ground:
    """A server that can go and come back at its address, and whoever speaks to it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.database = Database(sqlite_url(folder / "farm.db"))
        self.database.upgrade()
        stack.callback(self.database.close)
        self.stack, self.blobs = stack, Blobs(folder / "blobs")
        self.farm = Farm(self.database, self.blobs)
        self.serving = ExitStack()
        stack.callback(lambda: self.serving.close())
        self.url = self.serving.enter_context(served(self.farm))
        self.ada = self.client("ada", Scope.RUN)

    def token(self, name: str, scope: Scope) -> str:
        return self.farm.do(lambda db, now: tokens.make(db, name, scope, now, days=1))

    def client(self, name: str, scope: Scope) -> FarmClient:
        made = FarmClient(FarmAddress(url=self.url, token=self.token(name, scope)))
        self.stack.callback(made.close)
        return made

    def go(self) -> None:
        self.serving.close()

    def come_back(self) -> None:
        self.farm = Farm(self.database, self.blobs)
        self.serving = ExitStack()
        self.serving.enter_context(served(self.farm, port=int(self.url.rpartition(":")[2])))

    def host(self, folder: Path) -> Host:
        made = Host(folder, self.url, self.token("desk", Scope.HOST))
        self.stack.callback(made.close)
        return made

    def good(self, host: Host) -> None:
        def there() -> bool:
            found = self.ada.ask("GET", "/api/devices", tuple[Shelved, ...])
            return bool(found) and all(each.health is Health.GOOD for each in found)

        wait_for(there, 60.0, host.log)

    def submit(self, kind: str = "turn", seconds: float = 0.1) -> str:
        spec = JobSpec(kind=kind, ask=Ask(target=PI), arguments={"seconds": seconds})
        return self.ada.ask("POST", "/api/jobs", Job, spec).id

    def played(self) -> FarmClient:
        """A host that this test plays itself, with one good device."""
        host = self.client("desk", Scope.HOST)
        self.farm.do(partial(_good, host.address.token))
        return host


def _good(token: str, db: Connection, now: float) -> None:
    """All at once, before the farm has it checked by a host that doesn't."""
    who = tokens.identify(db, token, now)
    assert who is not None
    shelf.register(db, "desk", who.id, __version__, [Offered(name="pi-1", target=PI)], now)
    shelf.checked(db, "pi-1", True, "", {}, now)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with ExitStack() as stack:
        yield Ground(tmp_path, stack)


def take(host: FarmClient, *running: dict[str, object]) -> Work:
    return host.ask("POST", "/api/hosts/desk/work", Work, {"running": running, "wait": False})


def test_1_no_code_travels_and_hosts_of_another_minor_version_are_refused(ground: Ground) -> None:
    host = ground.played()
    for kind in ("os:system", "pickle.loads", "a b"):
        spec = {"kind": kind, "ask": {"target": PI}}
        with pytest.raises(UsageError, match="kind"):
            ground.ada.ask("POST", "/api/jobs", Job, spec)
    major, minor, *_ = __version__.split(".")
    other = {"version": f"{major}.{int(minor) + 1}.0", "devices": []}
    with pytest.raises(UsageError, match="and this farm"):
        host.ask("POST", "/api/hosts/desk/hello", tuple[Shelved, ...], other)


def test_2_a_job_that_holds_its_interpreter_is_no_silent_host(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own process is deaf for longer than a silence that loses a host everything."""
    monkeypatch.setattr(routes, "LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr(desk, "BEAT_S", 0.2)
    monkeypatch.setattr(shelf, "BEAT_S", 0.2)
    for module in (leases, shelf):
        monkeypatch.setattr(module, "SILENCE_S", 3.0)
    host = ground.host(tmp_path / "host")
    host.own("pi-1")
    host.start()
    ground.good(host)
    job = ended(ground.ada, ground.submit("hog", seconds=7))
    assert (job.end, len(job.attempts)) == (JobEnd.SUCCEEDED, 1)


@needs_sshd
def test_3_nothing_runs_on_a_board_for_somebody_who_was_killed(ground: Ground, tmp_path: Path, board: Board) -> None:
    host = ground.host(tmp_path / "host")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    host.own(
        "pi-1",
        kind="ssh",
        address=f"{os.environ.get('USER', 'root')}@127.0.0.1:{board.port}",
        host_keys=[board.host_key],
        key_file=str(board.folder / "user_key"),
        root=str(board.folder / "root"),
        python=str(python),
    )
    host.start()
    ground.good(host)
    job = begun(ground.ada, ground.submit(seconds=600))
    assert on_board(board)
    host.kill()  # and with it the job's process, which held the connection
    wait_for(lambda: not host.workers(job.id))
    wait_for(lambda: not on_board(board))


def on_board(board: Board) -> list[str]:
    """What runs below the board's folder."""
    found = subprocess.run(["pgrep", "-f", str(board.folder / "root")], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_4_the_word_of_an_attempt_that_is_over_counts_for_nothing(ground: Ground) -> None:
    host = ground.played()
    job = ground.submit()
    (old,) = take(host).start
    lease = old.attempts[-1].lease
    ground.farm.do(lambda db, now: jobs.end_lease(db, lease, LeaseEnd.SILENT, now))
    (new,) = take(host).start
    turn = {"id": job, "token": old.attempts[-1].token}
    assert [stop.why for stop in take(host, turn, {**turn, "token": new.attempts[-1].token}).stop] == ["over"]
    counted = []
    for attempt, which in ((old, "old"), (new, "new"), (new, "second")):
        word = Finished(token=attempt.attempts[-1].token, how=JobEnd.SUCCEEDED, result={"of": which})
        counted.append(host.ask("POST", f"/api/hosts/desk/jobs/{job}/finish", dict[str, bool], word)["counted"])
    assert counted == [False, True, False]
    assert ended(ground.ada, job).result == {"of": "new"}


def test_5_whoever_asked_may_leave_and_the_result_stays(ground: Ground) -> None:
    host = ground.played()
    job = ground.submit()
    ground.ada.close()
    (begun,) = take(host).start
    word = Finished(token=begun.attempts[-1].token, how=JobEnd.SUCCEEDED, result={"ms": 3})
    host.ask("POST", f"/api/hosts/desk/jobs/{job}/finish", dict[str, bool], word)
    bob = ground.client("bob", Scope.READ)
    assert ended(bob, job).result == {"ms": 3}


def test_6_a_job_goes_on_while_the_server_is_away_and_its_result_arrives(ground: Ground, tmp_path: Path) -> None:
    host = ground.host(tmp_path / "host")
    host.own("pi-1")
    host.start()
    ground.good(host)
    job = begun(ground.ada, ground.submit(seconds=2))
    ground.go()
    with pytest.raises(FarmAway):
        ground.ada.ask("GET", "/api/devices", tuple[Shelved, ...])
    wait_for(lambda: "end" in (host.disk("pi-1") / "turns.log").read_text())
    wait_for(lambda: not host.workers(job.id))
    ground.come_back()
    done = ended(ground.ada, job.id)
    assert (done.end, len(done.attempts)) == (JobEnd.SUCCEEDED, 1)
