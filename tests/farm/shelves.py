"""Shelves of devices that were checked and found good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.farm import shelf
from edgebuild.farm.values import Offered

if TYPE_CHECKING:
    from sqlalchemy import Connection

PI = "raspberry-pi-5"


def fill(db: Connection, *names: str, target: str = PI, host: str = "desk", now: float = 0.0) -> None:
    """Offer devices of one host, and let each of them pass its check."""
    shelf.register(db, host, f"t-{host}", "1", [Offered(name=name, target=target) for name in names], now)
    for name in names:
        shelf.checked(db, name, True, "", {}, now)
