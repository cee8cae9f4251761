"""What the farm does when it is asked to: each function is a whole transaction's work, with its line in the audit.

The server's routes, the page and the command line all come through here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, select, update

from edgebuild.errors import DataError, UsageError
from edgebuild.farm import audit, jobs, leases, lending, memory, shelf
from edgebuild.farm.memory import Origin
from edgebuild.farm.schema import attempts, devices, hosts
from edgebuild.farm.schema import jobs as job_rows
from edgebuild.farm.schema import leases as lease_rows
from edgebuild.farm.values import (
    BEAT_S,
    Ask,
    Finished,
    Health,
    Job,
    JobEnd,
    JobSpec,
    JobState,
    Lease,
    LeaseEnd,
    LeaseState,
    Shelved,
    Standing,
    Stop,
    Turn,
    Work,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column, Connection, Row, Select

    from edgebuild.farm.sessions import Found
    from edgebuild.farm.tokens import Identity


# What is asked all the time is made once (see ``rows``).
_HELD = (
    select(
        lease_rows.c.id,
        lease_rows.c.job,
        lease_rows.c.token,
        lease_rows.c.device,
        lease_rows.c.beat_at,
        lease_rows.c.make_room_at,
        job_rows.c.state.label("job_state"),
        job_rows.c.stop,
        attempts.c.began_at,
    )
    .join(devices, devices.c.lease == lease_rows.c.id)
    .outerjoin(job_rows, job_rows.c.id == lease_rows.c.job)
    .outerjoin(attempts, attempts.c.lease == lease_rows.c.id)
    .where(devices.c.host == bindparam("of_host"), devices.c.lease > "")
    .order_by(lease_rows.c.device)
)
_HOST = select(hosts.c.token).where(hosts.c.name == bindparam("of_name"))
#: The states of what isn't over, which an index finds.
_GOING = (LeaseState.WAITING, LeaseState.HELD, JobState.QUEUED, JobState.RUNNING)


def ask(db: Connection, who: Identity, wanted: Ask, now: float) -> Lease:
    """Ask for a device to use from afar."""
    lease = leases.ask(db, wanted, who.name, now)
    audit.note(db, who.name, "lease", lease.id, now, target=wanted.target, device=wanted.device)
    return lease


def look(db: Connection, lease: str, now: float) -> Lease:
    """Return a lease, with the reason where it waits."""
    found = leases.get(db, lease)
    if found.state is not LeaseState.WAITING:
        return found
    return found.model_copy(update={"why": leases.why_waiting(db, found, now)})


def beat(db: Connection, who: Identity, lease: str, now: float) -> Lease:
    """Keep a lease of one's own."""
    _require_own(who, leases.get(db, lease).owner, f"The lease {lease}")
    leases.beat(db, lease, now)
    return look(db, lease, now)


def release(db: Connection, who: Identity, lease: str, now: float, *, token: int | None = None) -> Lease:
    """Give a lease back; an admin may take anybody's. With ``token``, only where it is that turn still."""
    found = leases.get(db, lease)
    _require_own(who, found.owner, f"The lease {lease}")
    if found.job:
        raise UsageError(f"The lease {lease} is a job's.", hint=f"`edgebuild farm cancel {found.job}` ends both.")
    how = LeaseEnd.RELEASED if found.state is LeaseState.HELD else LeaseEnd.CANCELLED
    if leases.end(db, lease, how, now, token=token):
        audit.note(db, who.name, "release", lease, now, device=found.device)
    return leases.get(db, lease)


def use(db: Connection, who: Identity, lease: str, now: float) -> Lease:
    """Let the holder of a lease use its device from afar; raises ``UsageError`` for another, and for a lease not held.

    Not even an admin uses what another one holds.
    """
    found = _require_held(db, lease)
    if found.owner != who.name:
        raise UsageError(f"The lease {lease} is {found.owner}'s, not {who.name}'s.", hint="Ask for one of your own.")
    audit.note(db, who.name, "use", lease, now, device=found.device)
    return found


def relay(db: Connection, who: Identity, host: str, lease: str) -> Lease:
    """Let a host relay a lease of a device of its own; raises ``UsageError`` for another, and for one not held."""
    require_host(db, who, host)
    found = _require_held(db, lease)
    if shelf.get(db, found.device).host != host:
        raise UsageError(f"The device {found.device} isn't one of {host}'s.", hint="Another host brings it.")
    return found


