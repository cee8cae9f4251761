"""Jobs over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from edgebuild.farm import desk, jobs, retention
from edgebuild.farm.server.answers import Id, Problems
from edgebuild.farm.server.identity import OfFarm, Reader, Runner
from edgebuild.farm.values import Job, JobSpec, JobState, LogLine

router = APIRouter(prefix="/api/jobs", tags=["jobs"], responses=Problems)


@router.post("", status_code=201)
def submit(farm: OfFarm, who: Runner, spec: JobSpec) -> Job:
    """Queue a job. It needs nobody who waits for it."""
    # Before the job is seen by whoever removes what no job names.
    for digest in retention.digests_in(spec.model_dump_json()):
        farm.blobs.ask(digest)
    return farm.do(lambda db, now: desk.submit(db, who, spec, now))


@router.get("")
def find(
    farm: OfFarm, who: Reader, state: JobState | None = None, most: Annotated[int, Query(ge=1, le=1000)] = 200
) -> tuple[Job, ...]:
    """Return jobs, the newest first; those that are queued in the order in which they came."""
    del who
    return farm.look(lambda db: jobs.find(db, state=state, most=most))


@router.get("/{job}")
def get(farm: OfFarm, who: Reader, job: Id) -> Job:
    """Return a job."""
    del who
    return farm.look(lambda db: jobs.get(db, job))


@router.post("/{job}/attend")
def attend(farm: OfFarm, who: Runner, job: Id) -> Job:
    """Say that one still waits for a job that was submitted as ``attended``: after 30 s of silence it is cancelled."""
    return farm.do(lambda db, now: desk.attend(db, who, job, now))


@router.post("/{job}/cancel")
def cancel(farm: OfFarm, who: Runner, job: Id) -> Job:
    """Cancel a job; twice is fine."""
    return farm.do(lambda db, now: desk.cancel(db, who, job, now))


@router.get("/{job}/log")
def log(
    farm: OfFarm,
    who: Reader,
    job: Id,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    most: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> tuple[LogLine, ...]:
    """Return what a job said behind the line of this number."""
    del who

    def lines(db: Connection) -> tuple[LogLine, ...]:
        jobs.get(db, job)
        said = jobs.read_log(db, job, after=after, most=most)
        return tuple(LogLine(number=number, at=at, text=text) for number, at, text in said)

    return farm.look(lines)
