"""Who may use which device, and when it is somebody else's turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import UsageError
from edgebuild.farm import leases, lending, shelf
from edgebuild.farm.values import (
    PREEMPT_GRACE_S,
    SILENCE_S,
    Ask,
    Health,
    LeaseEnd,
    LeaseState,
    Offered,
)
from tests.farm.shelves import PI, fill

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgebuild.farm.database import Database


def ask(db: Connection, **fields: object) -> str:
    return leases.ask(db, Ask.model_validate({"target": PI, **fields}), "ada", 0.0).id


def holder(db: Connection, device: str) -> str:
    return shelf.get(db, device).lease


def test_a_free_device_is_lent_at_once_and_to_nobody_else(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        first, second = ask(db), ask(db)
        assert holder(db, "pi-1") == first
        assert leases.get(db, first).device == "pi-1"
        assert leases.get(db, second).state is LeaseState.WAITING


def test_the_next_turn_has_a_higher_token(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        first, second = ask(db), ask(db)
        assert leases.end(db, first, LeaseEnd.RELEASED, 1.0)
        assert holder(db, "pi-1") == second
        assert leases.get(db, second).token > leases.get(db, first).token


def test_an_old_token_ends_nothing(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        lease = ask(db)
        assert not leases.end(db, lease, LeaseEnd.RELEASED, 1.0, token=leases.get(db, lease).token - 1)
        assert holder(db, "pi-1") == lease


def test_a_higher_priority_goes_first_and_within_one_it_is_first_come(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        held, early, late, urgent = ask(db), ask(db), ask(db), ask(db, priority=7)
        turns = []
        for lease in (held, urgent, early, late):
            turns.append(holder(db, "pi-1"))
            leases.end(db, lease, LeaseEnd.RELEASED, 1.0)
        assert turns == [held, urgent, early, late]


def test_nothing_is_lent_before_its_time(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        lease = ask(db, begin_at=100.0)
        lending.lend(db, 99.0)
        assert leases.get(db, lease).state is LeaseState.WAITING
        assert "hasn't come" in leases.why_waiting(db, leases.get(db, lease), 99.0)
        lending.lend(db, 100.0)
        assert leases.get(db, lease).state is LeaseState.HELD


def test_who_falls_silent_loses_the_device(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        lease, waiting = ask(db), ask(db)
        leases.beat(db, lease, 30.0)
        leases.beat(db, waiting, 60.0)
        assert leases.overdue(db, 30.0 + SILENCE_S) == []
        assert leases.overdue(db, 30.1 + SILENCE_S) == [(lease, LeaseEnd.SILENT)]


def test_a_beat_revives_nothing(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        lease = ask(db)
        leases.end(db, lease, LeaseEnd.SILENT, 1.0)
        assert leases.beat(db, lease, 2.0).state is LeaseState.ENDED


def test_a_lease_ends_when_its_time_is_over(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        lease = ask(db, duration_s=10.0)
        leases.beat(db, lease, 11.0)
        assert leases.overdue(db, 11.0) == [(lease, LeaseEnd.EXPIRED)]


def test_a_preemptible_lease_is_asked_to_make_room_and_made_to(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1", "pi-2")
        screening, firm = ask(db, preemptible=True, priority=3), ask(db, priority=3)
        assert not leases.get(db, screening).make_room
        ask(db, priority=8)
        assert leases.get(db, screening).make_room
        assert not leases.get(db, firm).make_room
        leases.beat(db, screening, PREEMPT_GRACE_S + 1)
        assert (screening, LeaseEnd.PREEMPTED) in leases.overdue(db, PREEMPT_GRACE_S + 1)


def test_one_who_waits_makes_one_give_way(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1", "pi-2", "pi-3")
        screening = [ask(db, preemptible=True, priority=3) for _ in range(3)]
        ask(db, priority=8)
        lending.lend(db, 1.0)
        lending.lend(db, 2.0)
        assert sum(leases.get(db, one).make_room for one in screening) == 1


def test_an_equal_priority_waits(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        screening = ask(db, preemptible=True)
        ask(db)
        assert not leases.get(db, screening).make_room


def test_one_affinity_keeps_to_one_device(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1", "pi-2")
        first = ask(db, affinity="search-7")
        leases.end(db, first, LeaseEnd.RELEASED, 1.0)
        ask(db, device="pi-1")
        second = ask(db, affinity="search-7")
        assert leases.get(db, second).state is LeaseState.WAITING, "pi-2 is free, and another device"


def test_those_of_an_affinity_who_wait_follow_the_first(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1", "pi-2")
        one, two = ask(db), ask(db)
        searching = [ask(db, affinity="search-7") for _ in range(2)]
        leases.end(db, one, LeaseEnd.RELEASED, 1.0)
        leases.end(db, two, LeaseEnd.RELEASED, 1.0)
        assert leases.get(db, searching[0]).device == leases.get(db, one).device
        assert leases.get(db, searching[1]).state is LeaseState.WAITING


def test_an_affinity_moves_on_when_its_device_is_retired(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1", "pi-2")
        first = ask(db, affinity="search-7")
        leases.end(db, first, LeaseEnd.RELEASED, 1.0)
        shelf.set_health(db, "pi-1", Health.RETIRED, "broken", 1.0)
        assert leases.get(db, ask(db, affinity="search-7")).device == "pi-2"


def test_labels_choose(any_database: Database) -> None:
    with any_database.write() as db:
        boards = [Offered(name="pi-1", target=PI), Offered(name="pi-2", target=PI, labels={"rack": "b"})]
        shelf.register(db, "desk", "t", "1", boards, 0.0)
        for name in ("pi-1", "pi-2"):
            shelf.checked(db, name, True, "", {}, 0.0)
        assert leases.get(db, ask(db, labels={"rack": "b"})).device == "pi-2"
        with pytest.raises(UsageError, match="no device of raspberry-pi-5 with rack=c"):
            ask(db, labels={"rack": "c"})


def test_what_can_never_be_lent_is_refused(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        for fields, why in (
            ({"target": ""}, "needs a target or a device"),
            ({"target": "", "device": "pi-9"}, "no device 'pi-9'"),
            ({"target": "jetson-orin-nano-8gb"}, "no device of jetson"),
            ({"target": "intel-n100", "device": "pi-1"}, "pi-1 is a raspberry-pi-5"),
        ):
            with pytest.raises(UsageError, match=why):
                ask(db, **fields)


def test_what_is_not_good_is_not_lent_and_says_why(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        shelf.set_health(db, "pi-1", Health.MAINTENANCE, "a new card", 0.0)
        lease = leases.get(db, ask(db))
        assert lease.state is LeaseState.WAITING
        assert leases.why_waiting(db, lease, 0.0) == "pi-1: maintenance (a new card)"


def test_a_draining_device_ends_what_runs_and_takes_no_more(any_database: Database) -> None:
    with any_database.write() as db:
        fill(db, "pi-1")
        first = ask(db)
        shelf.drain(db, "pi-1", True, 0.0)
        second = ask(db)
        assert leases.get(db, first).state is LeaseState.HELD
        leases.end(db, first, LeaseEnd.RELEASED, 1.0)
        assert leases.get(db, second).state is LeaseState.WAITING
        shelf.drain(db, "pi-1", False, 2.0)
        assert leases.get(db, second).state is LeaseState.HELD
