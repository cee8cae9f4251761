"""What the pages show of the tables: each look is a few queries, whatever the farm holds. Parts of transactions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, func, select

from edgebuild.farm import leases
from edgebuild.farm.schema import attempts, checks, devices, hosts, jobs, logs
from edgebuild.farm.schema import leases as lease_rows
from edgebuild.farm.values import Health, JobState, Lease, LeaseState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

#: So many rows of a table are shown at once.
ROWS = 100
FEW_ROWS = 12
#: Each of those who wait has a reason of its own to be looked for.
TURNS = 50
LOG_LINES = 400
CHECKS = 200
#: A device's jobs are looked for among so many of the farm's last leases.
LOOKED_THROUGH = 50_000


class Show(StrEnum):
    """Which devices are shown; by default all but the retired ones."""

    ALL = ""
    FREE = "free"
    BUSY = "busy"
    AWAY = "away"
    GOOD = "good"
    UNKNOWN = "unknown"
    BAD = "bad"
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of a table, and whether there are more before and behind them."""

    rows: Sequence[Any]
    page: int = 1
    size: int = ROWS
    more: bool = False


_kept = devices.c.health != Health.RETIRED
_free = and_(devices.c.health == Health.GOOD, devices.c.there, devices.c.draining.is_(False), devices.c.lease == "")
_WHICH: dict[Show, ColumnElement[bool]] = {
    Show.ALL: _kept,
    Show.FREE: _free,
    Show.BUSY: devices.c.lease != "",
    Show.AWAY: and_(_kept, devices.c.there.is_(False)),
}


def targets(db: Connection) -> list[dict[str, Any]]:
    """Return for each target how many devices there are, of which kind, and who waits for one."""
    each = {name: func.sum(case((which, 1), else_=0)).label(name or "all") for name, which in _which().items()}
    counted = select(devices.c.target, *each.values()).group_by(devices.c.target).order_by(devices.c.target)
    waiting = select(lease_rows.c.target, func.count().label("waiting"), func.min(lease_rows.c.asked_at).label("since"))
    waiting = waiting.where(lease_rows.c.state == LeaseState.WAITING).group_by(lease_rows.c.target)
    queue = {row.target: row for row in db.execute(waiting)}
    found = []
    for row in db.execute(counted):
        waits = queue.get(row.target)
        more = {"waiting": waits.waiting if waits else 0, "since": waits.since if waits else None}
        found.append({**row._mapping, **more})
    return found


def shelf(db: Connection, *, show: Show, target: str, page: int) -> Part:
    """Return devices by name, each with who has it and for what."""
    columns = [column for column in devices.c if column.name not in {"facts", "labels", "lease"}]
    rows = select(*columns, *_HELD).outerjoin(lease_rows, lease_rows.c.id == devices.c.lease)
    rows = rows.outerjoin(jobs, jobs.c.id == lease_rows.c.job).where(_which()[show])
    if target:
        rows = rows.where(devices.c.target == target)
    return _part(db, rows.order_by(devices.c.name), page)


def host_list(db: Connection) -> list[Row[Any]]:
    """Return the hosts, and how many devices each has there."""
    there = func.sum(case((devices.c.there, 1), else_=0)).label("there")
    rows = select(hosts.c.name, hosts.c.version, hosts.c.seen_at, func.count(devices.c.name).label("devices"), there)
    rows = rows.outerjoin(devices, and_(devices.c.host == hosts.c.name, _kept))
    return list(db.execute(rows.group_by(hosts.c.name, hosts.c.version, hosts.c.seen_at).order_by(hosts.c.name)))


def waiting(db: Connection, now: float, page: int) -> Part:
    """Return leases that wait, in the order of their turns, with reasons and what each one's job is."""
    found = leases.in_turn(db, now, most=TURNS + 1, skip=(page - 1) * TURNS)
    named = select(jobs.c.id, jobs.c.kind, jobs.c.spec).where(jobs.c.id.in_([one.job for one in found[:TURNS]]))
    work = {row.id: row for row in db.execute(named)}
    rows = [(one, work.get(one.job)) for one in found[:TURNS]]
    return Part(rows=rows, page=page, size=TURNS, more=len(found) > TURNS)


