"""What was wrong once about whose turn it is, who is silent, and which word counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import UsageError
from edgebuild.farm import desk, jobs, leases, shelf
from edgebuild.farm.tokens import Identity, Scope
from edgebuild.farm.values import (
    LONGEST_LEASE_S,
    SILENCE_S,
    Ask,
    Finished,
    Health,
    Job,
    JobEnd,
    JobSpec,
    JobState,
    LeaseState,
    Offered,
)
from tests.farm.shelves import PI, fill

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgebuild.farm.database import Database

DESK = Identity(id="t-desk", name="desk", scope=Scope.HOST)


def ask(db: Connection, **fields: object) -> str:
    return leases.ask(db, Ask.model_validate({"target": PI, **fields}), "ada", 0.0).id


def submit(db: Connection, **fields: object) -> Job:
    return jobs.submit(db, JobSpec(kind="bench", ask=Ask.model_validate({"target": PI, **fields})), "ada", 0.0)


def labelled(db: Connection) -> None:
    """Two good devices, of which the second has a label."""
    offered = [Offered(name="pi-1", target=PI), Offered(name="pi-2", target=PI, labels={"rack": "b"})]
    shelf.register(db, "desk", DESK.id, "1", offered, 0.0)
    for each in offered:
        shelf.checked(db, each.name, True, "", {}, 0.0)


def test_a_job_that_made_room_keeps_its_place(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        first, second = submit(db, preemptible=True), submit(db)
        begun = jobs.start(db, first.id, 0.0)
        jobs.give_back(db, first.id, begun.attempts[-1].token, 1.0)
        assert jobs.startable(db, "desk") == [first.id], "nobody more urgent waits"
        assert jobs.get(db, second.id).attempts[-1].device == ""


def test_only_a_device_that_fits_makes_room(any_database: Database) -> None:
    with any_database.write() as db:
        labelled(db)
        one, two = (ask(db, device=name, preemptible=True, priority=1) for name in ("pi-1", "pi-2"))
        ask(db, priority=8, labels={"rack": "b"})
        assert [leases.get(db, each).make_room for each in (one, two)] == [False, True]
        ask(db, priority=9, device="pi-1")
        assert [leases.get(db, each).make_room for each in (one, two)] == [True, True]


def test_nobody_makes_room_for_one_who_left(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        screening, urgent = ask(db, preemptible=True, priority=1), ask(db, priority=8)
        assert leases.get(db, screening).make_room
        desk.release(db, Identity(id="t", name="ada", scope=Scope.RUN), urgent, 1.0)
        desk.reconcile(db, 1.0)
        assert not leases.get(db, screening).make_room


def test_who_waits_for_a_retired_device_hears_so_and_an_affinity_moves_on(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1", "pi-2")
        search, other = ask(db, affinity="search"), ask(db)
        follows, only = ask(db, affinity="search"), submit(db, device="pi-1")
        held = jobs.submit(db, JobSpec(kind="bench", ask=Ask(target=PI)), "ada", 0.0)
        shelf.set_health(db, "pi-1", Health.RETIRED, "broken", 1.0)
        ended = jobs.get(db, only.id)
        assert (ended.end, "no device 'pi-1'" in ended.reason) == (JobEnd.DEVICE_LOST, True)
        assert leases.get(db, search).state is LeaseState.HELD, "what runs goes on"
        desk.release(db, Identity(id="t", name="ada", scope=Scope.RUN), other, 2.0)
        assert leases.get(db, follows).device == "pi-2"
        assert jobs.get(db, held.id).state is JobState.QUEUED


def test_a_preempted_job_whose_only_device_was_retired_ends(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db, preemptible=True)
        token = jobs.start(db, job.id, 0.0).attempts[-1].token
        shelf.set_health(db, "pi-1", Health.RETIRED, "broken", 1.0)
        jobs.give_back(db, job.id, token, 2.0)
        assert jobs.get(db, job.id).end is JobEnd.DEVICE_LOST


def test_an_affinity_is_one_for_each_owner_and_target(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1", "pi-2")
        fill(db, "n100-1", target="intel-n100", host="shelf")
        assert leases.get(db, ask(db, affinity="s")).device == "pi-1"
        assert leases.get(db, ask(db, affinity="s", target="intel-n100")).device == "n100-1"
        eve = leases.ask(db, Ask(target=PI, affinity="s"), "eve", 0.0)
        assert eve.device == "pi-2"


def test_affinities_that_nobody_uses_are_forgotten(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1", "pi-2")
        desk.release(db, Identity(id="t", name="ada", scope=Scope.RUN), ask(db, affinity="s"), 1.0)
        ask(db, device="pi-1")
        leases.reconcile(db, LONGEST_LEASE_S + 1)
        assert leases.get(db, ask(db, affinity="s")).device == "pi-2"


def test_the_time_of_a_job_begins_when_it_does(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db, duration_s=10.0)
        jobs.reconcile(db, 11.0)  # its host hadn't asked: that isn't the job's time
        assert jobs.get(db, job.id).state is JobState.QUEUED
        jobs.start(db, job.id, 12.0)
        jobs.reconcile(db, 21.0)
        assert jobs.get(db, job.id).state is JobState.RUNNING
        jobs.reconcile(db, 22.5)
        assert jobs.get(db, job.id).end is JobEnd.TIMED_OUT


def test_a_job_that_began_after_its_host_spoke_is_not_lost(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        job = submit(db)
        assert [each.id for each in desk.work(db, DESK, "desk", [], 5.0, said_at=4.0).start] == [job.id]
        desk.work(db, DESK, "desk", [], 6.0, said_at=4.5)
        assert jobs.get(db, job.id).state is JobState.RUNNING
        desk.work(db, DESK, "desk", [], 7.0, said_at=6.5)
        assert [attempt.how for attempt in jobs.get(db, job.id).attempts] == ["device lost", ""]


def test_a_host_that_is_heard_again_has_its_devices_looked_at(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        desk.reconcile(db, SILENCE_S + 1)
        assert not shelf.get(db, "pi-1").there
        desk.work(db, DESK, "desk", [], SILENCE_S + 2)
        assert (shelf.get(db, "pi-1").there, shelf.get(db, "pi-1").health) == (True, Health.UNKNOWN)
        desk.reconcile(db, SILENCE_S + 3)
        (check,) = desk.work(db, DESK, "desk", [], SILENCE_S + 4).start
        assert check.spec.kind == "check"


def test_a_check_that_hangs_is_a_failure_and_one_that_was_lost_is_made_again(any_database: Database) -> None:
    with any_database.write() as db:
        shelf.register(db, "desk", DESK.id, "1", [Offered(name="pi-1", target=PI)], 0.0)
        desk.reconcile(db, 1.0)
        (check,) = desk.work(db, DESK, "desk", [], 1.0).start
        desk.work(db, DESK, "desk", [], 2.0)  # its agent was killed
        assert jobs.get(db, check.id).end is JobEnd.DEVICE_LOST
        again = 2.0 + shelf.CHECK_LIMIT_S
        shelf.seen(db, "desk", again)
        desk.reconcile(db, again)
        (second,) = jobs.startable(db, "desk")
        jobs.start(db, second, again)
        over = again + shelf.CHECK_LIMIT_S + 1.0
        shelf.seen(db, "desk", over)
        leases.beat(db, jobs.get(db, second).attempts[-1].lease, over)
        desk.reconcile(db, over)
        assert shelf.get(db, "pi-1").failures == 1
        assert shelf.get(db, "pi-1").reason == "its health check took too long"


def test_a_device_that_moved_is_another_hosts_once_its_own_is_away(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        lease = ask(db)
        moved = [Offered(name="pi-1", target=PI)]
        with pytest.raises(UsageError, match="is another host's"), db.begin_nested():
            shelf.register(db, "shelf", "t-shelf", "1", moved, 1.0)
        shelf.register(db, "desk", DESK.id, "1", [], 2.0)
        shelf.register(db, "shelf", "t-shelf", "1", moved, 3.0)
        assert (shelf.get(db, "pi-1").host, shelf.get(db, "pi-1").health) == ("shelf", Health.UNKNOWN)
        assert leases.get(db, lease).state is LeaseState.ENDED


def test_one_host_says_nothing_of_anothers_jobs(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        shelf.register(db, "other", "t-other", "1", [], 0.0)
        job = submit(db)
        token = jobs.start(db, job.id, 0.0).attempts[-1].token
        other = Identity(id="t-other", name="other", scope=Scope.HOST)
        with pytest.raises(UsageError, match="isn't a host of this token"):
            desk.log(db, other, job.id, token, ["a lie"], 1.0)
        with pytest.raises(UsageError, match="isn't a host of this token"):
            desk.give_back(db, other, job.id, token, 1.0)
        with pytest.raises(UsageError, match="isn't a host of this token"):
            desk.finish(db, other, job.id, Finished(token=token, how=JobEnd.FAILED), 1.0)
        assert not desk.finish(db, other, job.id, Finished(token=token - 1, how=JobEnd.FAILED), 1.0)
