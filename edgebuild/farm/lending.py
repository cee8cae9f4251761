"""Whose turn it is: which free device goes to which lease that waits. Parts of transactions, at the time ``now``.

A free device that can be lent has nobody waiting for it whose time has come: whatever makes one free, or begins to
wait, lends at once. So only what has changed is ever looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, exists, insert, or_, select, tuple_, union_all, update

from edgebuild.farm import news
from edgebuild.farm.schema import affinities, devices, leases
from edgebuild.farm.values import LONGEST_LEASE_S, Health, LeaseState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Select

    from edgebuild.farm.values import Ask

#: How many of those who wait are read at once, and how many of the most urgent are made room for.
_PAGE = 50
_MOST_URGENT = 500
_WAITS = and_(leases.c.state == LeaseState.WAITING, leases.c.due)
_MAY_GIVE_WAY = and_(leases.c.state == LeaseState.HELD, leases.c.preemptible)
_FREE = and_(devices.c.lease == "", devices.c.there, devices.c.draining.is_(False))
_CHECKABLE = (Health.GOOD, Health.UNKNOWN, Health.BAD)


def lend(db: Connection, now: float, *, device: str | None = None) -> None:
    """Lend a device if it is free, or every one that is, to whoever's turn it is."""
    if device is None:
        call(db, now)
        wanted = exists().where(_WAITS, or_(leases.c.target == devices.c.target, leases.c.wanted == devices.c.name))
        free = select(devices).where(_FREE, wanted).order_by(devices.c.name)
    else:
        free = select(devices).where(_FREE, devices.c.name == device)
    for row in db.execute(free).all():
        _lend_one(db, row, now)


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
    row = db.execute(select(leases).where(leases.c.id == lease)).one()
    healthy = devices.c.health.in_(_CHECKABLE) if row.checks else devices.c.health == Health.GOOD
    free = select(devices).where(_FREE, healthy, _possible(row)).order_by(devices.c.name)
    if not row.ask["labels"]:
        free = free.limit(1)
    device = next((one for one in db.execute(free).all() if fits(one, row.ask)), None)
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
    row = db.execute(select(devices).where(devices.c.name == device)).one()
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
    rows = db.execute(select(leases).where(mine).order_by(leases.c.rank, leases.c.turn))
    return [row for row in rows if not row.ask["device"]]


def _loosen(db: Connection, tied: Sequence[Any], now: float) -> None:
    if tied:
        db.execute(update(leases).where(leases.c.id.in_([row.id for row in tied])).values(wanted=""))
    for row in tied:
        if row.due and db.scalar(select(leases.c.state).where(leases.c.id == row.id)) == LeaseState.WAITING:
            seek(db, row.id, now)


def _possible(lease: Any) -> ColumnElement[bool]:
    return and_(devices.c.name == lease.wanted if lease.wanted else devices.c.target == lease.target)


def _lend_one(db: Connection, device: Any, now: float) -> None:
    if device.health not in _CHECKABLE:
        return
    for row in _in_turn(db, device):
        if fits(device, row.ask):
            _grant(db, row, device, now)
            return


def _in_turn(db: Connection, device: Any) -> Iterator[Any]:
    """Yield those who wait for a device, or for any of its target, in the order of their turns."""
    read = (leases.c.id, leases.c.rank, leases.c.turn, leases.c.owner, leases.c.ask, leases.c.affinity, leases.c.target)
    any_of_it = select(*read).where(_WAITS, leases.c.target == device.target, leases.c.wanted == "")
    just_it = select(*read).where(_WAITS, leases.c.wanted == device.name)
    last = (-100, 0)
    while True:
        page = union_all(*(_page(queue, device, last) for queue in (any_of_it, just_it))).subquery()
        rows = db.execute(select(page).order_by(page.c.rank, page.c.turn).limit(_PAGE)).all()
        yield from rows
        if len(rows) < _PAGE:
            return
        last = (rows[-1].rank, rows[-1].turn)


def _page(queue: Select[Any], device: Any, last: tuple[int, int]) -> Select[Any]:
    behind = queue.where(tuple_(leases.c.rank, leases.c.turn) > last)
    if device.health != Health.GOOD:
        behind = behind.where(leases.c.checks)
    return select(behind.order_by(leases.c.rank, leases.c.turn).limit(_PAGE).subquery())


def _grant(db: Connection, lease: Any, device: Any, now: float) -> None:
    token = device.token + 1
    db.execute(update(devices).where(devices.c.name == device.name).values(lease=lease.id, token=token))
    db.execute(
        update(leases)
        .where(leases.c.id == lease.id)
        .values(
            state=LeaseState.HELD,
            device=device.name,
            target=device.target,
            token=token,
            granted_at=now,
            beat_at=now,
            expires_at=now + lease.ask["duration_s"],
        )
    )
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
