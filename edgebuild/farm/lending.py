"""Whose turn it is: which free device goes to which lease that waits. Parts of transactions, at the time ``now``.

A free device that can be lent has nobody waiting for it whose time has come: whatever makes one free, or begins to
wait, lends at once. So only what has changed is ever looked at.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Integer, and_, bindparam, exists, insert, or_, select, tuple_, union_all, update

from edgebuild.farm import news, rows
from edgebuild.farm.schema import affinities, devices, leases
from edgebuild.farm.values import LONGEST_LEASE_S, Health, LeaseState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Select

    from edgebuild.farm.values import Ask

#: How many of those who wait are read at first, of whom one nearly always fits, and then at once.
_FIRST_PAGE = 4
_PAGE = 50
#: So many of the most urgent are made room for.
_MOST_URGENT = 500
_WAITS = and_(leases.c.state == LeaseState.WAITING, leases.c.due)
_MAY_GIVE_WAY = and_(leases.c.state == LeaseState.HELD, leases.c.preemptible)
_FREE = and_(devices.c.lease == "", devices.c.there, devices.c.draining.is_(False))
#: What lending reads of a device; its facts are many.
LENDABLE = tuple(column for column in devices.c if column.name != "facts")
_CHECKABLE = (Health.GOOD, Health.UNKNOWN, Health.BAD)


def lend(db: Connection, now: float, *, device: str | None = None) -> None:
    """Lend a device if it is free, or every one that is, to whoever's turn it is."""
    if device is None:
        call(db, now)
        wanted = exists().where(_WAITS, or_(leases.c.target == devices.c.target, leases.c.wanted == devices.c.name))
        free = select(*LENDABLE).where(_FREE, wanted).order_by(devices.c.name)
    else:
        free = select(*LENDABLE).where(_FREE, devices.c.name == device)
    for row in db.execute(free).all():
        lend_free(db, row, now)


def lend_free(db: Connection, device: Any, now: float) -> None:
    """Lend a device that nobody has, as its row says that it is, to whoever's turn it is."""
    if device.health not in _CHECKABLE:
        return
    for row in _in_turn(db, device):
        if fits(device, row.ask):
            _grant(db, row, device, now)
            return


def call(db: Connection, now: float) -> None:
    """Let those whose time to begin has come take their turns."""
    waiting = and_(leases.c.state == LeaseState.WAITING, leases.c.due.is_(False), leases.c.begin_at <= now)
    came = db.scalars(select(leases.c.id).where(waiting).order_by(leases.c.rank, leases.c.turn)).all()
    if came:
        db.execute(update(leases).where(waiting).values(due=True))
    for lease in came:
        seek(db, lease, now)


def seek(db: Connection, lease: str, now: float) -> None:
    """Lend a free device to a lease that begins to wait, or let others make room where it is more urgent."""
    row = rows.find(db, leases.c.id, lease)
    if row is None:
        return
    free = _free_of(checks=row.checks, named=bool(row.wanted), first=not row.ask["labels"])
    found = db.execute(free, {"of_key": row.wanted or row.target}).all()
    device = next((one for one in found if fits(one, row.ask)), None)
    if device is not None:
        _grant(db, row, device, now)
    elif not row.checks:
        make_room(db, now, row.target)


