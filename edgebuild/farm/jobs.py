"""Jobs: work that needs a device, kept until it ended exactly once. Every function is one part of a transaction.

A job waits for a lease, runs while it has it, and ends with the word of whoever holds it. A lease that ends otherwise
ends the attempt: the job is queued again, or it ends with what happened.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, func, insert, select, update

from edgebuild.errors import UsageError
from edgebuild.farm import leases, lending, news, rows
from edgebuild.farm.schema import attempts, devices, hosts, jobs, logs
from edgebuild.farm.schema import leases as lease_rows
from edgebuild.farm.values import (
    MOST_ATTEMPTS,
    UNATTENDED_S,
    Attempt,
    Job,
    JobEnd,
    JobSpec,
    JobState,
    LeaseEnd,
    LeaseState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

#: What a job may say; the rest is cut, and said to be.
MOST_LOG_LINES = 20_000
LONGEST_LINE = 4_000
# What is asked all the time is made once (see ``rows``).
_LEASED = select(jobs, lease_rows.c.state.label("leased")).join(lease_rows, lease_rows.c.id == jobs.c.lease)
_LEASED = _LEASED.where(jobs.c.id == bindparam("of_id"))
_TURN = (
    select(jobs, lease_rows.c.device, devices.c.target, devices.c.host, hosts.c.token.label("host_token"))
    .join(lease_rows, lease_rows.c.id == jobs.c.lease)
    .join(devices, devices.c.name == lease_rows.c.device)
    .join(hosts, hosts.c.name == devices.c.host)
    .where(jobs.c.id == bindparam("of_id"), jobs.c.state != JobState.ENDED)
    .where(lease_rows.c.state == LeaseState.HELD, lease_rows.c.token == bindparam("of_token"))
)
_TRIED = select(attempts, lease_rows.c.device, lease_rows.c.token)
_TRIED = _TRIED.join(lease_rows, lease_rows.c.id == attempts.c.lease)
_TRIED = _TRIED.where(attempts.c.job == bindparam("of_job")).order_by(attempts.c.number)
# From a host's devices to their jobs: the other way round leads through the whole queue.
_STARTABLE = select(jobs.c.id, jobs.c.state).join(lease_rows, lease_rows.c.job == jobs.c.id)
_STARTABLE = _STARTABLE.join(devices, devices.c.lease == lease_rows.c.id)
_STARTABLE = _STARTABLE.where(devices.c.host == bindparam("of_host"), devices.c.lease > "").order_by(jobs.c.number)


def submit(db: Connection, spec: JobSpec, owner: str, now: float, *, checks: bool = False) -> Job:
    """Queue a job; raises ``UsageError`` where no device could ever do it."""
    number = "j" + uuid.uuid4().hex[:15]
    lease = leases.begin(db, spec.ask, owner, now, job=number, checks=checks)
    row = {
        "id": number,
        "owner": owner,
        "lease": lease,
        "kind": spec.kind,
        "spec": spec.model_dump(mode="json"),
        "state": JobState.QUEUED,
        "submitted_at": now,
        "attended_at": now if spec.attended else None,
    }
    rows.add(db, jobs, **row)
    rows.add(db, attempts, job=number, number=1, lease=lease)
    return get(db, number)


def get(db: Connection, job: str) -> Job:
    """Return a job; raises ``UsageError`` where there is none of this id."""
    return _read(db, _row(db, job))


def find(db: Connection, *, state: JobState | None = None, most: int = 200) -> tuple[Job, ...]:
    """Return jobs, the newest first; those that are queued in the order in which they came."""
    wanted = select(jobs).order_by(jobs.c.number if state is JobState.QUEUED else jobs.c.number.desc()).limit(most)
    if state is not None:
        wanted = wanted.where(jobs.c.state == state)
    return tuple(_read(db, row) for row in list(db.execute(wanted)))


def startable(db: Connection, host: str) -> list[str]:
    """Return the queued jobs whose lease holds a device of this host."""
    mine = db.execute(_STARTABLE, {"of_host": host})
    return [row.id for row in mine if row.state == JobState.QUEUED]


def start(db: Connection, job: str, now: float) -> Job:
    """Say that a host has begun a queued job whose lease holds a device; raises ``UsageError`` for another.

    The time that it asked for counts from now.
    """
    row = _require(db.execute(_LEASED, {"of_id": job}).one_or_none(), job)
    if row.state != JobState.QUEUED or row.leased != LeaseState.HELD:
        raise UsageError(f"The job {job} can't begin: it is {row.state}, and its lease is {row.leased}.")
    rows.change(db, jobs.c.id, job, state=JobState.RUNNING)
    rows.change(db, lease_rows.c.id, row.lease, expires_at=now + row.spec["ask"]["duration_s"], beat_at=now)
    rows.change(db, attempts.c.lease, row.lease, began_at=now)
    return _read(db, row, state=JobState.RUNNING)


def turn_of(db: Connection, job: str, token: int) -> Row[Any] | None:
    """Return a job with the ``device`` that it has in this turn of it, its ``target``, ``host`` and ``host_token``.

    ``None`` where that isn't its turn, or no more: then its host's word doesn't count. Raises ``UsageError`` where
    there is no such job.
    """
    row = db.execute(_TURN, {"of_id": job, "of_token": token}).one_or_none()
    if row is None:
        _row(db, job)
    return row


def finish(
    db: Connection, job: str, token: int, how: JobEnd, now: float, *, reason: str = "", result: Any = None
) -> bool:
    """End the attempt that has this turn of its device; return whether its word counted.

    The word of an older turn, or a second one, changes nothing. A lost device sends the job back into the queue, as
    often as ``MOST_ATTEMPTS`` says.
    """
    turn = turn_of(db, job, token)
    if turn is not None:
        end_turn(db, turn, how, now, reason=reason, result=result)
    return turn is not None


def end_turn(db: Connection, turn: Row[Any], how: JobEnd, now: float, *, reason: str = "", result: Any = None) -> None:
    """End the attempt that has a turn of its device (see ``finish``)."""
    reason = _plain(reason)
    if how is JobEnd.DEVICE_LOST:
        _fail(db, turn, reason, now)
    else:
        _close(db, turn.lease, how, now)
        _end(db, turn.id, how, now, reason=turn.reason or reason, result=result)
    leases.end(db, turn.lease, LeaseEnd.LOST if how is JobEnd.DEVICE_LOST else LeaseEnd.RELEASED, now, told=False)


def give_back(db: Connection, job: str, token: int, now: float) -> bool:
    """End the turn of a job that made room; it is queued again. Returns whether its word counted."""
    turn = turn_of(db, job, token)
    if turn is not None:
        end_lease(db, turn.lease, LeaseEnd.PREEMPTED, now)
    return turn is not None


def attend(db: Connection, job: str, now: float) -> Job:
    """Say that somebody still waits for a job that was submitted so."""
    going = and_(jobs.c.id == job, jobs.c.attended_at.is_not(None))
    db.execute(update(jobs).where(going).values(attended_at=now))
    return get(db, job)


def spare(db: Connection, now: float) -> None:
    """Count no silence of those who wait for jobs while the server itself was away."""
    going = and_(jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]), jobs.c.attended_at.is_not(None))
    db.execute(update(jobs).where(going).values(attended_at=now))


def cancel(db: Connection, job: str, now: float, *, reason: str = "") -> Job:
    """End a job that waits; ask the host of one that runs to stop it, and let its device go. Twice is fine."""
    row = _row(db, job)
    if row.state != JobState.ENDED and not row.stop:
        db.execute(update(jobs).where(jobs.c.id == job).values(reason=reason))
    if row.state == JobState.QUEUED:
        _close(db, row.lease, "cancelled", now)
        _end(db, job, JobEnd.CANCELLED, now, reason=reason or "cancelled before it began")
        leases.end(db, row.lease, LeaseEnd.CANCELLED, now)
    elif row.state == JobState.RUNNING:
        db.execute(update(jobs).where(jobs.c.id == job).values(stop=True))
        news.tell(db, db.execute(select(devices.c.host).where(devices.c.lease == row.lease)).scalar_one())
    return get(db, job)


def end_lease(db: Connection, lease: str, how: LeaseEnd, now: float) -> None:
    """End a lease, and with it the attempt of the job that runs on it: every end of a lease comes through here."""
    job = leases.get(db, lease).job
    row = _row(db, job) if job else None
    if row is not None and row.lease == lease and row.state != JobState.ENDED:
        _end_attempt(db, row, lease, how, now)
    leases.end(db, lease, how, now)


def log(db: Connection, job: str, token: int, lines: Sequence[str], now: float) -> None:
    """Keep what a running job says, as far as it may say anything."""
    if turn_of(db, job, token) is None:
        return
    said = db.scalar(select(func.count()).where(logs.c.job == job)) or 0
    room = max(0, MOST_LOG_LINES - said)
    kept = [_plain(line) for line in lines[:room]]
    if len(lines) > room > 0:
        kept[-1] = "… more than may be said"
    if kept:
        db.execute(insert(logs), [{"job": job, "at": now, "text": line} for line in kept])


def read_log(db: Connection, job: str, *, after: int = 0, most: int = 1000) -> list[tuple[int, float, str]]:
    """Return lines of a job's log behind a number: number, time and text."""
    lines = select(logs).where(logs.c.job == job, logs.c.number > after).order_by(logs.c.number).limit(most)
    return [(row.number, row.at, row.text) for row in db.execute(lines)]