def running(db: Connection, page: int) -> Part:
    """Return leases that hold a device, the newest first."""
    rows = select(lease_rows.c.device, lease_rows.c.make_room_at, *_HELD).outerjoin(jobs, jobs.c.id == lease_rows.c.job)
    return _part(db, rows.where(lease_rows.c.state == LeaseState.HELD).order_by(lease_rows.c.number.desc()), page)


def ended(db: Connection, *, before: int | None = None, most: int = FEW_ROWS) -> Part:
    """Return jobs that ended, those that were submitted last first."""
    rows = select(jobs, lease_rows.c.device).outerjoin(lease_rows, lease_rows.c.id == jobs.c.lease)
    rows = rows.where(jobs.c.state == JobState.ENDED).order_by(jobs.c.number.desc()).limit(most + 1)
    if before is not None:
        rows = rows.where(jobs.c.number < before)
    found = list(db.execute(rows))
    return Part(rows=found[:most], more=len(found) > most)


def given_back(db: Connection) -> list[Lease]:
    """Return the last leases without a job that ended."""
    rows = select(lease_rows).where(lease_rows.c.state == LeaseState.ENDED, lease_rows.c.job == "")
    return [leases.read(row) for row in db.execute(rows.order_by(lease_rows.c.number.desc()).limit(FEW_ROWS))]


def holder(db: Connection, device: str) -> Any:
    """Return who has a device, and for what; ``None`` where nobody has."""
    rows = select(*_HELD).outerjoin(jobs, jobs.c.id == lease_rows.c.job)
    return db.execute(rows.where(lease_rows.c.state == LeaseState.HELD, lease_rows.c.device == device)).first()


def check_history(db: Connection, device: str) -> list[Row[Any]]:
    """Return a device's last checks, the newest first."""
    rows = select(checks).where(checks.c.device == device).order_by(checks.c.number.desc()).limit(CHECKS)
    return list(db.execute(rows))


def jobs_of(db: Connection, device: str) -> list[Row[Any]]:
    """Return the last attempts of jobs on a device, the newest first."""
    rows = select(jobs, attempts.c.how, attempts.c.began_at, attempts.c.ended_at.label("over_at"))
    rows = rows.join(attempts, attempts.c.job == jobs.c.id).join(lease_rows, lease_rows.c.id == attempts.c.lease)
    newest = select(func.max(lease_rows.c.number)).scalar_subquery()
    rows = rows.where(lease_rows.c.device == device, lease_rows.c.number > newest - LOOKED_THROUGH)
    rows = rows.order_by(lease_rows.c.number.desc()).limit(FEW_ROWS)
    return list(db.execute(rows))


def log_end(db: Connection, job: str) -> Part:
    """Return the last lines that a job said."""
    rows = select(logs).where(logs.c.job == job).order_by(logs.c.number.desc()).limit(LOG_LINES + 1)
    found = list(db.execute(rows))
    return Part(rows=found[:LOG_LINES][::-1], more=len(found) > LOG_LINES)


_HELD = (
    lease_rows.c.id.label("lease"),
    lease_rows.c.owner,
    lease_rows.c.ask,
    lease_rows.c.granted_at,
    lease_rows.c.expires_at,
    jobs.c.id.label("job"),
    jobs.c.kind.label("job_kind"),
    jobs.c.spec,
)


def _which() -> dict[Show, ColumnElement[bool]]:
    healths = {Show(str(health)): and_(devices.c.health == health) for health in Health}
    return {**_WHICH, **healths}


def _part(db: Connection, rows: Select[Any], page: int) -> Part:
    found = list(db.execute(rows.limit(ROWS + 1).offset((page - 1) * ROWS)))
    return Part(rows=found[:ROWS], page=page, more=len(found) > ROWS)
