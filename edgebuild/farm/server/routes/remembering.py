"""What was measured, over HTTP."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.background import BackgroundTask

from edgebuild.errors import UsageError
from edgebuild.farm import arriving, exporting, history, memory, shelf
from edgebuild.farm.arriving import Reported
from edgebuild.farm.comparing import Compared
from edgebuild.farm.history import History
from edgebuild.farm.memory import MOST, Record, WholeRecord
from edgebuild.farm.server import answers
from edgebuild.farm.server.answers import Id, Problems
from edgebuild.farm.server.identity import OfFarm, Reader, Runner
from edgebuild.farm.values import NAMED, TARGET

router = APIRouter(prefix="/api", tags=["records"], responses=Problems)

Model = Annotated[str, Query(max_length=200)]
Device = Annotated[str, Query(pattern=r"^$|" + NAMED)]
Target = Annotated[str, Query(pattern=r"^$|" + TARGET)]
#: Seconds since 1970, in any century that a clock may say.
Since = Annotated[float, Query(ge=0.0, le=2.0**40, allow_inf_nan=False)]
RecordId = Annotated[str, Query(pattern=r"^[a-z][0-9a-f]{15}$")]


@router.get("/records")
def find(
    farm: OfFarm,
    who: Reader,
    model: Model = "",
    device: Device = "",
    target: Target = "",
    since: Since = 0.0,
    most: Annotated[int, Query(ge=1, le=MOST)] = 200,
) -> tuple[Record, ...]:
    """Return records, the newest first."""
    del who
    return farm.look(lambda db: memory.find(db, model=model, device=device, target=target, since=since, most=most))


@router.post("/records", status_code=201)
def report(farm: OfFarm, who: Runner, given: Reported) -> tuple[Record, ...]:
    """Keep what was measured through a relay, while the lease was the asker's: held against its evidence first."""
    lease = farm.look(lambda db: arriving.require_used(db, who, given.lease))
    found = arriving.look_at_report(farm.blobs, given)
    target = farm.look(lambda db: shelf.get(db, lease.device)).target
    return farm.do(lambda db, now: arriving.keep_report(db, who, given, found, target, now))


@router.get("/records/export", response_class=StreamingResponse)
def export(
    farm: OfFarm,
    who: Reader,
    format: Literal["csv", "parquet"] = "csv",  # noqa: A002
    model: Model = "",
    device: Device = "",
    target: Target = "",
    since: Since = 0.0,
) -> Response:
    """Return all records that match as a table, in the order in which they came."""
    del who
    if format == "csv":

        def lines() -> Iterator[str]:
            with farm.database.read() as db:
                yield from exporting.csv_lines(memory.each(db, model=model, device=device, target=target, since=since))

        return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=_as_file("records.csv"))
    try:
        exporting.require_parquet()
    except UsageError as error:
        return answers.answer_with(422, error.message, error.hint)
    scratch = Path(tempfile.mkdtemp(prefix="edgebuild-export-"))
    try:
        with farm.database.read() as db:
            found = memory.each(db, model=model, device=device, target=target, since=since)
            exporting.write_parquet(found, scratch / "records.parquet")
    except BaseException:
        shutil.rmtree(scratch)
        raise
    gone = BackgroundTask(shutil.rmtree, scratch)
    kind = "application/vnd.apache.parquet"
    return FileResponse(scratch / "records.parquet", media_type=kind, filename="records.parquet", background=gone)


@router.get("/records/{record}")
def get(farm: OfFarm, who: Reader, record: Id) -> WholeRecord:
    """Return a record, with what the device was at the time and all that was measured."""
    del who
    return farm.look(lambda db: memory.get(db, record))


@router.get("/history")
def story(
    farm: OfFarm, who: Reader, model: Annotated[str, Query(min_length=1, max_length=200)], device: Device = ""
) -> History:
    """Return how a model fared over time on each device, and when it or the board changed."""
    del who
    return farm.look(lambda db: history.of_model(db, model, device))


@router.get("/compare")
def compare(farm: OfFarm, who: Reader, a: RecordId, b: RecordId) -> Compared:
    """Hold a record against another, or say why that can't be done."""
    del who
    return farm.look(lambda db: history.compare(db, farm.blobs, a, b))


def _as_file(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
