"""What goes after a while, so that a farm doesn't grow without end: what nobody needs any more.

What was measured stays for good: records, their evidence, the jobs that they are replayed from with their input files,
health checks, devices and the audit. What else is over goes, in small parts: lines of logs, jobs without a record,
leases, tokens that expired or were revoked, and files that no job and no record names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from sqlalchemy import Text, and_, cast, delete, exists, or_, select

from edgebuild.farm.schema import attempts, jobs, leases, logs, records, tokens
from edgebuild.farm.values import JobState, LeaseState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Connection

#: How long is kept what needn't be kept for good, unless farm.toml says otherwise.
KEEP_DAYS = 90
#: So many rows of a table go in one transaction: others wait for it.
MOST = 500
#: So many jobs are looked through at once.
PAGE = 1000
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True, kw_only=True)
class Old:
    """Rows that nobody needs any more: numbers of log lines, ids of the rest."""

    logs: tuple[int, ...] = ()
    jobs: tuple[str, ...] = ()
    leases: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))


def find(db: Connection, before: float) -> Old:
    """Return some rows of what was over ``before``; none where none is left. A job follows the last line of its log."""
    ended = and_(jobs.c.state == JobState.ENDED, jobs.c.ended_at < before)
    lines = select(logs.c.number).join(jobs, jobs.c.id == logs.c.job).where(ended)
    needed = or_(exists().where(records.c.job == jobs.c.id), exists().where(logs.c.job == jobs.c.id))
    given_back = and_(leases.c.state == LeaseState.ENDED, leases.c.job == "", leases.c.ended_at < before)
    return Old(
        logs=tuple(db.scalars(lines.limit(MOST))),
        jobs=tuple(db.scalars(select(jobs.c.id).where(ended, ~needed).limit(MOST))),
        leases=tuple(db.scalars(select(leases.c.id).where(given_back).limit(MOST))),
        tokens=tuple(db.scalars(select(tokens.c.id).where(_over(before)).limit(MOST))),
    )


def remove(db: Connection, old: Old, before: float) -> None:
    """Remove rows that were found. What is over stays so, but for a token, which may have been renewed meanwhile."""
    db.execute(delete(logs).where(logs.c.number.in_(old.logs)))
    db.execute(delete(attempts).where(attempts.c.job.in_(old.jobs)))
    db.execute(delete(leases).where(leases.c.state == LeaseState.ENDED, leases.c.job.in_(old.jobs)))
    db.execute(delete(jobs).where(jobs.c.id.in_(old.jobs)))
    db.execute(delete(leases).where(leases.c.id.in_(old.leases)))
    db.execute(delete(tokens).where(tokens.c.id.in_(old.tokens), _over(before)))


def needed_by_records(db: Connection) -> Iterable[str]:
    """Yield the digests of all evidence."""
    yield from db.execution_options(yield_per=PAGE).scalars(select(records.c.evidence))


def needed_by_jobs(db: Connection, after: int) -> tuple[set[str], int | None]:
    """Return what digests the next jobs behind a number name, whatever their kind, and the last one's number.

    None instead of a number: there are no more.
    """
    rows = select(jobs.c.number, cast(jobs.c.spec, Text).label("spec"), cast(jobs.c.result, Text).label("result"))
    found = db.execute(rows.where(jobs.c.number > after).order_by(jobs.c.number).limit(PAGE)).all()
    named = {digest for row in found for digest in digests_in(row.spec + (row.result or ""))}
    return named, found[-1].number if found else None


def digests_in(text: str) -> list[str]:
    """Return what could be digests of files in the JSON of a job."""
    return _DIGEST.findall(text)


def _over(before: float) -> ColumnElement[bool]:
    return or_(tokens.c.expires_at < before, tokens.c.revoked_at < before)
