"""Devices over HTTP."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from edgebuild.farm import desk, shelf
from edgebuild.farm.server.answers import Name, Problems
from edgebuild.farm.server.identity import Admin, OfFarm, Reader, Runner
from edgebuild.farm.values import Given, Health, Shelved

router = APIRouter(prefix="/api/devices", tags=["devices"], responses=Problems)


class SetHealth(Given):
    """``unknown`` puts a device back: it is checked before it is lent."""

    health: Health
    reason: str = Field(default="", max_length=500)


class Drain(Given):
    """Whether the device is to take no more work."""

    draining: bool


@router.get("")
def find(farm: OfFarm, who: Reader) -> tuple[Shelved, ...]:
    """Return every device."""
    del who
    return farm.look(shelf.find)


@router.get("/{name}")
def get(farm: OfFarm, who: Reader, name: Name) -> Shelved:
    """Return a device."""
    del who
    return farm.look(lambda db: shelf.get(db, name))


@router.get("/{name}/checks")
def checks(farm: OfFarm, who: Reader, name: Name) -> list[dict[str, Any]]:
    """Return what a device's health checks found, the newest first."""
    del who
    return farm.look(lambda db: shelf.history(db, shelf.get(db, name).name))


@router.post("/{name}/health")
def set_health(farm: OfFarm, who: Admin, name: Name, given: SetHealth) -> Shelved:
    """Put a device into maintenance, retire it, or put it back."""
    return farm.do(lambda db, now: desk.set_health(db, who, name, given.health, given.reason, now))


@router.post("/{name}/drain")
def drain(farm: OfFarm, who: Admin, name: Name, given: Drain) -> Shelved:
    """Let a device end what runs and take no more, or take work again."""
    return farm.do(lambda db, now: desk.drain(db, who, name, given.draining, now))


@router.post("/{name}/check")
def check(farm: OfFarm, who: Runner, name: Name) -> Shelved:
    """Have a device's health checked as soon as it is free."""
    return farm.do(lambda db, now: desk.check(db, who, name, now))
