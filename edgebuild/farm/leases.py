"""Leases: who may use which device, one at a time. Every function is one part of a transaction, at the time ``now``.

A free device that can be lent has nobody waiting for it: whatever makes one free, or asks for one, lends it at once.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, func, or_, select, update

from edgebuild.errors import UsageError
from edgebuild.farm import lending, news, rows
from edgebuild.farm.schema import devices, leases
from edgebuild.farm.values import PREEMPT_GRACE_S, SILENCE_S, Ask, Health, Lease, LeaseEnd, LeaseState

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

#: A check looks at a device before anybody else uses it.
CHECK_RANK = -1
_LAST = select(func.max(leases.c.number))
_FREED = select(*lending.LENDABLE).where(devices.c.name == bindparam("of_name"))
#: So many devices are named where one waits for them.
_NAMED = 5


def ask(
    db: Connection, wanted: Ask, owner: str, now: float, *, job: str = "", checks: bool = False, turn: int | None = None
) -> Lease:
    """Ask for a device and get it at once where one is free (see ``begin``)."""
    return get(db, begin(db, wanted, owner, now, job=job, checks=checks, turn=turn))


def begin(
    db: Connection, wanted: Ask, owner: str, now: float, *, job: str = "", checks: bool = False, turn: int | None = None
) -> str:
    """Return the id of a new lease, which has a device at once where one is free.

    ``turn`` is that of an earlier lease whose place in the queue this one takes. Raises ``UsageError`` where no device
    could ever fit.
    """
    target = wanted.target or _target_of(db, wanted.device)
    _require_possible(db, wanted, target)
    number = "l" + uuid.uuid4().hex[:15]
    row = {
        "id": number,
        "turn": (db.scalar(_LAST) or 0) + 1 if turn is None else turn,
        "owner": owner,
        "job": job,
        "ask": wanted.model_dump(mode="json"),
        "target": target,
        "wanted": wanted.device or lending.bound(db, owner, wanted, target),
        "affinity": wanted.affinity,
        "rank": CHECK_RANK if checks else 9 - wanted.priority,
        "preemptible": wanted.preemptible,
        "checks": checks,
        "begin_at": wanted.begin_at,
        "due": wanted.begin_at <= now,
        "state": LeaseState.WAITING,
        "asked_at": now,
        "beat_at": now,
    }
    rows.add(db, leases, **row)
    if row["due"]:
        lending.seek(db, number, now)
    return number


def get(db: Connection, lease: str) -> Lease:
    """Return a lease; raises ``UsageError`` where there is none of this id."""
    return read(_row(db, lease))


def find(db: Connection, *, state: LeaseState | None = None, most: int = 200) -> tuple[Lease, ...]:
    """Return leases: those that wait in the order of their turns, others the newest first."""
    order = (leases.c.rank, leases.c.turn) if state is LeaseState.WAITING else (leases.c.number.desc(),)
    wanted = select(leases).order_by(*order).limit(most)
    if state is not None:
        wanted = wanted.where(leases.c.state == state)
    return tuple(read(row) for row in db.execute(wanted))


def beat(db: Connection, lease: str, now: float) -> Lease:
    """Say that the one who holds a lease, or waits for it, is still there; an ended one stays ended."""
    going = and_(leases.c.id == lease, leases.c.state != LeaseState.ENDED)
    db.execute(update(leases).where(going).values(beat_at=now))
    return get(db, lease)


def end(db: Connection, lease: str, how: LeaseEnd, now: float, *, token: int | None = None, told: bool = True) -> bool:
    """End a lease, give its device to the next one, and return whether this call ended it.

    With ``token`` only where the lease still has that turn of the device: an old turn's end ends nothing. ``told``: the
    device's host hears of it. Default: yes; it is of no use where it ended by that host's own word.
    """
    row = _row(db, lease)
    if row.state == LeaseState.ENDED or (token is not None and row.token != token):
        return False
    rows.change(db, leases.c.id, lease, state=LeaseState.ENDED, end=how, ended_at=now, make_room_at=None)
    if row.state == LeaseState.HELD:
        rows.change(db, devices.c.name, row.device, lease="")
        freed = db.execute(_FREED, {"of_name": row.device}).one()
        if told:
            news.tell(db, freed.host)
        if freed.there and not freed.draining:
            lending.lend_free(db, freed, now)
    return True


def overdue(db: Connection, now: float) -> list[tuple[str, LeaseEnd]]:
    """Return the leases that are to be ended, and how: out of time, silent, or slow to make room.

    What waits for a job waits for as long as the job does, and needs nobody who says so.
    """
    silent = leases.c.beat_at < now - SILENCE_S
    late = leases.c.make_room_at < now - PREEMPT_GRACE_S
    held = and_(leases.c.state == LeaseState.HELD, or_(leases.c.expires_at < now, silent, late))
    waiting = and_(leases.c.state == LeaseState.WAITING, leases.c.job == "", silent)
    read = select(leases.c.id, leases.c.expires_at, leases.c.make_room_at).order_by(leases.c.number)
    over = [row for kind in (held, waiting) for row in db.execute(read.where(kind))]
    return [(row.id, _why_over(row, now)) for row in over]


def spare(db: Connection, now: float) -> None:
    """Count nothing while the server itself was away: neither silence, nor slowness, nor the end of a lease's time."""
    going = leases.c.state != LeaseState.ENDED
    db.execute(update(leases).where(going).values(beat_at=now))
    db.execute(update(leases).where(going, leases.c.make_room_at.is_not(None)).values(make_room_at=now))
    # Who ended in time says so as soon as the server hears it again.
    grace = now + SILENCE_S
    db.execute(update(leases).where(going, leases.c.expires_at < grace).values(expires_at=grace))