def submit(db: Connection, who: Identity, spec: JobSpec, now: float) -> Job:
    """Queue a job."""
    if spec.kind == "check":
        raise UsageError("Checks are queued by the farm itself.", hint="`edgebuild farm check NAME` asks for one.")
    if spec.kind == "bench" and spec.ask.preemptible and spec.arguments.get("quick") is not True:
        raise UsageError("What certifies makes room for nobody.", hint="Ask with preemptible only where it is quick.")
    job = jobs.submit(db, spec, who.name, now)
    audit.note(db, who.name, "submit", job.id, now, kind=spec.kind, name=spec.name)
    return job


def attend(db: Connection, who: Identity, job: str, now: float) -> Job:
    """Say that one still waits for a job of one's own."""
    _require_own(who, jobs.get(db, job).owner, f"The job {job}")
    return jobs.attend(db, job, now)


def cancel(db: Connection, who: Identity, job: str, now: float) -> Job:
    """Cancel a job of one's own; an admin may cancel anybody's."""
    _require_own(who, jobs.get(db, job).owner, f"The job {job}")
    audit.note(db, who.name, "cancel", job, now)
    return jobs.cancel(db, job, now)


def set_health(db: Connection, who: Identity, name: str, health: Health, reason: str, now: float) -> Shelved:
    """Put a device into maintenance, retire it, or put it back."""
    audit.note(db, who.name, str(health), name, now, reason=reason)
    return shelf.set_health(db, name, health, reason, now)


def drain(db: Connection, who: Identity, name: str, draining: bool, now: float) -> Shelved:
    """Let a device take no more work, or take it again."""
    audit.note(db, who.name, "drain" if draining else "undrain", name, now)
    return shelf.drain(db, name, draining, now)


def check(db: Connection, who: Identity, name: str, now: float) -> Shelved:
    """Have a device's health checked as soon as it is free."""
    audit.note(db, who.name, "check", name, now)
    return shelf.ask_check(db, name, now)


def standing(db: Connection, trouble: str = "") -> Standing:
    """Return how the farm as a whole is."""
    health = dict.fromkeys(Health, 0)
    health |= {Health(row[0]): row[1] for row in db.execute(_counted(devices.c.health))}
    leased = {row[0]: row[1] for row in db.execute(_counted(lease_rows.c.state))}
    worked = {row[0]: row[1] for row in db.execute(_counted(job_rows.c.state))}
    return Standing(
        devices=health,
        held=leased.get(LeaseState.HELD, 0),
        waiting=leased.get(LeaseState.WAITING, 0),
        queued=worked.get(JobState.QUEUED, 0),
        running=worked.get(JobState.RUNNING, 0),
        trouble=trouble,
    )


def work(
    db: Connection, who: Identity, host: str, running: Sequence[Turn], now: float, *, said_at: float | None = None
) -> Work:
    """Say what a host is to do, and keep the leases of what it says that it runs.

    A job that the table says it runs, and it doesn't, was lost on the way: its attempt ends. One that began after the
    host said so, at ``said_at``, isn't.
    """
    require_host(db, who, host)
    shelf.seen(db, host, now)
    said = {(turn.id, turn.token) for turn in running}
    held = _held_by(db, host)
    mine = {(row.job, row.token): row for row in held if row.job}
    keep = [row.id for turn, row in mine.items() if turn in said and row.beat_at < now - BEAT_S / 2]
    if keep:
        db.execute(update(lease_rows).where(lease_rows.c.id.in_(keep)).values(beat_at=now))
    lost = [
        row.id
        for turn, row in mine.items()
        if turn not in said
        and row.job_state == JobState.RUNNING
        and (said_at is None or row.began_at is None or row.began_at < said_at)
    ]
    for lease in lost:
        jobs.end_lease(db, lease, LeaseEnd.LOST, now)
    stop = [one for turn in running if (one := _to_stop(turn, mine.get((turn.id, turn.token)))) is not None]
    # What is lost may make room for what is about to begin.
    begins = lost or any(row.job_state == JobState.QUEUED for row in held)
    start = [jobs.start(db, job, now) for job in jobs.startable(db, host)] if begins else []
    relays = [Turn(id=row.id, token=row.token, device=row.device) for row in held if not row.job]
    return Work(start=tuple(start), stop=tuple(stop), relays=tuple(relays))


