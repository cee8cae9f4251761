"""The pages that show how things are."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from edgebuild.errors import UsageError
from edgebuild.farm import audit, jobs, leases
from edgebuild.farm import shelf as devices
from edgebuild.farm.server.answers import Id, Name
from edgebuild.farm.server.identity import OfFarm
from edgebuild.farm.server.pages import looks, rendering
from edgebuild.farm.server.pages.access import Visit
from edgebuild.farm.server.pages.charts import anchor_chart
from edgebuild.farm.server.pages.looks import Show
from edgebuild.farm.server.pages.pageroute import PageRoute
from edgebuild.farm.values import TARGET, LeaseState
from edgebuild.reporting.formatting import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from edgebuild.farm.server.farm import Farm

router = APIRouter(route_class=PageRoute, include_in_schema=False)

PageNumber = Annotated[int, Query(ge=1, le=100_000)]
Before = Annotated[int | None, Query(ge=1, le=2**53)]
_LOG_PART = 1000
_JOB = re.compile(r"j[0-9a-f]{15}")


@router.get("/")
def shelf(
    request: Request,
    farm: OfFarm,
    visitor: Visit,
    show: Show = Show.ALL,
    target: Annotated[str, Query(pattern=r"^$|" + TARGET)] = "",
    page: PageNumber = 1,
) -> HTMLResponse:
    """Show the devices."""

    def look(db: Connection) -> dict[str, Any]:
        targets = looks.targets(db)
        sums = {key: sum(one[key] for one in targets) for key in (*(str(s) or "all" for s in Show), "waiting")}
        shown = looks.shelf(db, show=show, target=target, page=page)
        return {"targets": targets, "sums": sums, "devices": shown, "hosts": looks.host_list(db)}

    return rendering.page(request, "shelf.html", visitor, show=show, target=target, shows=Show, **farm.look(look))


@router.get("/queue")
def queue(
    request: Request, farm: OfFarm, visitor: Visit, page: PageNumber = 1, running: PageNumber = 1
) -> HTMLResponse:
    """Show who waits, who has what, and what ended lately."""

    def look(db: Connection) -> dict[str, Any]:
        return {
            "waiting": looks.waiting(db, farm.now, page),
            "running": looks.running(db, running),
            "ended": looks.ended(db),
            "given_back": looks.given_back(db),
        }

    return rendering.page(request, "queue.html", visitor, **farm.look(look))


@router.get("/jobs")
def ended_jobs(request: Request, farm: OfFarm, visitor: Visit, before: Before = None) -> HTMLResponse:
    """Show the jobs that ended."""
    ended = farm.look(lambda db: looks.ended(db, before=before, most=looks.ROWS))
    return rendering.page(request, "jobs.html", visitor, ended=ended, before=before)


@router.get("/devices/{name}")
def device(request: Request, farm: OfFarm, visitor: Visit, name: Name) -> HTMLResponse:
    """Show a device."""

    def look(db: Connection) -> dict[str, Any]:
        try:
            found = devices.get(db, name)
        except UsageError as error:
            raise HTTPException(404, error.message) from error
        history = looks.check_history(db, name)
        more = {"holder": looks.holder(db, name), "jobs": looks.jobs_of(db, name)}
        return {"device": found, "checks": history[: looks.FEW_ROWS], "anchor": anchor_chart(history), **more}

    return rendering.page(request, "device.html", visitor, **farm.look(look))


@router.get("/jobs/{job}")
def job(request: Request, farm: OfFarm, visitor: Visit, job: Id) -> HTMLResponse:
    """Show a job."""

    def look(db: Connection) -> dict[str, Any]:
        found = jobs.get(db, job)
        lease = leases.get(db, found.attempts[-1].lease) if found.attempts else None
        waits = lease is not None and lease.state is LeaseState.WAITING
        why = leases.why_waiting(db, lease, farm.now) if lease is not None and waits else ""
        return {"job": found, "lease": lease, "why": why, "log": looks.log_end(db, job)}

    return rendering.page(request, "job.html", visitor, **farm.look(look))


@router.get("/jobs/{job}/log.txt")
def whole_log(farm: OfFarm, visitor: Visit, job: Id) -> StreamingResponse:
    """Return all that a job said."""
    del visitor
    farm.look(lambda db: jobs.get(db, job))
    return StreamingResponse(_lines(farm, job), media_type="text/plain; charset=utf-8")


@router.get("/audit")
def audited(request: Request, farm: OfFarm, visitor: Visit, before: Before = None) -> HTMLResponse:
    """Show who did what."""
    lines = farm.look(lambda db: audit.find(db, before=before, most=looks.ROWS + 1))
    part = looks.Part(rows=lines[: looks.ROWS], more=len(lines) > looks.ROWS)
    linked = {line["what"]: "jobs" for line in part.rows if _JOB.fullmatch(line["what"])}
    return rendering.page(request, "audit.html", visitor, lines=part, before=before, linked=linked)


@router.get("/static/{name}")
def asset(name: Annotated[str, Path(max_length=64)]) -> Response:
    """Return what pages need beside themselves."""
    if name not in rendering.ASSETS:
        raise HTTPException(404, "There is no such file.")
    kind = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
    kept = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(rendering.ASSETS[name], media_type=kind, headers=kept)


def _lines(farm: Farm, job: str) -> Iterator[str]:
    said = farm.look(lambda db: jobs.read_log(db, job, most=_LOG_PART))
    while said:
        yield "".join(f"{clean(line)}\n" for _, _, line in said)
        said = farm.look(partial(jobs.read_log, job=job, after=said[-1][0], most=_LOG_PART))
