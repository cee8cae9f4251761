"""The tables in both databases: made by migrations, shared by several servers, and away for a while."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, func, select, text

from edgebuild.errors import StoreError, UsageError
from edgebuild.farm import audit, desk, jobs, leases, retention
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.database import Clock, Database
from edgebuild.farm.schema import audit as audit_rows
from edgebuild.farm.schema import devices, metadata
from edgebuild.farm.schema import leases as lease_rows
from edgebuild.farm.server import farm as server
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import Identity, Scope
from edgebuild.farm.values import SILENCE_S, Ask, Job, JobEnd, JobSpec, JobState, LeaseEnd, LeaseState, Turn
from tests.farm.shelves import PI, fill

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from tests.farm.postgres import Postgres

BENCH = JobSpec(kind="bench", ask=Ask(target=PI))


class StandInClock(Clock):
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0

    def now(self) -> float:
        return self.at


def test_the_migrations_make_exactly_the_tables_of_the_schema(any_database: Database) -> None:
    any_database.upgrade()  # twice is fine
    with any_database.read() as db:
        assert compare_metadata(MigrationContext.configure(db, opts={"compare_type": True}), metadata) == []


def test_tables_of_a_newer_edgebuild_are_refused_in_a_sentence(any_database: Database) -> None:
    with any_database.write() as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"is of another edgebuild: .*9999.*\.") as raised:
        any_database.upgrade()
    assert "newer" in raised.value.hint


def test_two_servers_make_the_tables_once(any_empty_url: str) -> None:
    both = [Database(any_empty_url), Database(any_empty_url)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(each.upgrade) for each in both]:
            done.result()
    with both[0].read() as db:
        assert db.scalar(select(func.count()).select_from(devices)) == 0
    for each in both:
        each.close()


def test_what_was_said_in_the_audit_stays(any_database: Database) -> None:
    with any_database.write() as db:
        audit.note(db, "ada", "retire", "pi-1", 0.0)
        said = audit.find(db)
    with any_database.read() as db:
        sqlite = db.dialect.name == "sqlite"
    more = "INSERT OR REPLACE INTO audit SELECT number, at, 'eve', action, what, detail FROM audit"
    for change in (
        audit_rows.update().values(who="eve"),
        audit_rows.delete(),
        text(more if sqlite else "TRUNCATE audit"),
    ):
        with pytest.raises(StoreError, match="append-only"), any_database.write() as db:
            db.execute(change)
    with any_database.read() as db:
        assert audit.find(db) == said


def test_a_part_of_a_transaction_that_fails_leaves_nothing(any_database: Database) -> None:
    def fail() -> None:
        with any_database.write() as db:
            fill(db, "pi-1")
            leases.ask(db, Ask(target="intel-n100"), "ada", 0.0)

    with pytest.raises(UsageError):
        fail()
    with any_database.read() as db:
        assert db.scalar(select(func.count()).select_from(devices)) == 0


def test_what_hosts_say_may_hold_what_a_database_keeps_badly(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = jobs.submit(db, BENCH, "ada", 0.0)
        token = jobs.start(db, job.id, 0.0).attempts[-1].token
        jobs.log(db, job.id, token, ["a\0b"], 0.0)
        jobs.finish(db, job.id, token, JobEnd.FAILED, 1.0, reason="a\0b", result={"a\0": "\0"})
        assert [line for _, _, line in jobs.read_log(db, job.id)] == ["a�b"]
        assert jobs.get(db, job.id).reason == "a�b"


def test_many_at_once_have_each_device_one_at_a_time(any_url: str, any_database: Database) -> None:
    """Two servers of four threads each ask, use and give back; the device's own list of turns has no gap."""
    rounds, names = 6, ("pi-1", "pi-2", "pi-3")
    with any_database.write() as db:
        fill(db, *names)
    other = Database(any_url)
    using: dict[str, str] = {}
    clashes: list[str] = []

    def person(database: Database, name: str) -> None:
        for _ in range(rounds):
            with database.write() as db:
                lease = leases.ask(db, Ask(target=PI), name, 0.0)
            while lease.state is LeaseState.WAITING:
                time.sleep(0.001)
                with database.read() as db:
                    lease = leases.get(db, lease.id)
            if using.setdefault(lease.device, lease.id) != lease.id:
                clashes.append(lease.id)
            time.sleep(0.001)
            if using.pop(lease.device) != lease.id:
                clashes.append(lease.id)
            with database.write() as db:
                assert leases.end(db, lease.id, LeaseEnd.RELEASED, 0.0)

    people = [threading.Thread(target=person, args=(each, f"p{n}")) for each in (any_database, other) for n in range(4)]
    for thread in people:
        thread.start()
    for thread in people:
        thread.join()
    other.close()
    assert clashes == []
    with any_database.read() as db:
        turns = db.execute(select(lease_rows.c.device, lease_rows.c.token).order_by(lease_rows.c.token)).all()
        assert len(turns) == 8 * rounds
        for name in names:
            mine = [turn.token for turn in turns if turn.device == name]
            assert mine == list(range(1, len(mine) + 1))
        assert set(db.scalars(select(devices.c.lease))) == {""}


