"""`farm list | jobs | status | logs | cancel | …`: what is asked of a farm over HTTP."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from edgebuild.cli.farm_running import installed
from edgebuild.cli.output import make_console, plain, say
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgebuild.farm.client import FarmClient
    from edgebuild.farm.values import Job, Lease

#: How often somebody who follows a log asks.
FOLLOW_S = 1.0
LINES = 1000


@contextlib.contextmanager
def asked(url: str | None) -> Iterator[FarmClient]:
    """Yield the farm that a command asks."""
    with installed():
        from edgebuild.farm.client import FarmClient
        from edgebuild.farm.endpoint import address_of
    with contextlib.closing(FarmClient(address_of(url))) as client:
        yield client


def show_devices(url: str | None, *, as_json: bool) -> None:
    """Print the farm's devices."""
    with asked(url) as farm:
        from edgebuild.farm.values import Shelved

        devices = farm.ask("GET", "/api/devices", tuple[Shelved, ...])
    if as_json:
        dump(devices)
        return
    rows = [
        (
            each.name,
            each.target,
            each.host,
            "draining" if each.draining else str(each.health),
            _doing(each),
            each.reason,
        )
        for each in devices
    ]
    none = "The farm has no devices: `edgebuild farm serve` and `edgebuild farm join` bring those of an inventory."
    table(("Device", "Target", "Host", "Health", "Now", "Why"), rows, none)


def _doing(device: Any) -> str:
    if not device.there:
        return "its host is away"
    return f"in use, {device.lease}" if device.lease else "free"


def show_jobs(url: str | None, state: str | None, *, as_json: bool) -> None:
    """Print the farm's jobs."""
    with asked(url) as farm:
        from edgebuild.farm.values import Job

        jobs = farm.ask("GET", "/api/jobs" + (f"?state={state}" if state else ""), tuple[Job, ...])
    if as_json:
        dump(jobs)
        return
    rows = [
        (each.id, each.spec.kind, each.spec.name, each.owner, str(each.end or each.state), _where(each), each.reason)
        for each in jobs
    ]
    table(("Job", "Kind", "Name", "Owner", "State", "Device", "Why"), rows, "There are no jobs.")


def _where(job: Job) -> str:
    wanted = job.spec.ask.device or job.spec.ask.target
    return (job.attempts[-1].device if job.attempts else "") or f"any {wanted}"


def show_status(url: str | None, what: str | None, *, as_json: bool) -> None:
    """Print how a job, a lease or the farm is."""
    with asked(url) as farm:
        from edgebuild.farm.values import Job, Lease, Standing

        if what is None:
            standing = farm.ask("GET", "/api/status", Standing)
            dump(standing) if as_json else _say_standing(standing)
        elif what.startswith("j"):
            job = farm.ask("GET", f"/api/jobs/{_id(what)}", Job)
            dump(job) if as_json else _say_job(job, farm)
        else:
            lease = farm.ask("GET", f"/api/leases/{_id(what)}", Lease)
            dump(lease) if as_json else _say_lease(lease)


def _say_standing(standing: Any) -> None:
    health = ", ".join(f"{count} {health}" for health, count in standing.devices.items() if count) or "none"
    say(f"devices  {health}")
    say(f"leases   {standing.held} held, {standing.waiting} waiting")
    say(f"jobs     {standing.queued} queued, {standing.running} running")
    if standing.trouble:
        say(f"TROUBLE  {plain(standing.trouble)}")


def _say_job(job: Job, farm: FarmClient) -> None:
    from edgebuild.farm.values import JobState, Lease

    say(f"{job.id}  {job.spec.kind}  {plain(job.spec.name)}  of {plain(job.owner)}")
    say(f"  state     {job.end or job.state}" + (f": {plain(job.reason)}" if job.reason else ""))
    for attempt in job.attempts:
        how = attempt.how or ("runs" if attempt.began_at else "waits")
        say(f"  attempt {attempt.number} {attempt.device or '-'}  {how}  (lease {attempt.lease})")
    if job.state is JobState.QUEUED and job.attempts:
        why = farm.ask("GET", f"/api/leases/{job.attempts[-1].lease}", Lease).why
        if why:
            say(f"  waits     {plain(why)}")