def reconcile(db: Connection, now: float) -> list[str]:
    """End what is overdue and lend what is free; return the devices whose check took too long.

    Called every few seconds, and enough after any failure.
    """
    silent = and_(jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]), jobs.c.attended_at < now - UNATTENDED_S)
    for job in list(db.scalars(select(jobs.c.id).where(silent, jobs.c.stop.is_(False)))):
        cancel(db, job, now, reason="nobody waited for it any more")
    hung = []
    for lease, how in leases.overdue(db, now):
        row = leases.get(db, lease)
        end_lease(db, lease, how, now)
        if how is LeaseEnd.EXPIRED and row.job and get(db, row.job).spec.kind == "check":
            hung.append(row.device)
    leases.reconcile(db, now)
    return hung


def forsake(db: Connection, device: str, now: float) -> None:
    """End what waits for a device that is retired now, where no other one would do; the rest may have others."""
    lending.unbind(db, device, now)
    for lease in leases.hopeless(db, device):
        end_lease(db, lease, LeaseEnd.LOST, now)


def _end_attempt(db: Connection, row: Row[Any], lease: str, how: LeaseEnd, now: float) -> None:
    if row.kind == "check" and how in {LeaseEnd.LOST, LeaseEnd.SILENT}:
        # It found nothing, and its device waits to be looked at.
        db.execute(update(devices).where(devices.c.lease == lease).values(check_due_at=now))
    if row.stop or how is LeaseEnd.CANCELLED:
        _close(db, lease, "cancelled", now)
        _end(db, row.id, JobEnd.CANCELLED, now, reason=row.reason or "cancelled while it ran")
    elif how is LeaseEnd.EXPIRED and row.state == JobState.RUNNING:
        _close(db, lease, JobEnd.TIMED_OUT, now)
        limit = JobSpec.model_validate(row.spec).ask.duration_s
        _end(db, row.id, JobEnd.TIMED_OUT, now, reason=f"it took longer than the {limit:g} s that it asked for")
    elif how is LeaseEnd.PREEMPTED:
        _close(db, lease, how, now)
        _again(db, row, "it made room", now)
    else:
        why = "nothing was heard any more of the host that ran it" if how is LeaseEnd.SILENT else "its device was lost"
        _fail(db, row, why, now)


