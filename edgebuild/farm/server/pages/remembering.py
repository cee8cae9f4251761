"""The pages that show what was measured: a model's history, and two records side by side."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import func, select

from edgebuild.errors import DataError, StoreError
from edgebuild.farm import history as history_of
from edgebuild.farm import memory
from edgebuild.farm.schema import records
from edgebuild.farm.server.identity import OfFarm
from edgebuild.farm.server.pages import rendering
from edgebuild.farm.server.pages.access import Visit
from edgebuild.farm.server.pages.charts import Dot, Mark, timeline
from edgebuild.farm.server.pages.looks import ROWS, Part
from edgebuild.farm.server.pages.pageroute import PageRoute
from edgebuild.farm.server.pages.watching import PageNumber
from edgebuild.farm.values import NAMED
from edgebuild.reporting.formatting import with_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

    from edgebuild.farm.changes import Change
    from edgebuild.farm.memory import Measured, WholeRecord
    from edgebuild.reporting.markup import Html

router = APIRouter(route_class=PageRoute, include_in_schema=False)

#: So many records of a device are drawn, so many of them listed, and of so many devices at once.
DRAWN = 200
LISTED = 12
DEVICES = 6
MOST_FACTS = 200

MOST_REPORT_BYTES = 32 << 20
#: A page that has an origin of its own, and neither scripts, forms, pictures of others, nor a frame around it.
LOCKED_AWAY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Model = Annotated[str, Path(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
RecordId = Annotated[str, Query(pattern=r"^[a-z][0-9a-f]{15}$")]
_COLUMNS = [each for each in records.c if each.name not in {"environment", "summary"}]


@router.get("/history")
def models(request: Request, farm: OfFarm, visitor: Visit, page: PageNumber = 1) -> HTMLResponse:
    """Show which models were measured."""
    found = farm.look(lambda db: _models(db, page))
    return rendering.page(request, "models.html", visitor, models=found)


@router.get("/history/{model:path}")
def history(
    request: Request,
    farm: OfFarm,
    visitor: Visit,
    model: Model,
    device: Annotated[str, Query(pattern=r"^$|" + NAMED)] = "",
    page: PageNumber = 1,
) -> HTMLResponse:
    """Show what a model took over time, on each device."""

    def look(db: Connection) -> dict[str, Any]:
        on = _devices(db, model, device, page)
        return {"on": on, "rows": [_records(db, model, row.device) for row in on.rows]}

    found = farm.look(look)
    if not found["on"].rows:
        raise HTTPException(404, "The farm has no record of that.")
    shown = []
    for row, rows in zip(found["on"].rows, found["rows"], strict=True):
        _, told = history_of.changed(rows[::-1])
        shown.append((row, drawn(rows, told), told, rows[:LISTED]))
    newest = [each.id for *_, rows in shown for each in rows][:2]
    more = {"on": found["on"], "devices": shown, "newest": newest}
    return rendering.page(request, "history.html", visitor, model=model, device=device, **more)


@router.get("/compare")
def compare(request: Request, farm: OfFarm, visitor: Visit, a: RecordId, b: RecordId) -> HTMLResponse:
    """Show two records side by side."""

    def look(db: Connection) -> dict[str, Any]:
        one, other = memory.get(db, a), memory.get(db, b)
        try:
            said = history_of.compare(db, farm.blobs, a, b)
            return {"a": one, "b": other, "facts": _beside(one, other), "said": said, "lost": ""}
        except (DataError, StoreError) as error:  # both are shown, whatever became of their samples
            return {"a": one, "b": other, "facts": _beside(one, other), "said": None, "lost": error.message}

    return rendering.page(request, "compare.html", visitor, **farm.look(look))


@router.get("/builds/{digest}")
def report(farm: OfFarm, visitor: Visit, digest: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]) -> Response:
    """Return a build's report, which is among the farm's files: somebody else's page, and as good as locked away."""
    del visitor
    path = farm.blobs.path(digest)
    if not farm.blobs.ask(digest) or path.stat().st_size > MOST_REPORT_BYTES:
        raise HTTPException(404, "There is no such report.")
    page = path.read_bytes()
    if not page.startswith(b"<!doctype html>"):
        raise HTTPException(404, "There is no such report.")
    return Response(page, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": LOCKED_AWAY})


def drawn(rows: Sequence[Row[Any]], changes: Sequence[Change] = ()) -> Html:
    """Return the chart of a device's records, which come newest first, with its anchor beside them.

    Changes are numbered in the order in which they are told.
    """
    shown = [row for row in reversed(rows) if math.isfinite(row.point_ms)]
    dots = [
        Dot(at=row.measured_at, ms=row.point_ms, low=row.low_ms, high=row.high_ms, title=_said(row)) for row in shown
    ]
    anchored = [
        row for row in shown if row.anchor_ms is not None and math.isfinite(row.anchor_ms) and row.anchor_ms > 0
    ]
    beside: list[Dot] = []
    if anchored:
        scale = median(row.point_ms for row in anchored) / median(row.anchor_ms for row in anchored)
        beside = [Dot(at=row.measured_at, ms=row.anchor_ms * scale) for row in anchored]
    dots.sort(key=lambda dot: dot.at)
    beside.sort(key=lambda dot: dot.at)
    marks = [Mark(at=change.at, text=str(number)) for number, change in enumerate(changes, 1)]
    return timeline(dots, what="The latency of each record", marks=marks, beside=beside)


def _said(row: Row[Any]) -> str:
    return f"{rendering.utc(row.measured_at)}: {with_interval(row.point_ms, row.low_ms, row.high_ms)} ms"


def _models(db: Connection, page: int) -> Part:
    counts = (func.count().label("records"), func.count(records.c.device.distinct()).label("devices"))
    # All of that is in an index; the newest record itself is looked at for those that are shown.
    known = select(records.c.model, *counts, func.max(records.c.number).label("newest")).group_by(records.c.model)
    shown = known.order_by(func.max(records.c.number).desc()).limit(ROWS + 1).offset((page - 1) * ROWS).subquery()
    last = records.c.measured_at.label("last")
    rows = select(shown, last).join(records, records.c.number == shown.c.newest).order_by(shown.c.newest.desc())
    found = list(db.execute(rows))
    return Part(rows=found[:ROWS], page=page, more=len(found) > ROWS)


def _devices(db: Connection, model: str, device: str, page: int) -> Part:
    rows = select(records.c.device, records.c.target, func.count().label("records")).where(records.c.model == model)
    if device:
        rows = rows.where(records.c.device == device)
    rows = rows.group_by(records.c.device, records.c.target).order_by(records.c.target, records.c.device)
    found = list(db.execute(rows.limit(DEVICES + 1).offset((page - 1) * DEVICES)))
    return Part(rows=found[:DEVICES], page=page, more=len(found) > DEVICES)


def _records(db: Connection, model: str, device: str) -> list[Row[Any]]:
    rows = select(*_COLUMNS).where(records.c.model == model, records.c.device == device)
    return list(db.execute(rows.order_by(records.c.number.desc()).limit(DRAWN)))


def _beside(one: WholeRecord, other: WholeRecord) -> list[tuple[str, list[tuple[str, Any, Any]]]]:
    """Return what is known of both, in groups."""
    groups = []
    for name, left, right in (
        ("What was measured", _flat(one.measured), _flat(other.measured)),
        ("Environment", one.environment, other.environment),
    ):
        keys = sorted({*left, *right})[:MOST_FACTS]
        groups.append((name, [(key, left.get(key), right.get(key)) for key in keys]))
    return groups


def _flat(measured: Measured) -> dict[str, Any]:
    """Return what was measured under one name each: ``memory.load_peak_bytes``."""
    found: dict[str, Any] = {}
    for name, value in measured.model_dump(mode="json", exclude={"latency": {"percentiles"}}).items():
        found |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    for each in measured.latency.percentiles:
        found[f"latency.p{each.p:g}_ms"] = each.value_ms
    return found
