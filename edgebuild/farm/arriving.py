"""What comes of measurements that are sent to the farm: looked at before any transaction, and only then kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from edgebuild.errors import DataError, UsageError
from edgebuild.farm import audit, jobs, leases, memory, sessions
from edgebuild.farm.memory import Origin, Record
from edgebuild.farm.results import BenchResult
from edgebuild.farm.sessions import Found, Said
from edgebuild.farm.values import Finished, JobEnd, Lease, LeaseState

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from edgebuild.farm.blobs import Blobs
    from edgebuild.farm.tokens import Identity

#: The kind of job whose result is a measurement.
MEASURES = "bench"


class Reported(Said):
    """A session that somebody measured through a relay, while ``lease`` was theirs."""

    lease: str = Field(pattern=r"^[a-z][0-9a-f]{15}$")


def looked_at(blobs: Blobs, finished: Finished, device: str) -> tuple[Finished, Found | None]:
    """Return a bench job's end, and its session where it ended well; one whose result isn't right has failed."""
    try:
        result = BenchResult.model_validate(finished.result)
        if result.device != device:
            raise DataError(f"The result is of {result.device}, and the job had {device}.")
        return finished, sessions.require_result(_archive(blobs, result.evidence), result)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        reason = f"its result is none of a bench: {where or 'it'}: {error.errors()[0]['msg']}"
    except (DataError, UsageError) as error:
        reason = f"its result can't be kept: {error.message}"
    return finished.model_copy(update={"how": JobEnd.FAILED, "reason": reason, "result": None}), None


def measured_on(db: Connection, job: str, token: int) -> str | None:
    """Return the device of a job whose result is to be looked at; None where it measures nothing, or isn't current."""
    turn = jobs.turn_of(db, job, token)
    return turn.device if turn is not None and turn.kind == MEASURES else None


def look_at_report(blobs: Blobs, report: Reported) -> Found:
    """Return what was reported once it is seen to be right; raises ``DataError``."""
    return sessions.require(_archive(blobs, report.evidence), report)


def keep_report(
    db: Connection, who: Identity, report: Reported, found: Found, target: str, now: float
) -> tuple[Record, ...]:
    """Keep what somebody measured through a relay; raises ``UsageError`` where the lease wasn't theirs."""
    lease = require_used(db, who, report.lease)
    at = memory.time_of(found.opened.began_at, lease.granted_at or now, lease.ended_at or now)
    kept = memory.keep(db, found, origin=Origin.USER, owner=who.name, device=lease.device, target=target, at=at)
    audit.note(db, who.name, "report", report.session, now, device=lease.device, records=[each.id for each in kept])
    return kept


def require_used(db: Connection, who: Identity, lease: str) -> Lease:
    """Return a lease under which somebody could measure from afar; raises ``UsageError`` for another."""
    found = leases.get(db, lease)
    if found.owner != who.name:
        raise UsageError(f"The lease {lease} is {found.owner}'s, not {who.name}'s.")
    if found.job or found.state is LeaseState.WAITING or not found.device:
        raise UsageError(f"Nobody measured from afar under the lease {lease}.")
    return found


def _archive(blobs: Blobs, digest: str) -> Path:
    if not blobs.has(digest):
        raise DataError(f"The farm hasn't the evidence {digest[:16]}….", hint="Send it first.")
    return blobs.path(digest)