def _fail(db: Connection, row: Row[Any], reason: str, now: float) -> None:
    """End an attempt whose device was lost, and try again unless that was the last time."""
    _close(db, row.lease, JobEnd.DEVICE_LOST, now)
    lost = and_(attempts.c.job == row.id, attempts.c.how == JobEnd.DEVICE_LOST)
    tries = db.scalar(select(func.count()).select_from(attempts).where(lost)) or 0
    if row.stop:
        _end(db, row.id, JobEnd.CANCELLED, now, reason=row.reason or "cancelled while it ran")
    elif tries >= MOST_ATTEMPTS or row.kind == "check":
        told = f"{reason} ({tries} attempts)" if tries > 1 else reason
        _end(db, row.id, JobEnd.DEVICE_LOST, now, reason=told)
    else:
        _again(db, row, reason, now)


def _again(db: Connection, row: Row[Any], reason: str, now: float) -> None:
    """Queue a job again, at its old place; it ends where all devices that it could have were retired meanwhile."""
    turn = db.execute(select(lease_rows.c.turn).where(lease_rows.c.id == row.lease)).scalar_one()
    try:
        lease = leases.begin(db, JobSpec.model_validate(row.spec).ask, row.owner, now, job=row.id, turn=turn)
    except UsageError as error:
        _end(db, row.id, JobEnd.DEVICE_LOST, now, reason=f"{reason}, and there is no other: {error.message}")
        return
    number = (db.scalar(select(func.max(attempts.c.number)).where(attempts.c.job == row.id)) or 0) + 1
    db.execute(insert(attempts).values(job=row.id, number=number, lease=lease))
    db.execute(update(jobs).where(jobs.c.id == row.id).values(lease=lease, state=JobState.QUEUED))


def _close(db: Connection, lease: str, how: str, now: float) -> None:
    rows.change(db, attempts.c.lease, lease, ended_at=now, how=how)


def _end(db: Connection, job: str, how: JobEnd, now: float, *, reason: str = "", result: Any = None) -> None:
    values = {"state": JobState.ENDED, "end": how, "reason": reason, "result": result, "ended_at": now}
    rows.change(db, jobs.c.id, job, **values)


def _plain(text: str) -> str:
    # PostgreSQL keeps no text with a NUL in it.
    return text[:LONGEST_LINE].replace("\0", "\N{REPLACEMENT CHARACTER}")


def _row(db: Connection, job: str) -> Row[Any]:
    return _require(rows.find(db, jobs.c.id, job), job)


def _require(row: Row[Any] | None, job: str) -> Row[Any]:
    if row is None:
        raise UsageError(f"There is no job {job!r}.", hint="`edgebuild farm jobs` lists them.")
    return row


def _read(db: Connection, row: Row[Any], *, state: JobState | None = None) -> Job:
    """Return the job of a row; ``state`` is what it became since that was read."""
    tried = db.execute(_TRIED, {"of_job": row.id})
    return Job(
        id=row.id,
        spec=JobSpec.model_validate(row.spec),
        owner=row.owner,
        state=state or JobState(row.state),
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
            for each in tried
        ),
    )