def finish(
    db: Connection, who: Identity, job: str, finished: Finished, now: float, *, session: Found | None = None
) -> bool:
    """End a job's attempt with its host's word; return whether that counted.

    ``session`` is what it measured, if anything: it is kept with it.
    """
    turn = jobs.turn_of(db, job, finished.token)
    if turn is None:
        return False
    _require_its_host(who, turn)
    # What is known of the device comes first: it isn't lent again before.
    check = turn.kind == "check"
    lost, looked = finished.how is JobEnd.DEVICE_LOST, finished.readings is not None
    if lost or looked or (check and finished.how is not JobEnd.CANCELLED):
        passed = finished.how is JobEnd.SUCCEEDED or (looked and not lost)
        readings = finished.readings or {}
        shelf.checked(db, turn.device, passed, finished.reason, readings, now, anchor_ms=finished.anchor_ms)
    how, reason, result = finished.how, finished.reason, finished.result
    if session is not None:
        of: dict[str, Any] = {"owner": turn.owner, "device": turn.device, "target": turn.target, "job": job}
        try:
            memory.keep(db, session, origin=Origin.HOST, at=now, **of)
        except DataError as error:
            how, reason, result = JobEnd.FAILED, f"its result can't be kept: {error.message}", None
    jobs.end_turn(db, turn, how, now, reason=reason, result=result)
    return True


def give_back(db: Connection, who: Identity, job: str, token: int, now: float) -> bool:
    """End the turn of a job that made room with its host's word; return whether that counted."""
    turn = jobs.turn_of(db, job, token)
    if turn is None:
        return False
    _require_its_host(who, turn)
    return jobs.give_back(db, job, token, now)


def log(db: Connection, who: Identity, job: str, token: int, lines: Sequence[str], now: float) -> bool:
    """Keep what a job says, with its host's word; return whether that counted."""
    turn = jobs.turn_of(db, job, token)
    if turn is None:
        return False
    _require_its_host(who, turn)
    jobs.log(db, job, token, lines, now)
    return True


def reconcile(db: Connection, now: float) -> None:
    """Put right what went on without anybody saying so."""
    shelf.reconcile(db, now)
    for device in jobs.reconcile(db, now):
        shelf.checked(db, device, False, "its health check took too long", {}, now)


def spare(db: Connection, now: float) -> None:
    """Count no silence, of anybody, while the server itself was away."""
    shelf.spare(db, now)
    jobs.spare(db, now)
    leases.spare(db, now)
    lending.lend(db, now)


def require_host(db: Connection, who: Identity, host: str) -> None:
    """Raise ``UsageError`` unless it is this token's host."""
    _require_token(who, host, db.scalar(_HOST, {"of_name": host}))


def _require_its_host(who: Identity, turn: Row[Any]) -> None:
    _require_token(who, turn.host, turn.host_token)


def _require_token(who: Identity, host: str, token: str | None) -> None:
    if token != who.id:
        raise UsageError(f"{host} isn't a host of this token.", hint="`edgebuild farm join` makes it one.")


def _counted(column: Column[Any]) -> Select[tuple[Any, int]]:
    """What is over isn't counted: there is ever more of it."""
    counted = select(column, func.count()).group_by(column)
    return counted.where(column.in_(_GOING)) if column.name == "state" else counted


def _require_held(db: Connection, lease: str) -> Lease:
    found = leases.get(db, lease)
    if found.state is not LeaseState.HELD:
        raise UsageError(f"The lease {lease} holds no device: it is {found.end or found.state}.", hint="Ask for one.")
    if found.job:
        raise UsageError(f"The lease {lease} is the job {found.job}'s.", hint="Ask for one of your own.")
    return found


def _held_by(db: Connection, host: str) -> Sequence[Any]:
    return db.execute(_HELD, {"of_host": host}).all()


def _to_stop(turn: Turn, held: Any) -> Stop | None:
    if held is None:
        return Stop(id=turn.id, token=turn.token, why="over")
    if held.stop:
        return Stop(id=turn.id, token=turn.token, why="cancelled")
    return Stop(id=turn.id, token=turn.token, why="make room") if held.make_room_at is not None else None


def _require_own(who: Identity, owner: str, what: str) -> None:
    from edgebuild.farm.tokens import Scope

    if who.name != owner and not who.may(Scope.ADMIN):
        raise UsageError(f"{what} is {owner}'s, not {who.name}'s.", hint="An admin's token may end it.")
