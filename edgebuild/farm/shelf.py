"""The devices of the farm: which host reaches them, how they are, and who may use them. Parts of transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, insert, select, update

from edgebuild.errors import UsageError
from edgebuild.farm import jobs, lending, tokens
from edgebuild.farm.schema import checks, devices, hosts
from edgebuild.farm.schema import leases as lease_rows
from edgebuild.farm.values import (
    BEAT_S,
    KIND_LABEL,
    MOST_FAILURES,
    SILENCE_S,
    Ask,
    Health,
    JobSpec,
    LeaseEnd,
    LeaseState,
    Offered,
    Shelved,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Row, Select

#: A good device is looked at again after this long without a job, a bad one sooner.
CHECK_EVERY_S = 6 * 3600.0
CHECK_BAD_EVERY_S = 900.0
CHECK_LIMIT_S = 600.0
# What is asked all the time is made once (see ``rows``).
_BACK = select(devices.c.name)
_BACK = _BACK.where(devices.c.host == bindparam("of_host"), devices.c.offered, devices.c.there.is_(False))
_SEEN = update(hosts).where(hosts.c.name == bindparam("of_name"), hosts.c.seen_at < bindparam("before"))


def register(
    db: Connection, host: str, token: str, version: str, offered: Sequence[Offered], now: float
) -> tuple[Shelved, ...]:
    """Take a host's devices in; those that it no longer offers are away. Returns what the farm knows of them.

    A host whose token expired or was revoked comes back with another one; a device whose own host is away, or no longer
    offers it, is this one's. Raises ``UsageError`` for a host's name, or a device's, that is another's.
    """
    row = db.execute(select(hosts).where(hosts.c.name == host)).one_or_none()
    if row is not None and row.token != token and tokens.standing(db, row.token, now) is not None:
        raise UsageError(f"The host {host} joined with another token.", hint="Join under another name.")
    values = {"token": token, "version": version, "seen_at": now}
    if row is None:
        db.execute(insert(hosts).values(name=host, **values))
    else:
        db.execute(update(hosts).where(hosts.c.name == host).values(**values))
    for each in offered:
        _take_in(db, host, each, now)
    names = [each.name for each in offered]
    other = and_(devices.c.host == host, devices.c.name.not_in(names))
    db.execute(update(devices).where(other).values(offered=False, there=False))
    for name in names:
        lending.lend(db, now, device=name)
    mine = select(devices).where(devices.c.host == host).order_by(devices.c.name)
    return tuple(_read(each) for each in db.execute(mine))


def seen(db: Connection, host: str, now: float) -> None:
    """Say that a host is still there; its devices are there again, and looked at, where it was silent."""
    names = db.scalars(_BACK, {"of_host": host}).all()
    db.execute(_SEEN, {"of_name": host, "before": now - BEAT_S / 2, "seen_at": now})
    for name in names:
        _come_back(db, name, now)


def spare(db: Connection, now: float) -> None:
    """Count no silence of hosts while the server itself was away."""
    db.execute(update(hosts).values(seen_at=now))


def find(db: Connection) -> tuple[Shelved, ...]:
    """Return every device by name, the retired ones included."""
    return tuple(_read(row) for row in db.execute(select(devices).order_by(devices.c.name)))


def get(db: Connection, name: str) -> Shelved:
    """Return a device; raises ``UsageError`` where there is none of this name."""
    return _read(_row(db, name))


def set_health(db: Connection, name: str, health: Health, reason: str, now: float) -> Shelved:
    """Put a device into maintenance, retire it, or put it back (unknown, so that it is checked before it is lent).

    What runs on it goes on; whoever wants it gone cancels that.
    """
    _row(db, name)
    for check in _pending_checks(db, name):
        jobs.end_lease(db, check, LeaseEnd.CANCELLED, now)
    values = {"health": health, "reason": reason, "failures": 0, "draining": False}
    db.execute(update(devices).where(devices.c.name == name).values(check_due_at=_next_check(health, now), **values))
    if health is Health.RETIRED:
        jobs.forsake(db, name, now)
    lending.lend(db, now, device=name)
    return get(db, name)


def drain(db: Connection, name: str, draining: bool, now: float) -> Shelved:
    """Let a device end what runs and take no more, or take work again."""
    _row(db, name)
    db.execute(update(devices).where(devices.c.name == name).values(draining=draining))
    lending.lend(db, now, device=name)
    return get(db, name)


def ask_check(db: Connection, name: str, now: float) -> Shelved:
    """Have a device checked as soon as it is free; one that waits for its check already isn't checked twice.

    Raises ``UsageError`` for one that is in maintenance or retired.
    """
    row = _row(db, name)
    if row.health in {Health.MAINTENANCE, Health.RETIRED}:
        raise UsageError(
            f"{name} is in {row.health}." if row.health == Health.MAINTENANCE else f"{name} is retired.",
            hint=f"`edgebuild farm restore {name}` puts it back; it is checked then.",
        )
    going = and_(lease_rows.c.checks, lease_rows.c.wanted == name, lease_rows.c.state != LeaseState.ENDED)
    if db.scalar(select(lease_rows.c.id).where(going).limit(1)) is None:
        db.execute(update(devices).where(devices.c.name == name).values(check_due_at=now))
    return get(db, name)


def checked(
    db: Connection,
    name: str,
    passed: bool,
    reason: str,
    readings: Mapping[str, Any],
    now: float,
    *,
    anchor_ms: float | None = None,
) -> Shelved:
    """Keep what a check found, and decide from it and those before whether the device is good.

    One failure of a good device is looked at again at once, a second one takes it out of the pool.
    """
    row = _row(db, name)
    found = {"device": name, "at": now, "passed": passed, "reason": reason, "anchor_ms": anchor_ms}
    db.execute(insert(checks).values(readings=dict(readings), **found))
    if row.health in {Health.MAINTENANCE, Health.RETIRED}:
        return _read(row)
    failures = 0 if passed else row.failures + 1
    health = Health.GOOD if passed else Health.BAD if failures >= MOST_FAILURES else Health.UNKNOWN
    values = {"health": health, "reason": reason, "failures": failures, "checked_at": now}
    db.execute(update(devices).where(devices.c.name == name).values(check_due_at=_next_check(health, now), **values))
    lending.lend(db, now, device=name)
    return get(db, name)


def reconcile(db: Connection, now: float) -> None:
    """Take the devices of silent hosts away, end what ran on them, and queue the checks that are due."""
    silent = select(hosts.c.name).where(hosts.c.seen_at < now - SILENCE_S)
    db.execute(update(devices).where(devices.c.host.in_(silent), devices.c.there).values(there=False))
    for lease in db.scalars(_held_on_absent()).all():
        jobs.end_lease(db, lease, LeaseEnd.LOST, now)
    looked_at = devices.c.health.in_([Health.GOOD, Health.UNKNOWN, Health.BAD])
    due = and_(devices.c.there, devices.c.check_due_at <= now, devices.c.draining.is_(False), looked_at)
    for name, failures in db.execute(select(devices.c.name, devices.c.failures).where(due)).all():
        again = now + CHECK_LIMIT_S  # should this one end without a word of what it found
        db.execute(update(devices).where(devices.c.name == name).values(check_due_at=again))
        if not _pending_checks(db, name, held=True):
            ask = Ask(device=name, duration_s=CHECK_LIMIT_S, purpose="health check")
            spec = JobSpec(kind="check", ask=ask, name=f"check {name}", arguments={"failures": failures})
            jobs.submit(db, spec, "farm", now, checks=True)


def history(db: Connection, name: str, *, most: int = 200) -> list[dict[str, Any]]:
    """Return a device's checks, the newest first."""
    rows = select(checks).where(checks.c.device == name).order_by(checks.c.number.desc()).limit(most)
    return [dict(row._mapping) for row in db.execute(rows)]


