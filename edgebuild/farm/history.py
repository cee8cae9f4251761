"""What the farm's memory says: two records held against each other, and how a model fared over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from edgebuild.farm import comparing, memory, sessions
from edgebuild.farm.schema import checks

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgebuild.farm.blobs import Blobs
    from edgebuild.farm.comparing import Alike, Compared

#: Older anchors say how a board was once.
ANCHORS = 30


def compare(db: Connection, blobs: Blobs, a: str, b: str) -> Compared:
    """Hold a record against another; raises ``UsageError`` where there is none, ``DataError`` without its evidence."""
    one, other = memory.get(db, a), memory.get(db, b)
    found = None
    if one.id != other.id and memory.together(one, other):
        found = sessions.read(blobs.path(one.evidence)).compare(one.artifact, other.artifact)
    return comparing.compare(
        one, other, found, None if one.device == other.device else boards(db, one.device, other.device)
    )


def boards(db: Connection, one: str, other: str) -> Alike:
    """Say whether two devices are alike by the anchors of their health checks."""
    return comparing.alike(anchors(db, one), anchors(db, other))


def anchors(db: Connection, device: str) -> list[float]:
    """Return what the anchor took in a device's last checks that passed, in ms."""
    rows = select(checks.c.anchor_ms).where(checks.c.device == device, checks.c.passed, checks.c.anchor_ms.is_not(None))
    return [ms for ms in db.scalars(rows.order_by(checks.c.number.desc()).limit(ANCHORS)) if ms]
