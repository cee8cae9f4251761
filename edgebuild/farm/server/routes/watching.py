"""The farm as a whole over HTTP: how it is, and who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from edgebuild.farm import audit, desk
from edgebuild.farm.server.answers import Problems
from edgebuild.farm.server.identity import OfFarm, Reader
from edgebuild.farm.values import AuditLine, Standing

router = APIRouter(prefix="/api", tags=["farm"], responses=Problems)


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
