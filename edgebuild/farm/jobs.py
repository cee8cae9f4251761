"""Jobs: work that needs a device, kept until it ended exactly once. Every function is one part of a transaction.

A job waits for a lease, runs while it has it, and ends with the word of whoever holds it. A lease that ends otherwise
ends the attempt: the job is queued again, or it ends with what happened.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, insert, select, update

from edgebuild.errors import UsageError
from edgebuild.farm import leases
from edgebuild.farm.schema import attempts, devices, jobs, logs
from edgebuild.farm.schema import leases as lease_rows
from edgebuild.farm.values import MOST_ATTEMPTS, Attempt, Job, JobEnd, JobSpec, JobState, LeaseEnd, LeaseState

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

#: What a job may say; the rest is cut, and said to be.
MOST_LOG_LINES = 20_000
LONGEST_LINE = 4_000
#: How the attempt of a lease that ended without a result is called.
_HOW = {
    LeaseEnd.EXPIRED: "timed out",
    LeaseEnd.SILENT: "device lost",
    LeaseEnd.LOST: "device lost",
    LeaseEnd.PREEMPTED: "preempted",
    LeaseEnd.CANCELLED: "cancelled",
    LeaseEnd.RELEASED: "device lost",
}


def submit(db: Connection, spec: JobSpec, owner: str, now: float, *, checks: bool = False) -> Job:
    """Queue a job; raises ``UsageError`` where no device could ever do it."""
    number = "j" + uuid.uuid4().hex[:15]
    row = {
        "id": number,
        "owner": owner,
        "kind": spec.kind,
        "spec": spec.model_dump(mode="json"),
        "state": JobState.QUEUED,
        "submitted_at": now,
    }
    db.execute(insert(jobs).values(**row))
    _try(db, number, spec, owner, now, checks=checks)
    return get(db, number)


def get(db: Connection, job: str) -> Job:
    """Return a job; raises ``UsageError`` where there is none of this id."""
    return _read(db, _row(db, job))


def find(db: Connection, *, state: JobState | None = None, most: int = 200) -> tuple[Job, ...]:
    """Return jobs, the newest first; those that are queued in the order in which they came."""
    rows = select(jobs).order_by(jobs.c.number if state is JobState.QUEUED else jobs.c.number.desc()).limit(most)
    if state is not None:
        rows = rows.where(jobs.c.state == state)
    return tuple(_read(db, row) for row in list(db.execute(rows)))


def startable(db: Connection, host: str) -> list[str]:
    """Return the queued jobs whose lease holds a device of this host."""
    mine = (
        select(jobs.c.id)
        .join(lease_rows, lease_rows.c.id == jobs.c.lease)
        .join(devices, devices.c.name == lease_rows.c.device)
        .where(jobs.c.state == JobState.QUEUED, lease_rows.c.state == LeaseState.HELD, devices.c.host == host)
    )
    return list(db.scalars(mine.order_by(jobs.c.number)))


def start(db: Connection, job: str, now: float) -> Job:
    """Say that a host has begun a queued job whose lease holds a device; raises ``UsageError`` for another."""
    row = _row(db, job)
    lease = leases.get(db, row.lease)
    if row.state != JobState.QUEUED or lease.state is not LeaseState.HELD:
        raise UsageError(f"The job {job} can't begin: it is {row.state}, and its lease is {lease.state}.")
    db.execute(update(jobs).where(jobs.c.id == job).values(state=JobState.RUNNING))
    db.execute(update(attempts).where(attempts.c.lease == row.lease).values(began_at=now))
    return get(db, job)


def current(db: Connection, job: str, token: int) -> bool:
    """Whether a job runs, or is about to, and has this turn of its device: only then its host's word counts."""
    row = _row(db, job)
    lease = leases.get(db, row.lease)
    return bool(row.state != JobState.ENDED and lease.state is LeaseState.HELD and lease.token == token)


def finish(
    db: Connection, job: str, token: int, how: JobEnd, now: float, *, reason: str = "", result: Any = None
) -> bool:
    """End the attempt that has this turn of its device; return whether its word counted.

    The word of an older turn, or a second one, changes nothing. A lost device sends the job back into the queue, as
    often as ``MOST_ATTEMPTS`` says.
    """
    if not current(db, job, token):
        return False
    row = _row(db, job)
    lease = leases.get(db, row.lease)
    if how is JobEnd.DEVICE_LOST:
        _fail(db, row, lease.id, how, now, reason)
    else:
        _close(db, lease.id, how, now)
        _end(db, job, how, now, reason=reason, result=result)
    leases.end(db, lease.id, LeaseEnd.LOST if how is JobEnd.DEVICE_LOST else LeaseEnd.RELEASED, now)
    return True


def give_back(db: Connection, job: str, token: int, now: float) -> bool:
    """End the turn of a job that made room; it is queued again. Returns whether its word counted."""
    if not current(db, job, token):
        return False
    end_lease(db, _row(db, job).lease, LeaseEnd.PREEMPTED, now)
    return True


def cancel(db: Connection, job: str, now: float) -> Job:
    """End a job that waits; ask the host of one that runs to stop it, and let its device go. Twice is fine."""
    row = _row(db, job)
    if row.state == JobState.QUEUED:
        _close(db, row.lease, "cancelled", now)
        _end(db, job, JobEnd.CANCELLED, now, reason="cancelled before it began")
        leases.end(db, row.lease, LeaseEnd.CANCELLED, now)
    elif row.state == JobState.RUNNING:
        db.execute(update(jobs).where(jobs.c.id == job).values(stop=True))
    return get(db, job)