def _say_lease(lease: Lease) -> None:
    wanted = lease.device or lease.ask.device or lease.ask.target
    say(f"{lease.id}  {wanted}  of {plain(lease.owner)}" + (f"  for the job {lease.job}" if lease.job else ""))
    say(f"  state     {lease.end or lease.state}" + (f": {plain(lease.why)}" if lease.why else ""))


def show_log(url: str | None, job: str, *, follow: bool, as_json: bool) -> None:
    """Print what a job said, and go on until it has ended where that is asked for."""
    with asked(url) as farm:
        from edgebuild.farm.values import Job, JobState, LogLine

        after, path = 0, f"/api/jobs/{_id(job)}"
        while True:
            # Asked before the lines are read: what it said at its end isn't missed.
            over = farm.ask("GET", path, Job).state is JobState.ENDED
            lines = farm.ask("GET", f"{path}/log?after={after}&most={LINES}", tuple[LogLine, ...])
            for line in lines:
                say(line.to_json() if as_json else line.text)
            after = lines[-1].number if lines else after
            if len(lines) == LINES:
                continue
            if over or not follow:
                return
            time.sleep(FOLLOW_S)


def cancel(url: str | None, what: str, *, as_json: bool) -> None:
    """Cancel a job or give a lease back."""
    with asked(url) as farm:
        from edgebuild.farm.values import Job, Lease

        if what.startswith("j"):
            job = farm.ask("POST", f"/api/jobs/{_id(what)}/cancel", Job)
            dump(job) if as_json else say(f"{job.id}: {job.end or 'it is told to stop'}")
        else:
            lease = farm.ask("POST", f"/api/leases/{_id(what)}/release", Lease, {})
            dump(lease) if as_json else say(f"{lease.id}: {lease.end or lease.state}")


def change_device(url: str | None, name: str, what: str, body: dict[str, Any], *, as_json: bool) -> None:
    """Do something to a device and print how it is now."""
    import re

    from edgebuild.fleet.inventory import NAME

    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name[:80]!r} is no name of a device.", hint="`edgebuild farm list` shows them.")
    with asked(url) as farm:
        from edgebuild.farm.values import Shelved

        device = farm.ask("POST", f"/api/devices/{name}/{what}", Shelved, body)
    if as_json:
        dump(device)
        return
    reason = f" ({plain(device.reason)})" if device.reason else ""
    say(f"{device.name}: {'draining, ' if device.draining else ''}{device.health}{reason}")
    if what == "check":
        say(f"It is checked as soon as it is free: `edgebuild farm jobs` shows the check of {device.name}.")


def show_audit(url: str | None, most: int, *, as_json: bool) -> None:
    """Print who did what."""
    with asked(url) as farm:
        from edgebuild.farm.values import AuditLine

        lines = farm.ask("GET", f"/api/audit?most={most}", tuple[AuditLine, ...])
    if as_json:
        dump(lines)
        return
    rows = [
        (
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.at)),
            each.who,
            each.action,
            each.what,
            ", ".join(f"{key}={value}" for key, value in each.detail.items() if value),
        )
        for each in lines
    ]
    table(("When", "Who", "Did", "What", "Detail"), rows, "Nothing was done yet.")


def _id(text: str) -> str:
    import re

    if not re.fullmatch(r"[jl][0-9a-f]{15}", text):
        raise UsageError(
            f"{text[:80]!r} is no id of a job or a lease.", hint="`edgebuild farm jobs` shows those of jobs."
        )
    return text


def dump(answer: Any) -> None:
    """Print an answer as the farm gave it."""
    several = isinstance(answer, tuple)
    plain_data = [each.model_dump(mode="json") for each in answer] if several else answer.model_dump(mode="json")
    say(json.dumps(plain_data, ensure_ascii=False, indent=2))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], none: str) -> None:
    """Print rows, or what there is to say where there are none."""
    from rich.table import Table
    from rich.text import Text

    if not rows:
        say(none)
        return
    made = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    make_console().print(made)
