"""Who is who: what a token is worth, and what becomes of the devices of a host whose token is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import UsageError
from edgebuild.farm import desk, jobs, shelf, tokens
from edgebuild.farm.tokens import DAY_S, Identity, Scope
from edgebuild.farm.values import JobState, Offered
from tests.farm.shelves import PI, fill

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgebuild.farm.database import Database


def who_is(db: Connection, token: str, now: float) -> Identity:
    found = tokens.identify(db, token, now)
    assert found is not None
    return found


def test_a_token_is_good_until_it_expires_or_is_revoked(database: Database) -> None:
    with database.write() as db:
        token = tokens.make(db, "ada", Scope.RUN, 0.0, days=1)
        assert who_is(db, token, DAY_S - 1).may(Scope.READ)
        assert not who_is(db, token, 0.0).may(Scope.ADMIN)
        assert tokens.identify(db, token, DAY_S) is None
        assert tokens.identify(db, token[:-1], 0.0) is None
        tokens.revoke(db, "ada", 1.0)
        assert tokens.identify(db, token, 2.0) is None


def test_a_renewed_token_is_the_same_one_with_another_secret(database: Database) -> None:
    with database.write() as db:
        old = tokens.renew(db, "host-desk", Scope.HOST, 0.0, days=1)
        number = who_is(db, old, 0.0).id
        new = tokens.renew(db, "host-desk", Scope.HOST, DAY_S, days=1)
        assert who_is(db, new, DAY_S).id == number
        assert tokens.identify(db, old, DAY_S) is None
        tokens.prolong(db, "host-desk", DAY_S * 1.5, days=1)
        assert who_is(db, new, DAY_S * 2.4).id == number
        tokens.prolong(db, "host-desk", 0.0, days=1)
        assert who_is(db, new, DAY_S * 2.4).id == number, "it is never made shorter"
        tokens.revoke(db, "host-desk", DAY_S)
        assert tokens.identify(db, tokens.renew(db, "host-desk", Scope.HOST, DAY_S, days=1), DAY_S) is None
        with pytest.raises(UsageError, match="scope host"):
            tokens.renew(db, "host-desk", Scope.ADMIN, 0.0, days=1)


def test_a_host_comes_back_with_a_new_token_once_the_old_one_is_over(database: Database) -> None:
    offered = [Offered(name="pi-1", target=PI)]
    with database.write() as db:
        first = who_is(db, tokens.make(db, "desk-1", Scope.HOST, 0.0, days=1), 0.0).id
        second = who_is(db, tokens.make(db, "desk-2", Scope.HOST, 0.0, days=9), 0.0).id
        shelf.register(db, "desk", first, "1", offered, 0.0)
        with pytest.raises(UsageError, match="another token"):
            shelf.register(db, "desk", second, "1", offered, 1.0)
        assert [each.name for each in shelf.register(db, "desk", second, "1", offered, DAY_S + 1)] == ["pi-1"]


def test_a_check_that_is_asked_for_comes_once(database: Database) -> None:
    ada = Identity(id="1", name="ada", scope=Scope.RUN)
    with database.write() as db:
        fill(db, "pi-1")
        for now in (1.0, 2.0, 3.0):
            desk.check(db, ada, "pi-1", now)
            shelf.reconcile(db, now + 0.5)
        standing = desk.standing(db)
        assert (standing.queued, standing.held) == (1, 1)
        (job,) = jobs.find(db, state=JobState.QUEUED)
        assert job.spec.kind == "check"
