"""Files over HTTP, by their digests."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from edgebuild.farm.server.answers import Problems
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.identity import OfFarm, Reader
from edgebuild.farm.tokens import Identity, Scope

router = APIRouter(prefix="/api/blobs", tags=["files"], responses=Problems)

Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
#: How a file is sent, for the API's description.
_BYTES = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.head("/{digest}", status_code=204, response_class=Response)
def has(farm: OfFarm, who: Reader, digest: Digest) -> Response:
    """Say whether a file is there."""
    del who
    _require(farm, digest)
    return Response(status_code=204)


@router.get("/{digest}", response_class=FileResponse)
def get(farm: OfFarm, who: Reader, digest: Digest) -> FileResponse:
    """Return a file."""
    del who
    _require(farm, digest)
    return FileResponse(farm.blobs.path(digest), media_type="application/octet-stream")


@router.put("/{digest}", status_code=204, response_class=Response, openapi_extra={"requestBody": _BYTES})
async def put(farm: OfFarm, who: Reader, digest: Digest, request: Request) -> Response:
    """Keep a file; its bytes have to be those of its digest."""
    _require_sender(who)
    if not farm.blobs.ask(digest):
        with farm.blobs.receive(digest) as receiving:
            async for chunk in request.stream():
                await run_in_threadpool(receiving.take, chunk)
    return Response(status_code=204)


def _require(farm: Farm, digest: str) -> None:
    if not farm.blobs.ask(digest):
        raise HTTPException(404, f"There is no file {digest}.")


def _require_sender(who: Identity) -> None:
    if not (who.may(Scope.RUN) or who.may(Scope.HOST)):
        raise HTTPException(403, f"The token {who.name} ({who.scope}) doesn't allow that: it takes run or host.")
