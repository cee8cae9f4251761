"""The farm as a whole over HTTP: how it is, and who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from edgebuild.farm import audit, desk
from edgebuild.farm.server.answers import Problems
from edgebuild.farm.server.identity import OfFarm, Reader, scraper
from edgebuild.farm.values import AuditLine, Message, Standing

router = APIRouter(prefix="/api", tags=["farm"], responses=Problems)
probes = APIRouter(tags=["farm"])


class Well(Message):
    """Whether the farm is well."""

    well: bool


@probes.get("/healthz", responses={503: {"model": Well}})
def healthz(farm: OfFarm, response: Response) -> Well:
    """Say whether the farm is well, to anybody: no more than that. 503 while its tables can't be put right."""
    response.status_code = 200 if farm.well else 503
    return Well(well=farm.well)


@probes.get(
    "/metrics",
    dependencies=[Depends(scraper)],
    response_class=PlainTextResponse,
    responses={status: Problems[status] for status in (401, 429)},
    openapi_extra={"security": [{"HTTPBearer": []}, {}]},
)
def metrics(request: Request) -> Response:
    """Return figures for Prometheus, to this machine or to any token."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/status")
def status(farm: OfFarm, who: Reader) -> Standing:
    """Return how the farm as a whole is."""
    del who
    return farm.look(lambda db: desk.standing(db, farm.trouble))


@router.get("/audit")
def lines(
    farm: OfFarm,
    who: Reader,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    most: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> tuple[AuditLine, ...]:
    """Return who did what, the newest first; ``before`` is the number of a line that was seen."""
    del who
    return tuple(AuditLine(**line) for line in farm.look(lambda db: audit.find(db, before=before, most=most)))
