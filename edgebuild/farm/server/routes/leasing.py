"""Leases over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from edgebuild.farm import desk, leases
from edgebuild.farm.server.answers import Id, Problems
from edgebuild.farm.server.identity import OfFarm, Reader, Runner
from edgebuild.farm.values import Ask, Given, Lease, LeaseState

router = APIRouter(prefix="/api/leases", tags=["leases"], responses=Problems)


class Release(Given):
    """Which turn is given back; without ``token`` whichever it is."""

    token: int | None = None


@router.post("", status_code=201)
def ask(farm: OfFarm, who: Runner, wanted: Ask) -> Lease:
    """Ask for a device. It is lent at once where one is free; else the lease waits, and so long has to be kept."""
    return farm.do(lambda db, now: desk.look(db, desk.ask(db, who, wanted, now).id, now))


@router.get("")
def find(
    farm: OfFarm, who: Reader, state: LeaseState | None = None, most: Annotated[int, Query(ge=1, le=1000)] = 200
) -> tuple[Lease, ...]:
    """Return leases: those that wait in the order of their turns, others the newest first."""
    del who
    return farm.look(lambda db: leases.find(db, state=state, most=most))


@router.get("/{lease}")
def get(farm: OfFarm, who: Reader, lease: Id) -> Lease:
    """Return a lease, with the reason where it waits."""
    del who
    return farm.look(lambda db: desk.look(db, lease, farm.now))


@router.post("/{lease}/beat")
def beat(farm: OfFarm, who: Runner, lease: Id) -> Lease:
    """Keep a lease: who doesn't for 45 s loses it, its place in the queue included."""
    return farm.do(lambda db, now: desk.beat(db, who, lease, now))


@router.post("/{lease}/release")
def release(farm: OfFarm, who: Runner, lease: Id, given: Release) -> Lease:
    """Give a lease back, or leave the queue; twice is fine."""
    return farm.do(lambda db, now: desk.release(db, who, lease, now, token=given.token))
