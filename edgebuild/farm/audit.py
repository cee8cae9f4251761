"""Who did what, and when. Lines are added and never changed: the database refuses that itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from edgebuild.farm import rows
from edgebuild.farm.schema import audit

if TYPE_CHECKING:
    from sqlalchemy import Connection


def note(db: Connection, who: str, action: str, what: str, now: float, **detail: Any) -> None:
    """Add a line; part of the transaction that does it."""
    rows.add(db, audit, at=now, who=who, action=action, what=what[:200], detail=detail)


def find(db: Connection, *, before: int | None = None, most: int = 200) -> list[dict[str, Any]]:
    """Return lines, the newest first."""
    lines = select(audit).order_by(audit.c.number.desc()).limit(most)
    if before is not None:
        lines = lines.where(audit.c.number < before)
    return [dict(row._mapping) for row in db.execute(lines)]
