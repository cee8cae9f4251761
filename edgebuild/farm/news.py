"""What a transaction changes for the hosts of devices, so that only those who have something to do look again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

_KEY = "edgebuild hosts with news"


def tell(db: Connection, host: str) -> None:
    """Say that a transaction changes what a host has to do."""
    db.info.setdefault(_KEY, set()).add(host)


def take(db: Connection) -> frozenset[str]:
    """Return the hosts for which something changed since this was last asked of the connection."""
    return frozenset(db.info.pop(_KEY, ()))