def end_lease(db: Connection, lease: str, how: LeaseEnd, now: float) -> None:
    """End a lease, and with it the attempt of the job that runs on it: every end of a lease comes through here."""
    job = leases.get(db, lease).job
    row = _row(db, job) if job else None
    if row is not None and row.lease == lease and row.state != JobState.ENDED:
        _end_attempt(db, row, lease, how, now)
    leases.end(db, lease, how, now)


def log(db: Connection, job: str, token: int, lines: list[str], now: float) -> None:
    """Keep what a running job says, as far as it may say anything."""
    if not current(db, job, token):
        return
    said = db.scalar(select(func.count()).where(logs.c.job == job)) or 0
    room = max(0, MOST_LOG_LINES - said)
    kept = [line[:LONGEST_LINE] for line in lines[:room]]
    if len(lines) > room > 0:
        kept[-1] = "… more than may be said"
    if kept:
        db.execute(insert(logs), [{"job": job, "at": now, "text": line} for line in kept])


def read_log(db: Connection, job: str, *, after: int = 0, most: int = 1000) -> list[tuple[int, float, str]]:
    """Return lines of a job's log behind a number: number, time and text."""
    rows = select(logs).where(logs.c.job == job, logs.c.number > after).order_by(logs.c.number).limit(most)
    return [(row.number, row.at, row.text) for row in db.execute(rows)]


def reconcile(db: Connection, now: float) -> None:
    """End what is overdue and lend what is free: called every few seconds, and enough after any failure."""
    for lease, how in leases.overdue(db, now):
        end_lease(db, lease, how, now)
    leases.lend(db, now)


def _end_attempt(db: Connection, row: Row[Any], lease: str, how: LeaseEnd, now: float) -> None:
    spec = JobSpec.model_validate(row.spec)
    if row.stop or how is LeaseEnd.CANCELLED:
        _close(db, lease, "cancelled", now)
        _end(db, row.id, JobEnd.CANCELLED, now, reason="cancelled while it ran")
    elif how is LeaseEnd.EXPIRED:
        _close(db, lease, _HOW[how], now)
        reason = f"it took longer than the {spec.ask.duration_s:g} s that it asked for"
        _end(db, row.id, JobEnd.TIMED_OUT, now, reason=reason)
    elif how is LeaseEnd.PREEMPTED:
        _close(db, lease, _HOW[how], now)
        _try(db, row.id, spec, row.owner, now, checks=spec.kind == "check")
    else:
        why = "nothing was heard any more of the host that ran it" if how is LeaseEnd.SILENT else "its device was lost"
        _fail(db, row, lease, JobEnd.DEVICE_LOST, now, why)


def _fail(db: Connection, row: Row[Any], lease: str, how: JobEnd, now: float, reason: str) -> None:
    """End an attempt whose device was lost, and try again unless that was the last time."""
    _close(db, lease, how, now)
    lost = and_(attempts.c.job == row.id, attempts.c.how == JobEnd.DEVICE_LOST)
    tries = db.scalar(select(func.count()).select_from(attempts).where(lost)) or 0
    spec = JobSpec.model_validate(row.spec)
    if tries >= MOST_ATTEMPTS or spec.kind == "check":
        _end(db, row.id, how, now, reason=f"{reason} ({tries} attempts)" if tries > 1 else reason)
    elif row.stop:
        _end(db, row.id, JobEnd.CANCELLED, now, reason="cancelled while it ran")
    else:
        try:
            _try(db, row.id, spec, row.owner, now, checks=False)
        except UsageError as error:  # its only device was retired meanwhile
            _end(db, row.id, how, now, reason=f"{reason}, and {error.message}")


def _try(db: Connection, job: str, spec: JobSpec, owner: str, now: float, *, checks: bool) -> None:
    """Ask for a lease for the next attempt. The job refers to it before it may be lent."""
    db.execute(update(jobs).where(jobs.c.id == job).values(state=JobState.QUEUED))
    lease = leases.ask(db, spec.ask, owner, now, job=job, checks=checks)
    number = (db.scalar(select(func.max(attempts.c.number)).where(attempts.c.job == job)) or 0) + 1
    db.execute(insert(attempts).values(job=job, number=number, lease=lease.id))
    db.execute(update(jobs).where(jobs.c.id == job).values(lease=lease.id))


def _close(db: Connection, lease: str, how: str, now: float) -> None:
    db.execute(update(attempts).where(attempts.c.lease == lease).values(ended_at=now, how=how))


def _end(db: Connection, job: str, how: JobEnd, now: float, *, reason: str = "", result: Any = None) -> None:
    values = {"state": JobState.ENDED, "end": how, "reason": reason, "result": result, "ended_at": now}
    db.execute(update(jobs).where(jobs.c.id == job).values(**values))


def _row(db: Connection, job: str) -> Row[Any]:
    row = db.execute(select(jobs).where(jobs.c.id == job)).one_or_none()
    if row is None:
        raise UsageError(f"There is no job {job!r}.", hint="`edgebuild farm jobs` lists them.")
    return row


def _read(db: Connection, row: Row[Any]) -> Job:
    tried = select(attempts, lease_rows.c.device, lease_rows.c.token)
    tried = tried.join(lease_rows, lease_rows.c.id == attempts.c.lease)
    rows = db.execute(tried.where(attempts.c.job == row.id).order_by(attempts.c.number))
    return Job(
        id=row.id,
        spec=JobSpec.model_validate(row.spec),
        owner=row.owner,
        state=JobState(row.state),
        end=None if row.end is None else JobEnd(row.end),
        reason=row.reason,
        result=row.result,
        stop=row.stop,
        submitted_at=row.submitted_at,
        ended_at=row.ended_at,
        attempts=tuple(
            Attempt(
                number=each.number,
                lease=each.lease,
                device=each.device,
                token=each.token,
                began_at=each.began_at,
                ended_at=each.ended_at,
                how=each.how,
            )
            for each in rows
        ),
    )