def test_many_jobs_on_two_servers_end_once_each(any_url: str, any_database: Database) -> None:
    count = 24
    with any_database.write() as db:
        fill(db, "pi-1", "pi-2", host="one")
        fill(db, "pi-3", "pi-4", host="two")
    other = Database(any_url)
    counted: list[str] = []

    def submitter(database: Database) -> None:
        for _ in range(count // 2):
            with database.write() as db:
                jobs.submit(db, BENCH, "ada", 0.0)

    def host(database: Database, name: str) -> None:
        while len(counted) < count:
            with database.write() as db:
                begun = [jobs.start(db, job, 0.0) for job in jobs.startable(db, name)]
            for job in begun:
                for _ in range(2):  # the second word counts for nothing
                    with database.write() as db:
                        if jobs.finish(db, job.id, job.attempts[-1].token, JobEnd.SUCCEEDED, 1.0):
                            counted.append(job.id)

    work = [(submitter, any_database), (submitter, other)]
    threads = [threading.Thread(target=what, args=(where,)) for what, where in work]
    threads += [
        threading.Thread(target=host, args=(where, name)) for where, name in ((any_database, "one"), (other, "two"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert len(counted) == len(set(counted)) == count
    with any_database.read() as db:
        assert {job.end for job in jobs.find(db)} == {JobEnd.SUCCEEDED}


def test_a_database_that_goes_and_comes_back_loses_and_ends_nothing(
    postgres_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RECONCILE_S", 0.02)
    clock = StandInClock()
    database = Database(postgres_server.database("outage"), clock)
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    with farm.running():
        running, waiting, lease = farm.do(_busy)
        postgres_server.stop()
        try:
            while not farm.trouble:
                time.sleep(0.01)
            with pytest.raises(StoreError, match="doesn't do its work"):
                farm.do(lambda db, now: jobs.submit(db, BENCH, "ada", now))
            clock.at += 100 * SILENCE_S
        finally:
            postgres_server.start()
        while farm.trouble:
            time.sleep(0.01)
        token = running.attempts[-1].token
        assert farm.look(lambda db: jobs.get(db, running.id)).state is JobState.RUNNING
        assert farm.look(lambda db: jobs.get(db, waiting.id)).state is JobState.QUEUED
        assert farm.look(lambda db: leases.get(db, lease)).state is LeaseState.HELD
        assert farm.look(lambda db: db.scalars(select(devices.c.there).distinct()).all()) == [True]
        assert farm.do(lambda db, now: jobs.finish(db, running.id, token, JobEnd.SUCCEEDED, now))
    database.close()


def test_a_server_that_was_away_counts_no_silence(any_database: Database, tmp_path: Path) -> None:
    clock = StandInClock()
    any_database.clock = clock
    farm = Farm(any_database, Blobs(tmp_path / "blobs"))
    running, _, lease = farm.do(_busy)
    clock.at += 3600.0 + SILENCE_S  # the lease's time is over too, and who ended in time couldn't say so
    farm = Farm(any_database, Blobs(tmp_path / "blobs"))
    farm.put_right()
    assert farm.look(lambda db: jobs.get(db, running.id)).state is JobState.RUNNING
    assert farm.look(lambda db: leases.get(db, lease)).state is LeaseState.HELD
    for _ in range(7):
        clock.at += SILENCE_S / 6
        farm.put_right()
    assert farm.look(lambda db: jobs.get(db, running.id)).state is not JobState.RUNNING
    assert farm.look(lambda db: leases.get(db, lease)).state is LeaseState.ENDED


def test_a_server_that_stood_still_counts_no_silence(any_database: Database, tmp_path: Path) -> None:
    clock = StandInClock()
    any_database.clock = clock
    farm = Farm(any_database, Blobs(tmp_path / "blobs"))
    farm.put_right()
    running, _, _ = farm.do(_busy)
    clock.at += 10 * SILENCE_S
    farm.put_right()
    assert farm.look(lambda db: jobs.get(db, running.id)).state is JobState.RUNNING


def test_queues_are_read_by_their_indexes(database: Database) -> None:
    """However many leases and jobs ended, or wait for something else, they aren't looked through."""
    with database.write() as db:
        fill(db, "pi-1")
        plans = [
            row.detail
            for sql, parameters in _statements(db)
            if sql.startswith(("SELECT", "UPDATE"))
            for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
        ]
    assert any(plan.startswith("SEARCH leases USING INDEX leases_turn") for plan in plans)
    assert any("INDEX devices_host (host=? AND lease>?)" in plan for plan in plans), "idle ones too"
    assert any("INDEX jobs_attended (state=? AND attended_at<?)" in plan for plan in plans)
    assert any("INDEX jobs_ended (state=? AND ended_at<?)" in plan for plan in plans)
    assert any("INDEX devices_due (there=? AND check_due_at<?)" in plan for plan in plans)
    scans = tuple(f"SCAN {table}" for table in ("leases", "jobs", "attempts", "logs", "records"))
    assert [plan for plan in plans if plan.startswith(scans)] == []


def _statements(db: Connection) -> list[tuple[str, Any]]:
    """Return what a job's way through the tables, and a reconciler's round, ask of the database."""
    said: list[tuple[str, Any]] = []

    def note(_db: object, _cursor: object, sql: str, parameters: object, _context: object, _many: object) -> None:
        said.append((sql, parameters))

    event.listen(db, "before_cursor_execute", note)
    job = jobs.submit(db, BENCH, "ada", 0.0)
    waiting = jobs.submit(db, BENCH, "ada", 0.0)
    begun = jobs.start(db, job.id, 0.0)
    running = Turn(id=job.id, token=begun.attempts[-1].token)
    desk.work(db, Identity(id="t-desk", name="desk", scope=Scope.HOST), "desk", [running], 0.0)
    desk.reconcile(db, 1.0)
    jobs.finish(db, job.id, begun.attempts[-1].token, JobEnd.SUCCEEDED, 1.0)
    jobs.cancel(db, waiting.id, 1.0)
    retention.find(db, 1.0)
    event.remove(db, "before_cursor_execute", note)
    return said


def _busy(db: Connection, now: float) -> tuple[Job, Job, str]:
    fill(db, "pi-1", "pi-2", now=now)
    lease = leases.ask(db, Ask(target=PI), "ada", now)
    running = jobs.start(db, jobs.submit(db, BENCH, "ada", now).id, now)
    return running, jobs.submit(db, BENCH, "ada", now), lease.id
