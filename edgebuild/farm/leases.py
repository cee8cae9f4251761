"""Leases: who may use which device, one at a time. Every function is one part of a transaction, at the time ``now``.

A free device that can be lent has nobody waiting for it: whatever makes one free, or asks for one, lends it at once.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, insert, or_, select, update

from edgebuild.errors import UsageError
from edgebuild.farm.schema import affinities, devices, leases
from edgebuild.farm.values import PREEMPT_GRACE_S, SILENCE_S, Ask, Health, Lease, LeaseEnd, LeaseState

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Row

#: A check looks at a device before anybody else uses it.
CHECK_RANK = -1


def ask(db: Connection, wanted: Ask, owner: str, now: float, *, job: str = "", checks: bool = False) -> Lease:
    """Ask for a device and get it at once where one is free. Raises ``UsageError`` where none could ever fit."""
    device = wanted.device or _bound(db, wanted.affinity)
    target = wanted.target or _target_of(db, wanted.device)
    _require_possible(db, wanted, target)
    number = "l" + uuid.uuid4().hex[:15]
    row = {
        "id": number,
        "owner": owner,
        "job": job,
        "ask": wanted.model_dump(mode="json"),
        "target": target,
        "wanted": device,
        "affinity": wanted.affinity,
        "rank": CHECK_RANK if checks else 9 - wanted.priority,
        "preemptible": wanted.preemptible,
        "checks": checks,
        "begin_at": wanted.begin_at,
        "state": LeaseState.WAITING,
        "asked_at": now,
        "beat_at": now,
    }
    db.execute(insert(leases).values(**row))
    lend(db, now, target=target)
    return get(db, number)


def get(db: Connection, lease: str) -> Lease:
    """Return a lease; raises ``UsageError`` where there is none of this id."""
    return read(_row(db, lease))


def find(db: Connection, *, state: LeaseState | None = None, most: int = 200) -> tuple[Lease, ...]:
    """Return leases: those that wait in the order of their turns, others the newest first."""
    order = (leases.c.rank, leases.c.number) if state is LeaseState.WAITING else (leases.c.number.desc(),)
    rows = select(leases).order_by(*order).limit(most)
    if state is not None:
        rows = rows.where(leases.c.state == state)
    return tuple(read(row) for row in db.execute(rows))


def beat(db: Connection, lease: str, now: float) -> Lease:
    """Say that the one who holds a lease, or waits for it, is still there; an ended one stays ended."""
    going = and_(leases.c.id == lease, leases.c.state != LeaseState.ENDED)
    db.execute(update(leases).where(going).values(beat_at=now))
    return get(db, lease)


def end(db: Connection, lease: str, how: LeaseEnd, now: float, *, token: int | None = None) -> bool:
    """End a lease, give its device to the next one, and return whether this call ended it.

    With ``token`` only where the lease still has that turn of the device: an old turn's end ends nothing.
    """
    row = _row(db, lease)
    if row.state == LeaseState.ENDED or (token is not None and row.token != token):
        return False
    db.execute(
        update(leases)
        .where(leases.c.id == lease)
        .values(state=LeaseState.ENDED, end=how, ended_at=now, make_room_at=None)
    )
    if row.state == LeaseState.HELD:
        db.execute(update(devices).where(devices.c.name == row.device, devices.c.lease == lease).values(lease=""))
        lend(db, now, device=row.device)
    return True


def overdue(db: Connection, now: float) -> list[tuple[str, LeaseEnd]]:
    """Return the leases that are to be ended, and how: out of time, silent, or slow to make room.

    What waits for a job waits for as long as the job does, and needs nobody who says so.
    """
    silent = and_(leases.c.beat_at < now - SILENCE_S, or_(leases.c.job == "", leases.c.state == LeaseState.HELD))
    late = leases.c.make_room_at < now - PREEMPT_GRACE_S
    rows = db.execute(
        select(leases.c.id, leases.c.expires_at, leases.c.make_room_at).where(
            leases.c.state != LeaseState.ENDED, or_(leases.c.expires_at < now, silent, late)
        )
    )
    return [(row.id, _why_over(row, now)) for row in rows]


def spare(db: Connection, now: float) -> None:
    """Count no silence while the server itself was away."""
    db.execute(update(leases).where(leases.c.state != LeaseState.ENDED).values(beat_at=now))


def lend(db: Connection, now: float, *, target: str | None = None, device: str | None = None) -> int:
    """Lend every free device to the one whose turn it is, and return how many; make room for those in a hurry.

    ``target`` or ``device`` narrows what is looked at to what has changed.
    """
    free = select(devices).where(devices.c.lease == "", devices.c.there, devices.c.draining.is_(False))
    if device is not None:
        return sum(_lend_one(db, row, now) for row in list(db.execute(free.where(devices.c.name == device))))
    lent = 0
    for each in [target] if target is not None else _wanted_targets(db, now):
        for row in list(db.execute(free.where(devices.c.target == each).order_by(devices.c.name))):
            lent += _lend_one(db, row, now)
        _make_room(db, now, each)
    return lent


def read(row: Row[Any]) -> Lease:
    """Return the lease of a row."""
    return Lease(
        id=row.id,
        ask=Ask.model_validate(row.ask),
        owner=row.owner,
        state=LeaseState(row.state),
        end=None if row.end is None else LeaseEnd(row.end),
        device=row.device,
        token=row.token,
        job=row.job,
        asked_at=row.asked_at,
        granted_at=row.granted_at,
        beat_at=row.beat_at,
        expires_at=row.expires_at,
        ended_at=row.ended_at,
        make_room=row.make_room_at is not None,
    )


def why_waiting(db: Connection, lease: Lease, now: float) -> str:
    """Return in a sentence why nothing is lent to a lease that waits."""
    row = _row(db, lease.id)
    if row.begin_at > now:
        return "its time to begin hasn't come"
    fitting = [one for one in db.execute(select(devices).where(_fits(row))) if _has(one.labels, lease.ask.labels)]
    usable = [one for one in fitting if one.health == Health.GOOD and one.there and not one.draining]
    if not fitting:
        return "no device of the farm fits"
    if not usable:
        return "; ".join(f"{one.name}: {_why_unusable(one)}" for one in fitting[:5])
    ahead = db.scalar(
        select(func.count()).where(
            leases.c.state == LeaseState.WAITING,
            leases.c.target == row.target,
            or_(leases.c.rank < row.rank, and_(leases.c.rank == row.rank, leases.c.number < row.number)),
        )
    )
    who = ", ".join(sorted(one.name for one in usable)[:5])
    return f"{who}: in use" + (f", {ahead} ahead in the queue" if ahead else "")


def _why_unusable(device: Row[Any]) -> str:
    if not device.there:
        return "its host is away"
    if device.draining:
        return "draining"
    return f"{device.health}" + (f" ({device.reason})" if device.reason else "")


def _why_over(row: Any, now: float) -> LeaseEnd:
    if row.expires_at is not None and row.expires_at < now:
        return LeaseEnd.EXPIRED
    if row.make_room_at is not None and row.make_room_at < now - PREEMPT_GRACE_S:
        return LeaseEnd.PREEMPTED
    return LeaseEnd.SILENT


def _wanted_targets(db: Connection, now: float) -> list[str]:
    waiting = select(leases.c.target).where(leases.c.state == LeaseState.WAITING, leases.c.begin_at <= now)
    return list(db.scalars(waiting.distinct()))


def _lend_one(db: Connection, device: Row[Any], now: float) -> bool:
    turn = select(leases).where(
        leases.c.state == LeaseState.WAITING,
        leases.c.target == device.target,
        leases.c.wanted.in_(["", device.name]),
        leases.c.begin_at <= now,
    )
    if device.health in {Health.UNKNOWN, Health.BAD}:
        turn = turn.where(leases.c.checks)
    elif device.health != Health.GOOD:
        return False
    for row in db.execute(turn.order_by(leases.c.rank, leases.c.number).execution_options(yield_per=20)):
        if _has(device.labels, row.ask["labels"]):
            _grant(db, row, device, now)
            return True
    return False


def _grant(db: Connection, lease: Row[Any], device: Row[Any], now: float) -> None:
    token = device.token + 1
    db.execute(update(devices).where(devices.c.name == device.name).values(lease=lease.id, token=token))
    db.execute(
        update(leases)
        .where(leases.c.id == lease.id)
        .values(
            state=LeaseState.HELD,
            device=device.name,
            token=token,
            granted_at=now,
            beat_at=now,
            expires_at=now + lease.ask["duration_s"],
        )
    )
    if lease.affinity:
        _bind(db, lease.affinity, device.name, now)


def _bind(db: Connection, affinity: str, device: str, now: float) -> None:
    """From now on an affinity means this device, also for those of it who wait already."""
    if _bound(db, affinity) == device:
        return
    db.execute(affinities.delete().where(affinities.c.affinity == affinity))
    db.execute(insert(affinities).values(affinity=affinity, device=device, since=now))
    mine = and_(leases.c.state == LeaseState.WAITING, leases.c.affinity == affinity, leases.c.wanted == "")
    db.execute(update(leases).where(mine).values(wanted=device))


def _bound(db: Connection, affinity: str) -> str:
    if not affinity:
        return ""
    kept = select(affinities.c.device).join(devices, devices.c.name == affinities.c.device)
    kept = kept.where(affinities.c.affinity == affinity, devices.c.health != Health.RETIRED)
    return db.scalar(kept) or ""


def _make_room(db: Connection, now: float, target: str) -> None:
    """Ask the least urgent preemptible leases to make room for those that wait and are more urgent."""
    held = and_(leases.c.state == LeaseState.HELD, leases.c.target == target, leases.c.preemptible)
    going = and_(held, leases.c.make_room_at.is_(None))
    least = db.scalar(select(func.max(leases.c.rank)).where(going))
    if least is None:
        return
    givers = list(db.execute(select(leases).where(going).order_by(leases.c.rank.desc(), leases.c.number.desc())))
    # For the first of those who wait, somebody was asked already.
    asked = db.scalar(select(func.count()).where(held, leases.c.make_room_at.is_not(None))) or 0
    urgent = select(leases).where(
        leases.c.state == LeaseState.WAITING,
        leases.c.target == target,
        leases.c.begin_at <= now,
        leases.c.rank < least,
        leases.c.checks.is_(False),
    )
    for row in list(db.execute(urgent.order_by(leases.c.rank, leases.c.number).offset(asked).limit(len(givers)))):
        giver = next((one for one in givers if _gives_way(one, row)), None)
        if giver is not None:
            givers.remove(giver)
            db.execute(update(leases).where(leases.c.id == giver.id).values(make_room_at=now))


def _gives_way(giver: Row[Any], urgent: Row[Any]) -> bool:
    return bool(urgent.wanted in {"", giver.device} and urgent.rank < giver.rank)


def _fits(lease: Row[Any]) -> ColumnElement[bool]:
    if lease.wanted:
        return and_(devices.c.name == lease.wanted)
    return and_(devices.c.target == lease.target, devices.c.health != Health.RETIRED)


def _has(labels: dict[str, str], wanted: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()


def _target_of(db: Connection, device: str) -> str:
    return db.scalar(select(devices.c.target).where(devices.c.name == device)) or ""


def _require_possible(db: Connection, wanted: Ask, target: str) -> None:
    """Raise where no device could be lent, however long one waits."""
    known = select(devices).where(devices.c.health != Health.RETIRED)
    if not wanted.target and not wanted.device:
        raise UsageError("A lease needs a target or a device.", hint="Name one; `edgebuild farm list` shows them.")
    named = list(db.execute(known.where(devices.c.name == wanted.device))) if wanted.device else None
    if named is not None and not named:
        raise UsageError(f"The farm has no device {wanted.device!r}.", hint="`edgebuild farm list` shows them.")
    fitting = named if named is not None else list(db.execute(known.where(devices.c.target == target)))
    if wanted.target and any(one.target != wanted.target for one in fitting):
        raise UsageError(f"The device {wanted.device} is a {fitting[0].target}, not a {wanted.target}.")
    if not any(_has(one.labels, wanted.labels) for one in fitting):
        labels = " with " + ", ".join(f"{key}={value}" for key, value in sorted(wanted.labels.items()))
        raise UsageError(
            f"The farm has no device of {target}{labels if wanted.labels else ''}.",
            hint="`edgebuild farm list` shows what it has.",
        )


def _row(db: Connection, lease: str) -> Row[Any]:
    row = db.execute(select(leases).where(leases.c.id == lease)).one_or_none()
    if row is None:
        raise UsageError(f"There is no lease {lease!r}.", hint="It may be of another farm.")
    return row
