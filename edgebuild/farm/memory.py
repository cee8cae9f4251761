"""Every measurement that was ever made, kept for good. Every function is one part of a transaction."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from sqlalchemy import insert, select

from edgebuild.core.measurement import Energy, LatencySummary, Memory
from edgebuild.errors import DataError, UsageError
from edgebuild.farm import sessions
from edgebuild.farm.schema import records
from edgebuild.farm.values import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Row, Select

    from edgebuild.farm.sessions import Arm, Found

#: What one answer, and what an export, may hold.
MOST = 1_000
MOST_EXPORTED = 1_000_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Origin(StrEnum):
    """Who measured: the farm's own host beside the device, or a user through a relay, who says so."""

    HOST = "host"
    USER = "user"


class Measured(Message):
    """What was measured of a record. ``anchor_ms`` are the medians of its session's anchor launches."""

    latency: LatencySummary
    memory: Memory | None = None
    energy: Energy | None = None
    backend: str = ""
    settings: dict[str, bool | int | str] = Field(default_factory=dict)
    size_bytes: int | None = None
    anchor_ms: tuple[float, ...] = ()


class Record(Message):
    """One model, measured once on one device. Records of one ``session`` on one device took turns.

    ``measured_at`` is the farm's time. ``evidence`` names the archive of raw samples among the farm's files.
    """

    number: int
    id: str
    session: str
    job: str
    origin: Origin
    owner: str
    model: str
    artifact: str
    device: str
    target: str
    protocol: Literal["screen", "certify", "layers"]
    measured_at: float
    point_ms: float
    low_ms: float | None
    high_ms: float | None
    anchor_ms: float | None
    evidence: str


class WholeRecord(Record):
    """A record with what the device was at the time, and all that was measured."""

    environment: dict[str, str]
    measured: Measured


_LIGHT = tuple(records.c[name] for name in Record.model_fields)


def keep(
    db: Connection, found: Found, *, origin: Origin, owner: str, device: str, target: str, at: float, job: str = ""
) -> tuple[Record, ...]:
    """Keep the records of a session, one a model; the same evidence twice is kept once.

    Raises ``DataError`` for evidence that is kept already as that of another device or session.
    """
    rows = [_row(found, arm) for arm in found.said.arms]
    known = {}
    for row in rows:
        there = db.execute(select(*_LIGHT).where(records.c.id == row["id"])).one_or_none()
        if there is not None:
            known[there.id] = there
            if (there.device, there.session, there.evidence) != (device, row["session"], row["evidence"]):
                raise DataError(f"This evidence is kept already, as that of {there.device}.")
    common = {"origin": origin, "owner": owner, "device": device, "target": target, "job": job, "measured_at": at}
    new = [{**row, **common} for row in rows if row["id"] not in known]
    if new:
        db.execute(insert(records), new)
    return tuple(get(db, row["id"]) for row in rows)


def get(db: Connection, record: str) -> WholeRecord:
    """Return a record; raises ``UsageError`` where there is none of this id."""
    row = db.execute(select(records).where(records.c.id == record)).one_or_none()
    if row is None:
        raise UsageError(f"There is no record {record!r}.", hint="`edgebuild farm history MODEL` lists them.")
    light = {name: getattr(row, name) for name in Record.model_fields}
    return WholeRecord(**light, environment=row.environment, measured=Measured.model_validate(row.summary))


def find(
    db: Connection, *, model: str = "", device: str = "", target: str = "", since: float = 0.0, most: int = MOST
) -> tuple[Record, ...]:
    """Return records, the newest first: those that match all that is given."""
    rows = _matching(select(*_LIGHT), model, device, target, since).order_by(records.c.number.desc()).limit(most)
    return tuple(_light(row) for row in db.execute(rows))


def each(
    db: Connection, *, model: str = "", device: str = "", target: str = "", since: float = 0.0
) -> Iterator[Record]:
    """Yield records in the order in which they came, a few in memory at a time."""
    rows = _matching(select(*_LIGHT), model, device, target, since).order_by(records.c.number).limit(MOST_EXPORTED)
    for row in db.execution_options(yield_per=MOST).execute(rows):
        yield _light(row)


def id_of(evidence: str, artifact: str) -> str:
    """Return the id of the record of an artifact that this evidence shows."""
    return "m" + hashlib.sha256(f"{evidence}:{artifact}".encode()).hexdigest()[:15]


def together(one: Record, other: Record) -> bool:
    """Whether two records took turns on one device."""
    return (one.session, one.device, one.evidence) == (other.session, other.device, other.evidence)


def time_of(began_at: str | None, earliest: float, latest: float) -> float:
    """Return when a session was measured as its sender says, as far as that can be: while it had the device."""
    try:
        said = datetime.fromisoformat(began_at or "").timestamp()
    except (ValueError, OverflowError, OSError):
        return latest
    return min(max(said, earliest), latest)


def _row(found: Found, arm: Arm) -> dict[str, Any]:
    said = found.said
    measured = Measured(
        latency=arm.summary,
        memory=arm.memory,
        energy=arm.energy,
        backend=arm.backend,
        settings=arm.settings,
        size_bytes=arm.size_bytes,
        anchor_ms=found.anchor_ms,
    )
    return {
        "id": id_of(said.evidence, arm.artifact),
        "session": said.session,
        "model": _CONTROL.sub("\N{REPLACEMENT CHARACTER}", arm.model),
        "artifact": arm.artifact,
        "protocol": found.opened.protocol.name,
        "point_ms": arm.summary.point_ms,
        "low_ms": arm.summary.low_ms,
        "high_ms": arm.summary.high_ms,
        "anchor_ms": sessions.middle(found.anchor_ms),
        "environment": said.environment,
        "summary": measured.model_dump(mode="json"),
        "evidence": said.evidence,
    }


def _matching(rows: Select[Any], model: str, device: str, target: str, since: float) -> Select[Any]:
    for column, wanted in ((records.c.model, model), (records.c.device, device), (records.c.target, target)):
        rows = rows.where(column == wanted) if wanted else rows
    return rows.where(records.c.measured_at >= since) if since else rows


def _light(row: Row[Any]) -> Record:
    return Record(**row._mapping)
