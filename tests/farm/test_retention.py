"""What a farm forgets after a while, and what it never does, in both databases."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from sqlalchemy import func, insert, select

from edgebuild.core.values import digest_bytes
from edgebuild.farm import audit, jobs, leases, retention, schema, tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.client import FarmAddress, FarmClient
from edgebuild.farm.database import Clock
from edgebuild.farm.server import tidying
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import DAY_S, Scope
from edgebuild.farm.values import Ask, Job, JobEnd, JobSpec, LeaseEnd
from tests.farm.serving import served
from tests.farm.shelves import PI, fill

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

    from edgebuild.farm.database import Database

T = TypeVar("T")
#: Longer ago than anything is kept, and not so long ago.
OLD_S, RECENT_S = 100 * DAY_S, 80 * DAY_S


class FixedClock(Clock):
    """A clock that stands still, at the time of files."""

    def __init__(self) -> None:
        super().__init__()
        self.at = time.time()

    def now(self) -> float:
        return self.at


def spec_of(*digests: str) -> JobSpec:
    files = [{"path": f"{number}.onnx", "sha256": digest} for number, digest in enumerate(digests)]
    return JobSpec(kind="bench", ask=Ask(target=PI), arguments={"model": {"files": files}})


@dataclass
class Past:
    """A farm with a past; times are so long ago."""

    farm: Farm

    def __post_init__(self) -> None:
        self._do(lambda db: fill(db, "pi-1", now=self._at(OLD_S)))

    def file(self, name: str, ago_s: float = OLD_S) -> str:
        digest = digest_bytes(name.encode())
        self.farm.blobs.put([name.encode()], digest)
        os.utime(self.farm.blobs.path(digest), (self._at(ago_s),) * 2)
        return digest

    def ended(self, ago_s: float, *, names: str = "", lines: int = 3, record: str = "") -> Job:
        """A job that ended, and perhaps a record of it, whose evidence is ``record``."""

        def work(db: Connection) -> Job:
            at = self._at(ago_s)
            job = jobs.start(db, jobs.submit(db, spec_of(names), "ada", at).id, at)
            token = job.attempts[-1].token
            jobs.log(db, job.id, token, [f"line {number}" for number in range(lines)], at)
            jobs.finish(db, job.id, token, JobEnd.SUCCEEDED if record else JobEnd.FAILED, at)
            if record:
                db.execute(insert(schema.records).values(**record_row(job.id, record, at)))
            return job

        return self._do(work)

    def given_back(self, ago_s: float) -> str:
        def work(db: Connection) -> str:
            lease = leases.ask(db, Ask(target=PI), "ada", self._at(ago_s)).id
            leases.end(db, lease, LeaseEnd.RELEASED, self._at(ago_s))
            return lease

        return self._do(work)

    def left(self, table: Any) -> int:
        return self.farm.look(lambda db: db.scalar(select(func.count()).select_from(table))) or 0

    def ids(self, table: Any) -> set[str]:
        return self.farm.look(lambda db: set(db.scalars(select(table.c.id))))

    def _at(self, ago_s: float) -> float:
        return self.farm.now - ago_s

    def _do(self, work: Callable[[Connection], T]) -> T:
        return self.farm.do(lambda db, _: work(db))


def record_row(job: str, evidence: str, at: float) -> dict[str, Any]:
    names = dict.fromkeys(("session", "owner", "model", "artifact", "device", "target", "protocol"), "x")
    times = {"measured_at": at, "point_ms": 1.0}
    made = {"id": f"m-{job}", "job": job, "origin": "host", "evidence": evidence, "environment": {}, "summary": {}}
    return {**names, **times, **made}


@pytest.fixture
def past(any_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Past:
    monkeypatch.setattr(tidying, "PAUSE_S", 0.0)
    any_database.clock = FixedClock()
    return Past(Farm(any_database, Blobs(tmp_path / "blobs")))


def test_jobs_without_a_record_go_and_so_do_logs(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part at a time: none is larger than it may be."""
    monkeypatch.setattr(retention, "MOST", 2)
    gone = [past.ended(OLD_S) for _ in range(3)]
    kept = past.ended(OLD_S, record="e" * 64)
    recent = past.ended(RECENT_S)
    waiting = past._do(lambda db: jobs.submit(db, spec_of(), "ada", past._at(OLD_S)))
    past.farm.tidying.tidy()
    assert past.ids(schema.jobs) == {kept.id, recent.id, waiting.id}
    assert past.farm.look(lambda db: jobs.get(db, kept.id)).attempts[-1].device == "pi-1", "its lease is still there"
    assert past.farm.look(lambda db: jobs.read_log(db, kept.id)) == []
    assert len(past.farm.look(lambda db: jobs.read_log(db, recent.id))) == 3
    left = past.farm.look(lambda db: set(db.scalars(select(schema.leases.c.job))))
    assert not left & {job.id for job in gone}
    assert past.left(schema.records) == 1
    assert past.left(schema.checks) == 1