def _held_on_absent() -> Select[Any]:
    held = select(lease_rows.c.id).join(devices, devices.c.lease == lease_rows.c.id)
    return held.where(devices.c.there.is_(False))


def _pending_checks(db: Connection, device: str, *, held: bool = False) -> Sequence[str]:
    states = [LeaseState.WAITING, LeaseState.HELD] if held else [LeaseState.WAITING]
    pending = and_(lease_rows.c.state.in_(states), lease_rows.c.due, lease_rows.c.wanted == device, lease_rows.c.checks)
    return db.scalars(select(lease_rows.c.id).where(pending)).all()


def _next_check(health: Health, now: float) -> float | None:
    if health is Health.UNKNOWN:
        return now
    return {Health.GOOD: now + CHECK_EVERY_S, Health.BAD: now + CHECK_BAD_EVERY_S}.get(health)


def _take_in(db: Connection, host: str, offered: Offered, now: float) -> None:
    row = db.execute(select(devices).where(devices.c.name == offered.name)).one_or_none()
    said: dict[str, Any] = {"target": offered.target, "kind": offered.kind, "facts": offered.facts}
    said["labels"] = {KIND_LABEL: offered.kind, **offered.labels}
    if row is None:
        new = {"health": Health.UNKNOWN, "added_at": now, "check_due_at": now, "offered": True, "there": True}
        db.execute(insert(devices).values(name=offered.name, host=host, **said, **new))
        return
    if row.host != host and row.there:
        raise UsageError(
            f"The device {offered.name} is another host's: {row.host}'s.", hint="Names are unique in a farm: rename it."
        )
    if row.host != host and row.lease:  # its host is away, and so is who used it through that
        jobs.end_lease(db, row.lease, LeaseEnd.LOST, now)
    db.execute(update(devices).where(devices.c.name == offered.name).values(host=host, offered=True, **said))
    if row.target != offered.target:
        lending.unbind(db, offered.name, now)
    lending.refit(db, offered.name, now)
    if not row.there or row.target != offered.target or row.facts != offered.facts:
        _come_back(db, offered.name, now)


def _come_back(db: Connection, name: str, now: float) -> None:
    """Let a device be there again, or another one than before: a good one is looked at before it is lent."""
    mine = devices.c.name == name
    db.execute(update(devices).where(mine).values(there=True))
    unsure = and_(mine, devices.c.health.in_([Health.GOOD, Health.UNKNOWN]))
    db.execute(update(devices).where(unsure).values(health=Health.UNKNOWN, check_due_at=now))
    lending.lend(db, now, device=name)


def _row(db: Connection, name: str) -> Row[Any]:
    row = db.execute(select(devices).where(devices.c.name == name)).one_or_none()
    if row is None:
        raise UsageError(f"The farm has no device {name!r}.", hint="`edgebuild farm list` shows them.")
    return row


def _read(row: Row[Any]) -> Shelved:
    return Shelved(
        name=row.name,
        host=row.host,
        target=row.target,
        kind=row.kind,
        facts=row.facts,
        labels=row.labels,
        health=Health(row.health),
        reason=row.reason,
        failures=row.failures,
        draining=row.draining,
        there=row.there,
        token=row.token,
        lease=row.lease,
        checked_at=row.checked_at,
        added_at=row.added_at,
    )