def make_room(db: Connection, now: float, target: str) -> None:
    """Ask one preemptible lease, the least urgent first, to make room for each more urgent one that waits.

    A lease that was asked for one who is gone meanwhile may stay.
    """
    held = select(leases.c.id, leases.c.rank, leases.c.make_room_at, devices.c.host, devices.c.name, devices.c.labels)
    held = held.add_columns(devices.c.target).join(devices, devices.c.lease == leases.c.id)
    held = held.where(_MAY_GIVE_WAY, devices.c.target == target, devices.c.health == Health.GOOD)
    held = held.where(devices.c.there, devices.c.draining.is_(False))
    asked_first = (leases.c.make_room_at.is_(None), leases.c.rank.desc(), leases.c.turn.desc())
    givers = list(db.execute(held.order_by(*asked_first)))
    if not givers:
        return
    least = max(giver.rank for giver in givers)
    urgent = select(leases.c.wanted, leases.c.ask, leases.c.rank)
    urgent = urgent.where(_WAITS, leases.c.target == target, leases.c.rank < least, leases.c.checks.is_(False))
    for row in db.execute(urgent.order_by(leases.c.rank, leases.c.turn).limit(_MOST_URGENT)).all():
        giver = next((one for one in givers if _gives_way(one, row)), None)
        if giver is None:
            continue
        givers.remove(giver)
        if giver.make_room_at is None:
            db.execute(update(leases).where(leases.c.id == giver.id).values(make_room_at=now))
            news.tell(db, giver.host)
        if not givers:
            return
    stay = [giver.id for giver in givers if giver.make_room_at is not None]
    if stay:
        db.execute(update(leases).where(leases.c.id.in_(stay)).values(make_room_at=None))


def preemptible_targets(db: Connection) -> Sequence[str]:
    """Return the targets of the devices whose leases could make room."""
    held = select(devices.c.target).join(leases, devices.c.lease == leases.c.id).where(_MAY_GIVE_WAY)
    return db.scalars(held.distinct()).all()


def bound(db: Connection, owner: str, wanted: Ask, target: str) -> str:
    """Return the device that somebody's affinity means for a target, where it fits what is wanted; else nothing."""
    if not wanted.affinity:
        return ""
    kept = select(devices.c.name, devices.c.labels, devices.c.target).join(
        affinities, devices.c.name == affinities.c.device
    )
    row = db.execute(kept.where(_is_affinity(owner, wanted.affinity, target))).one_or_none()
    return row.name if row is not None and fits(row, wanted.model_dump()) else ""


def unbind(db: Connection, device: str, now: float) -> None:
    """Let those who wait for a device only for their affinity's sake have another one."""
    db.execute(affinities.delete().where(affinities.c.device == device))
    _loosen(db, _tied(db, device), now)


def refit(db: Connection, device: str, now: float) -> None:
    """Let those have another device who wait for one for their affinity's sake that no longer has their labels."""
    row = db.execute(select(*LENDABLE).where(devices.c.name == device)).one()
    _loosen(db, [lease for lease in _tied(db, device) if not fits(row, lease.ask)], now)


def forget(db: Connection, now: float) -> None:
    """Forget the affinities that nobody used for as long as the longest lease, and for which nobody waits."""
    waits = exists().where(leases.c.state == LeaseState.WAITING, leases.c.wanted == affinities.c.device)
    db.execute(affinities.delete().where(affinities.c.used_at < now - LONGEST_LEASE_S, ~waits))


def fits(device: Any, ask: dict[str, Any]) -> bool:
    """Whether a device is of the target, and has the labels, that an ask names."""
    return ask["target"] in {"", device.target} and bool(ask["labels"].items() <= device.labels.items())


def _tied(db: Connection, device: str) -> list[Any]:
    mine = and_(leases.c.state == LeaseState.WAITING, leases.c.wanted == device, leases.c.affinity != "")
    found = db.execute(select(leases).where(mine).order_by(leases.c.rank, leases.c.turn))
    return [row for row in found if not row.ask["device"]]


def _loosen(db: Connection, tied: Sequence[Any], now: float) -> None:
    if tied:
        db.execute(update(leases).where(leases.c.id.in_([row.id for row in tied])).values(wanted=""))
    for row in tied:
        if row.due and db.scalar(select(leases.c.state).where(leases.c.id == row.id)) == LeaseState.WAITING:
            seek(db, row.id, now)