def test_leases_go_and_the_audit_stays(past: Past) -> None:
    old, recent = past.given_back(OLD_S), past.given_back(RECENT_S)
    held = past._do(lambda db: leases.ask(db, Ask(target=PI), "ada", past._at(OLD_S))).id
    past._do(lambda db: audit.note(db, "ada", "lease", old, past._at(OLD_S)))
    past.farm.tidying.tidy()
    assert past.ids(schema.leases) == {recent, held}
    assert past.left(schema.audit) == 1


def test_tokens_that_are_over_go(past: Past) -> None:
    def work(db: Connection) -> None:
        for name, days in (("expired", 1), ("revoked", 1000), ("good", 1000)):
            tokens.make(db, name, Scope.RUN, past._at(OLD_S), days=days)
        tokens.make(db, "lately", Scope.RUN, past._at(RECENT_S), days=1)
        tokens.revoke(db, "revoked", past._at(OLD_S))

    past._do(work)
    past.farm.tidying.tidy()
    assert {row["name"] for row in past.farm.look(tokens.find)} == {"good", "lately"}


def test_a_token_that_is_renewed_in_time_stays(past: Past) -> None:
    before = past._at(90 * DAY_S)
    past._do(lambda db: tokens.make(db, "desk", Scope.HOST, past._at(OLD_S), days=1))
    old = past.farm.look(lambda db: retention.find(db, before))
    assert old.tokens
    past._do(lambda db: tokens.renew(db, "desk", Scope.HOST, past.farm.now, days=1))
    past._do(lambda db: retention.remove(db, old, before))
    assert past.left(schema.tokens) == 1


def test_files_go_that_nothing_names(past: Past) -> None:
    names = ("gone", "unnamed", "queued", "input", "evidence", "new")
    files = {name: past.file(name, 0.0 if name == "new" else OLD_S) for name in names}
    part = past.farm.blobs.folder / ".part-x"
    part.write_bytes(b"half")
    os.utime(part, (0, 0))
    past.ended(OLD_S, names=files["gone"])
    past.ended(OLD_S, names=files["input"], record=files["evidence"])
    past._do(lambda db: jobs.submit(db, spec_of(files["queued"]), "ada", past._at(OLD_S)))
    past.farm.tidying.tidy()
    assert {name for name, digest in files.items() if past.farm.blobs.has(digest)} == {
        "queued",
        "input",
        "evidence",
        "new",
    }
    assert not part.exists()


def test_a_file_that_is_asked_for_while_others_are_looked_for_stays(past: Past) -> None:
    """A client asks whether its model is there, and then submits the job."""
    digest, before = past.file("model"), past._at(90 * DAY_S)
    assert past.farm.blobs.untouched(before) == {digest}
    assert past.farm.blobs.ask(digest)
    assert not past.farm.blobs.drop(digest, before)
    assert past.farm.blobs.untouched(before) == set()
    assert not past.farm.blobs.ask("0" * 64)


def test_whoever_submits_a_job_or_looks_for_its_file_keeps_the_file(past: Past) -> None:
    """Over HTTP; a job that somebody writes himself asks for nothing before."""
    named, looked_for = past.file("named"), past.file("looked for")
    token = past._do(lambda db: tokens.make(db, "ada", Scope.RUN, past.farm.now, days=1))
    with served(past.farm, reconciled=False) as url:
        client = FarmClient(FarmAddress(url=url, token=token))
        client.ask("POST", "/api/jobs", Job, spec_of(named))
        assert client.has(looked_for)
        client.close()
    assert past.farm.blobs.untouched(past._at(90 * DAY_S)) == set()


def test_a_server_tidies_now_and_then(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "FIRST_S", 0.0)
    old = past.ended(OLD_S)
    with past.farm.running():
        deadline = time.monotonic() + 30.0
        while old.id in past.ids(schema.jobs):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_digests_are_found_wherever_a_job_names_them() -> None:
    one, other = (hashlib.sha256(name).hexdigest() for name in (b"1", b"2"))
    assert retention.digests_in(f'{{"a": ["{one}"], "b": "sha256:{other}", "c": "{one}0"}}') == [one, other]
