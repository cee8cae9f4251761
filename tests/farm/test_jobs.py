"""Every job ends exactly once: with the word of whoever has its device, or with what happened to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import StoreError
from edgebuild.farm import desk, jobs, leases, news, shelf
from edgebuild.farm.tokens import Identity, Scope
from edgebuild.farm.values import (
    MOST_ATTEMPTS,
    SILENCE_S,
    UNATTENDED_S,
    Ask,
    Finished,
    Health,
    Job,
    JobEnd,
    JobSpec,
    JobState,
    LeaseEnd,
    LeaseState,
    Offered,
)
from tests.farm.shelves import PI, fill

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgebuild.farm.database import Database


def submit(db: Connection, **fields: object) -> Job:
    return jobs.submit(db, JobSpec(kind="bench", ask=Ask.model_validate({"target": PI, **fields})), "ada", 0.0)


def begin(db: Connection, job: Job) -> int:
    return jobs.start(db, job.id, 1.0).attempts[-1].token


def test_a_job_runs_and_ends_with_its_result(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db)
        assert jobs.startable(db, "desk") == [job.id]
        token = begin(db, job)
        assert jobs.startable(db, "desk") == []
        assert jobs.finish(db, job.id, token, JobEnd.SUCCEEDED, 2.0, result={"ms": 3})
        ended = jobs.get(db, job.id)
        assert (ended.state, ended.end, ended.result) == (JobState.ENDED, JobEnd.SUCCEEDED, {"ms": 3})
        assert shelf.get(db, "pi-1").lease == ""


def test_a_host_that_ends_a_job_hears_only_of_the_next_one(any_database: Database) -> None:
    """Whoever has news asks the farm again: that is work for it."""
    with any_database.write() as db:
        fill(db, "pi-1")
        job, waiting = submit(db), submit(db)
        token = begin(db, job)
        assert news.take(db) == {"desk"}
        jobs.finish(db, job.id, token, JobEnd.SUCCEEDED, 2.0)
        assert news.take(db) == {"desk"}, "the next job has the device"
        jobs.finish(db, waiting.id, begin(db, waiting), JobEnd.SUCCEEDED, 3.0)
        assert news.take(db) == set()
        cancelled = submit(db)
        news.take(db)
        jobs.cancel(db, cancelled.id, 4.0)
        assert news.take(db) == {"desk"}


def test_the_second_word_and_that_of_an_old_turn_count_for_nothing(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db)
        old = begin(db, job)
        jobs.end_lease(db, jobs.get(db, job.id).attempts[-1].lease, LeaseEnd.SILENT, 60.0)
        new = begin(db, job)
        assert new > old
        assert not jobs.finish(db, job.id, old, JobEnd.SUCCEEDED, 61.0, result={"of": "the old attempt"})
        assert jobs.finish(db, job.id, new, JobEnd.SUCCEEDED, 62.0, result={"of": "the new one"})
        assert not jobs.finish(db, job.id, new, JobEnd.FAILED, 63.0)
        assert jobs.get(db, job.id).result == {"of": "the new one"}


def test_a_job_whose_device_is_lost_is_tried_again_and_not_for_ever(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db)
        for _ in range(MOST_ATTEMPTS):
            assert jobs.get(db, job.id).state is JobState.QUEUED
            jobs.finish(db, job.id, begin(db, job), JobEnd.DEVICE_LOST, 2.0, reason="pi-1 doesn't answer")
        ended = jobs.get(db, job.id)
        assert ended.end is JobEnd.DEVICE_LOST
        assert ended.reason == "pi-1 doesn't answer (3 attempts)"
        assert [attempt.how for attempt in ended.attempts] == ["device lost"] * MOST_ATTEMPTS


def test_a_device_too_busy_to_count_is_no_lost_one_and_stays_good(database: Database) -> None:
    with database.write() as db:
        fill(db, "pi-1")
        host = Identity(id="t-desk", name="desk", scope=Scope.HOST)
        for _ in range(2):
            job = submit(db)
            finished = Finished(token=begin(db, job), how=JobEnd.INCONCLUSIVE, reason="disturbed")
            assert desk.finish(db, host, job.id, finished, 2.0)
            assert jobs.get(db, job.id).end is JobEnd.INCONCLUSIVE
        assert shelf.get(db, "pi-1").health is Health.GOOD


def test_a_job_that_failed_is_not_tried_again(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db)
        jobs.finish(db, job.id, begin(db, job), JobEnd.FAILED, 2.0, reason="no such operator")
        assert jobs.get(db, job.id).end is JobEnd.FAILED


def test_a_preempted_job_is_queued_again_and_that_is_no_failure(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db, preemptible=True, priority=1)
        for _ in range(MOST_ATTEMPTS + 1):
            assert jobs.give_back(db, job.id, begin(db, job), 2.0)
        assert jobs.get(db, job.id).state is JobState.QUEUED
        assert {attempt.how for attempt in jobs.get(db, job.id).attempts[:-1]} == {"preempted"}


def test_a_job_that_takes_too_long_timed_out(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db, duration_s=10.0)
        begin(db, job)
        jobs.reconcile(db, 11.5)
        ended = jobs.get(db, job.id)
        assert ended.end is JobEnd.TIMED_OUT
        assert "longer than the 10 s" in ended.reason


def test_a_host_that_falls_silent_loses_its_jobs_and_its_devices_are_away(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db)
        begin(db, job)
        shelf.reconcile(db, SILENCE_S + 1)
        jobs.reconcile(db, SILENCE_S + 1)
        assert not shelf.get(db, "pi-1").there
        assert jobs.get(db, job.id).state is JobState.QUEUED
        assert "its host is away" in leases.why_waiting(
            db, leases.get(db, jobs.get(db, job.id).attempts[-1].lease), SILENCE_S + 1
        )


def test_a_cancelled_job_that_waits_ends_at_once(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        first, second = submit(db), submit(db)
        jobs.cancel(db, second.id, 1.0)
        assert jobs.get(db, second.id).end is JobEnd.CANCELLED
        assert leases.get(db, second.attempts[-1].lease).state is LeaseState.ENDED
        assert jobs.get(db, first.id).state is JobState.QUEUED


def test_a_job_that_nobody_waits_for_any_more_is_cancelled_where_somebody_was_to(database: Database) -> None:
    with database.write() as db:
        fill(db, "pi-1", "pi-2", "pi-3")
        spec = JobSpec(kind="bench", ask=Ask(target=PI))
        detached = jobs.submit(db, spec, "ada", 0.0)
        running, waiting = (
            jobs.submit(db, spec.model_copy(update={"attended": True, "ask": Ask(device="pi-2")}), "ada", 0.0)
            for _ in range(2)
        )
        token = begin(db, running)
        for now in (20.0, 40.0):
            jobs.attend(db, running.id, now)
            jobs.attend(db, waiting.id, now)
            leases.beat(db, running.attempts[-1].lease, now)
        jobs.reconcile(db, 40.0 + UNATTENDED_S)
        assert not jobs.get(db, running.id).stop
        jobs.reconcile(db, 40.1 + UNATTENDED_S)
        assert jobs.get(db, running.id).stop
        assert jobs.finish(db, running.id, token, JobEnd.CANCELLED, 75.0, reason="stopped")
        for job in (running, waiting):
            ended = jobs.get(db, job.id)
            assert (ended.end, ended.reason) == (JobEnd.CANCELLED, "nobody waited for it any more")
        assert jobs.get(db, detached.id).state is JobState.QUEUED
        assert shelf.get(db, "pi-2").lease == ""


def test_nobody_was_silent_while_the_server_was_away(database: Database) -> None:
    with database.write() as db:
        fill(db, "pi-1")
        job = jobs.submit(db, JobSpec(kind="bench", ask=Ask(target=PI), attended=True), "ada", 0.0)
        desk.spare(db, 1000.0)
        jobs.reconcile(db, 1000.0)
        assert jobs.get(db, job.id).state is JobState.QUEUED


def test_a_cancelled_job_that_runs_is_told_and_ends(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db)
        token = begin(db, job)
        assert jobs.cancel(db, job.id, 1.0).stop
        assert jobs.finish(db, job.id, token, JobEnd.CANCELLED, 2.0)
        assert jobs.get(db, job.id).end is JobEnd.CANCELLED
        assert shelf.get(db, "pi-1").lease == ""


def test_a_cancelled_job_whose_host_died_is_not_tried_again(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db)
        begin(db, job)
        jobs.cancel(db, job.id, 1.0)
        jobs.reconcile(db, SILENCE_S + 2)
        assert jobs.get(db, job.id).end is JobEnd.CANCELLED


def test_a_new_device_is_checked_before_anybody_gets_it(any_database: Database) -> None:
    with any_database.write() as db:
        shelf.register(db, "desk", "t", "1", [Offered(name="pi-1", target=PI)], 0.0)
        job = submit(db, priority=9)
        shelf.reconcile(db, 1.0)
        (check,) = jobs.startable(db, "desk")
        assert jobs.get(db, check).spec.kind == "check"
        token = begin(db, jobs.get(db, check))
        shelf.checked(db, "pi-1", True, "", {}, 2.0)
        assert jobs.startable(db, "desk") == []
        jobs.finish(db, check, token, JobEnd.SUCCEEDED, 2.0)
        assert jobs.startable(db, "desk") == [job.id]


def test_two_failures_make_a_device_bad_and_a_pass_makes_it_good(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        assert shelf.checked(db, "pi-1", False, "throttled", {}, 1.0).health is Health.UNKNOWN
        assert shelf.checked(db, "pi-1", False, "throttled", {}, 2.0).health is Health.BAD
        assert shelf.checked(db, "pi-1", True, "", {}, 3.0).health is Health.GOOD


def test_maintenance_outlives_a_check(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        shelf.set_health(db, "pi-1", Health.MAINTENANCE, "a new card", 0.0)
        assert shelf.checked(db, "pi-1", True, "", {}, 1.0).health is Health.MAINTENANCE


def test_a_job_says_no_more_than_it_may(any_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MOST_LOG_LINES", 3)
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db)
        token = begin(db, job)
        jobs.log(db, job.id, token, ["one", "two"], 1.0)
        jobs.log(db, job.id, token - 1, ["of an old turn"], 1.0)
        jobs.log(db, job.id, token, ["three", "four"], 1.0)
        jobs.log(db, job.id, token, ["five"], 1.0)
        assert [text for _, _, text in jobs.read_log(db, job.id)] == ["one", "two", "… more than may be said"]


def test_a_database_that_is_not_there_is_said_in_a_sentence(tmp_path: object) -> None:
    from edgebuild.farm.database import Database

    away = Database("postgresql+psycopg://ada:secret@127.0.0.1:1/farm")
    with pytest.raises(StoreError, match="doesn't do its work") as raised, away.read():
        pass
    assert "secret" not in raised.value.message


def test_a_check_that_was_lost_with_its_host_is_made_again_at_once(database: Database) -> None:
    with database.write() as db:
        shelf.register(db, "desk", "t", "1", [Offered(name="pi-1", target=PI)], 0.0)
        shelf.reconcile(db, 1.0)
        (check,) = jobs.startable(db, "desk")
        begin(db, jobs.get(db, check))
        jobs.end_lease(db, jobs.get(db, check).attempts[-1].lease, LeaseEnd.LOST, 2.0)
        assert jobs.startable(db, "desk") == []
        shelf.reconcile(db, 3.0)
        shelf.reconcile(db, 4.0)
        assert len(jobs.startable(db, "desk")) == 1