@functools.cache
def _free_of(*, checks: bool, named: bool, first: bool) -> Select[Any]:
    """Select the free devices of a name or a target, by name; made once, as all that is asked all the time."""
    healthy = devices.c.health.in_(_CHECKABLE) if checks else devices.c.health == Health.GOOD
    which = (devices.c.name if named else devices.c.target) == bindparam("of_key")
    free = select(*LENDABLE).where(_FREE, healthy, which).order_by(devices.c.name)
    return free.limit(1) if first else free


def _in_turn(db: Connection, device: Any) -> Iterator[Any]:
    """Yield those who wait for a device, or for any of its target, in the order of their turns."""
    last, most = {"last_rank": -100, "last_turn": 0}, _FIRST_PAGE
    while True:
        page = _page(checks=device.health != Health.GOOD, most=most)
        found = db.execute(page, {"of_target": device.target, "of_name": device.name, **last}).all()
        yield from found
        if len(found) < most:
            return
        last, most = {"last_rank": found[-1].rank, "last_turn": found[-1].turn}, _PAGE


@functools.cache
def _page(*, checks: bool, most: int) -> Select[Any]:
    """Select the next of those who wait for a device or for any of its target; with ``checks`` only checks."""
    read = (leases.c.id, leases.c.rank, leases.c.turn, leases.c.owner, leases.c.ask, leases.c.affinity, leases.c.target)
    any_of_it = and_(leases.c.target == bindparam("of_target"), leases.c.wanted == "")
    just_it = leases.c.wanted == bindparam("of_name")
    last = tuple_(bindparam("last_rank", type_=Integer), bindparam("last_turn", type_=BigInteger))
    parts = []
    for which in (any_of_it, just_it):
        behind = select(*read).where(_WAITS, which, tuple_(leases.c.rank, leases.c.turn) > last)
        behind = behind.where(leases.c.checks) if checks else behind
        parts.append(select(behind.order_by(leases.c.rank, leases.c.turn).limit(most).subquery()))
    page = union_all(*parts).subquery()
    return select(page).order_by(page.c.rank, page.c.turn).limit(most)


def _grant(db: Connection, lease: Any, device: Any, now: float) -> None:
    token = device.token + 1
    rows.change(db, devices.c.name, device.name, lease=lease.id, token=token)
    held = {"state": LeaseState.HELD, "device": device.name, "target": device.target, "token": token}
    times = {"granted_at": now, "beat_at": now, "expires_at": now + lease.ask["duration_s"]}
    rows.change(db, leases.c.id, lease.id, **held, **times)
    news.tell(db, device.host)
    if lease.affinity:
        _bind(db, lease, device, now)


def _bind(db: Connection, lease: Any, device: Any, now: float) -> None:
    """From its first device on an affinity means that one, also for those who wait and whom it fits."""
    mine = _is_affinity(lease.owner, lease.affinity, device.target)
    if db.execute(update(affinities).where(mine).values(used_at=now)).rowcount:
        return
    key = {"owner": lease.owner, "affinity": lease.affinity, "target": device.target}
    db.execute(insert(affinities).values(**key, device=device.name, used_at=now))
    same = and_(leases.c.owner == lease.owner, leases.c.affinity == lease.affinity, leases.c.target == device.target)
    waiting = select(leases.c.id, leases.c.ask).where(leases.c.state == LeaseState.WAITING, leases.c.wanted == "", same)
    follow = [row.id for row in db.execute(waiting) if fits(device, row.ask)]
    if follow:
        db.execute(update(leases).where(leases.c.id.in_(follow)).values(wanted=device.name))


def _is_affinity(owner: str, affinity: str, target: str) -> ColumnElement[bool]:
    return and_(
        affinities.c.owner == owner,
        affinities.c.affinity == affinity,
        affinities.c.target == target,
    )


def _gives_way(giver: Any, urgent: Any) -> bool:
    return urgent.wanted in {"", giver.name} and urgent.rank < giver.rank and fits(giver, urgent.ask)