def reconcile(db: Connection, now: float) -> None:
    """Begin what is due, make room for those in a hurry, and forget what nobody uses any more."""
    lending.call(db, now)
    for target in lending.preemptible_targets(db):
        lending.make_room(db, now, target)
    lending.forget(db, now)


def hopeless(db: Connection, device: str) -> list[str]:
    """Return the leases that wait for what only a device could be that is retired now."""
    target = _target_of(db, device)
    mine = or_(leases.c.wanted == device, and_(leases.c.wanted == "", leases.c.target == target))
    waiting = select(leases.c.id, leases.c.wanted, leases.c.ask).where(leases.c.state == LeaseState.WAITING, mine)
    left = select(devices.c.name, devices.c.target, devices.c.labels).where(devices.c.health != Health.RETIRED)
    rest = db.execute(left.where(devices.c.target == target)).all()
    known: dict[str, bool] = {}
    found = []
    for row in db.execute(waiting.order_by(leases.c.number)):
        key = json.dumps([row.wanted, row.ask["target"], row.ask["labels"]], sort_keys=True)
        if key not in known:
            known[key] = any(row.wanted in {"", one.name} and lending.fits(one, row.ask) for one in rest)
        if not known[key]:
            found.append(row.id)
    return found


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
    return _why_waiting(db, _row(db, lease.id), now, {})


def in_turn(db: Connection, now: float, *, most: int, skip: int = 0) -> tuple[Lease, ...]:
    """Return leases that wait, in the order of their turns, each with the reason why it does."""
    waiting = select(leases).where(leases.c.state == LeaseState.WAITING).order_by(leases.c.rank, leases.c.turn)
    seen: dict[str, list[Any]] = {}
    found = db.execute(waiting.limit(most).offset(skip)).all()
    return tuple(read(row).model_copy(update={"why": _why_waiting(db, row, now, seen)}) for row in found)


def _why_waiting(db: Connection, row: Any, now: float, seen: dict[str, list[Any]]) -> str:
    """Return why a lease waits; ``seen`` are the devices of what others wanted."""
    if row.begin_at > now:
        return "its time to begin hasn't come"
    wish = json.dumps([row.wanted, row.target, row.ask["target"], row.ask["labels"]], sort_keys=True)
    fitting = seen[wish] = seen[wish] if wish in seen else _fitting(db, row)
    if not fitting:
        return "no device of the farm fits"
    busy = [one.name for one in fitting if one.usable]
    if not busy:
        return "; ".join(f"{one.name}: {_why_unusable(one)}" for one in fitting)
    ahead = db.scalar(
        select(func.count()).where(
            leases.c.state == LeaseState.WAITING,
            leases.c.due,
            leases.c.target == row.target,
            leases.c.wanted.in_(["", row.wanted]),
            or_(leases.c.rank < row.rank, and_(leases.c.rank == row.rank, leases.c.turn < row.turn)),
        )
    )
    return f"{', '.join(busy)}: in use" + (f", {ahead} ahead in the queue" if ahead else "")


def _fitting(db: Connection, row: Any) -> list[Any]:
    """Return devices that a lease could have, those first that may be lent."""
    usable = and_(devices.c.health == Health.GOOD, devices.c.there, devices.c.draining.is_(False))
    known = select(devices.c.name, devices.c.target, devices.c.labels, devices.c.health, devices.c.reason)
    known = known.add_columns(devices.c.there, devices.c.draining, usable.label("usable"))
    known = known.where(devices.c.name == row.wanted if row.wanted else devices.c.target == row.target)
    known = known.order_by(usable.desc(), devices.c.name)
    if not row.ask["labels"]:
        known = known.limit(_NAMED)
    return [one for one in db.execute(known).all() if lending.fits(one, row.ask)][:_NAMED]


def _why_unusable(device: Any) -> str:
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


def _target_of(db: Connection, device: str) -> str:
    return db.scalar(select(devices.c.target).where(devices.c.name == device)) or ""


def _require_possible(db: Connection, wanted: Ask, target: str) -> None:
    """Raise where no device could be lent, however long one waits."""
    known = select(devices.c.target, devices.c.labels).where(devices.c.health != Health.RETIRED)
    if not wanted.target and not wanted.device:
        raise UsageError("A lease needs a target or a device.", hint="Name one; `edgebuild farm list` shows them.")
    fitting = known.where(devices.c.name == wanted.device if wanted.device else devices.c.target == target)
    found = db.execute(fitting if wanted.labels else fitting.limit(1)).all()
    if wanted.device and not found:
        raise UsageError(f"The farm has no device {wanted.device!r}.", hint="`edgebuild farm list` shows them.")
    if wanted.target and any(one.target != wanted.target for one in found):
        raise UsageError(f"The device {wanted.device} is a {found[0].target}, not a {wanted.target}.")
    if not any(lending.fits(one, wanted.model_dump()) for one in found):
        labels = " with " + ", ".join(f"{key}={value}" for key, value in sorted(wanted.labels.items()))
        raise UsageError(
            f"The farm has no device of {target}{labels if wanted.labels else ''}.",
            hint="`edgebuild farm list` shows what it has.",
        )


def _row(db: Connection, lease: str) -> Row[Any]:
    row = rows.find(db, leases.c.id, lease)
    if row is None:
        raise UsageError(f"There is no lease {lease!r}.", hint="It may be of another farm.")
    return row
