"""`farm list | jobs | status | logs | cancel | …`: what is asked of a farm over HTTP."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from edgebuild.cli.answering import Answer, plain_data
from edgebuild.cli.farm_running import installed
from edgebuild.cli.output import make_console, plain, say, say_json
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgebuild.farm.client import FarmClient
    from edgebuild.farm.values import AuditLine, Job, Lease, Shelved, Standing

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


def devices(url: str | None) -> Answer:
    """Return the farm's devices."""
    with asked(url) as farm:
        from edgebuild.farm.values import Shelved

        found = farm.ask("GET", "/api/devices", tuple[Shelved, ...])
    return Answer(value=found, text=lambda: _show_devices(found))


def _show_devices(found: Sequence[Shelved]) -> None:
    rows = [
        (
            each.name,
            each.target,
            each.host,
            "draining" if each.draining else str(each.health),
            _doing(each),
            each.reason,
        )
        for each in found
    ]
    none = "The farm has no devices: `edgebuild farm serve` and `edgebuild farm join` bring those of an inventory."
    table(("Device", "Target", "Host", "Health", "Now", "Why"), rows, none)


def _doing(device: Any) -> str:
    if not device.there:
        return "its host is away"
    return f"in use, {device.lease}" if device.lease else "free"


def jobs(url: str | None, state: str | None) -> Answer:
    """Return the farm's jobs."""
    with asked(url) as farm:
        from edgebuild.farm.values import Job

        found = farm.ask("GET", "/api/jobs" + (f"?state={state}" if state else ""), tuple[Job, ...])
    return Answer(value=found, text=lambda: _show_jobs(found))


def _show_jobs(found: Sequence[Job]) -> None:
    rows = [
        (each.id, each.spec.kind, each.spec.name, each.owner, str(each.end or each.state), _where(each), each.reason)
        for each in found
    ]
    table(("Job", "Kind", "Name", "Owner", "State", "Device", "Why"), rows, "There are no jobs.")


def _where(job: Job) -> str:
    wanted = job.spec.ask.device or job.spec.ask.target
    return (job.attempts[-1].device if job.attempts else "") or f"any {wanted}"


def status(url: str | None, what: str | None) -> Answer:
    """Return how a job, a lease or the farm is."""
    with asked(url) as farm:
        from edgebuild.farm.values import Job, Lease, Standing

        if what is None:
            standing = farm.ask("GET", "/api/status", Standing)
            return Answer(value=standing, text=lambda: _say_standing(standing))
        if what.startswith("j"):
            job = farm.ask("GET", f"/api/jobs/{_id(what)}", Job)
            why = _why_waiting(job, farm)
            return Answer(value=job, text=lambda: _say_job(job, why))
        lease = farm.ask("GET", f"/api/leases/{_id(what)}", Lease)
        return Answer(value=lease, text=lambda: _say_lease(lease))


def _say_standing(standing: Standing) -> None:
    health = ", ".join(f"{count} {health}" for health, count in standing.devices.items() if count) or "none"
    say(f"devices  {health}")
    say(f"leases   {standing.held} held, {standing.waiting} waiting")
    say(f"jobs     {standing.queued} queued, {standing.running} running")
    if standing.trouble:
        say(f"TROUBLE  {plain(standing.trouble)}")


def _why_waiting(job: Job, farm: FarmClient) -> str:
    from edgebuild.farm.values import JobState, Lease

    if job.state is not JobState.QUEUED or not job.attempts:
        return ""
    return farm.ask("GET", f"/api/leases/{job.attempts[-1].lease}", Lease).why


def _say_job(job: Job, why: str) -> None:
    say(f"{job.id}  {job.spec.kind}  {plain(job.spec.name)}  of {plain(job.owner)}")
    say(f"  state     {job.end or job.state}" + (f": {plain(job.reason)}" if job.reason else ""))
    for attempt in job.attempts:
        how = attempt.how or ("runs" if attempt.began_at else "waits")
        say(f"  attempt {attempt.number} {attempt.device or '-'}  {how}  (lease {attempt.lease})")
    if why:
        say(f"  waits     {plain(why)}")


def _say_lease(lease: Lease) -> None:
    wanted = lease.device or lease.ask.device or lease.ask.target
    say(f"{lease.id}  {wanted}  of {plain(lease.owner)}" + (f"  for the job {lease.job}" if lease.job else ""))
    say(f"  state     {lease.end or lease.state}" + (f": {plain(lease.why)}" if lease.why else ""))


def show_log(url: str | None, job: str, *, follow: bool, as_json: bool) -> None:
    """Print what a job said, a line of JSON for each line; go on until it has ended where that is asked for."""
    with asked(url) as farm:
        from edgebuild.farm.values import Job, JobState, LogLine

        after, path = 0, f"/api/jobs/{_id(job)}"
        while True:
            # Asked before the lines are read: what it said at its end isn't missed.
            over = farm.ask("GET", path, Job).state is JobState.ENDED
            lines = farm.ask("GET", f"{path}/log?after={after}&most={LINES}", tuple[LogLine, ...])
            for line in lines:
                if as_json:
                    say_json(plain_data(line), line=True)
                else:
                    say(line.text)
            after = lines[-1].number if lines else after
            if len(lines) == LINES:
                continue
            if over or not follow:
                return
            time.sleep(FOLLOW_S)


def cancel(url: str | None, what: str) -> Answer:
    """Cancel a job or give a lease back."""
    with asked(url) as farm:
        from edgebuild.farm.values import Job, Lease

        if what.startswith("j"):
            job = farm.ask("POST", f"/api/jobs/{_id(what)}/cancel", Job)
            return Answer(value=job, text=lambda: say(f"{job.id}: {job.end or 'it is told to stop'}"))
        lease = farm.ask("POST", f"/api/leases/{_id(what)}/release", Lease, {})
        return Answer(value=lease, text=lambda: say(f"{lease.id}: {lease.end or lease.state}"))


def change_device(url: str | None, name: str, what: str, body: dict[str, Any]) -> Answer:
    """Do something to a device and return how it is now."""
    import re

    from edgebuild.fleet.inventory import NAME

    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name[:80]!r} is no name of a device.", hint="`edgebuild farm list` shows them.")
    with asked(url) as farm:
        from edgebuild.farm.values import Shelved

        device = farm.ask("POST", f"/api/devices/{name}/{what}", Shelved, body)
    return Answer(value=device, text=lambda: _say_device(device, what))


def _say_device(device: Shelved, what: str) -> None:
    reason = f" ({plain(device.reason)})" if device.reason else ""
    say(f"{device.name}: {'draining, ' if device.draining else ''}{device.health}{reason}")
    if what == "check":
        say(f"It is checked as soon as it is free: `edgebuild farm jobs` shows the check of {device.name}.")


def audit(url: str | None, most: int) -> Answer:
    """Return who did what."""
    with asked(url) as farm:
        from edgebuild.farm.values import AuditLine

        lines = farm.ask("GET", f"/api/audit?most={most}", tuple[AuditLine, ...])
    return Answer(value=lines, text=lambda: _show_audit(lines))


def _show_audit(lines: Sequence[AuditLine]) -> None:
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
