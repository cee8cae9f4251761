"""Relays: the user's end and the host's end of a lease's device meet here, and what one says is handed to the other.

The server reads nothing of it. It waits with reading from one end while the other takes nothing, closes both when the
lease is over, and when one of them leaves: neither ever speaks to two others.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter, HTTPException, Response, WebSocket
from fastapi.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from edgebuild.errors import EdgebuildError, StoreError, UsageError
from edgebuild.farm import desk, leases
from edgebuild.farm.server.answers import Id, Name, answer_to, answer_with
from edgebuild.farm.server.identity import whose
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import LeaseState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from edgebuild.farm.server.farm import Farm
    from edgebuild.farm.tokens import Identity

router = APIRouter(prefix="/api", tags=["relays"])
#: How often it is looked whether a lease is still held.
LOOK_S = 1.0
CLOSING_S = 0.1
#: Why a relay was closed (RFC 6455 leaves these numbers to applications).
OVER, REPLACED, LEFT = 4001, 4002, 4003
Side = Literal["user", "host"]


class End:
    """One end that is attached."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.peer: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._leaves: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    def leave(self, code: int, why: str) -> None:
        """Have it go; the first reason counts."""
        if not self._leaves.done():
            self._leaves.set_result((code, why))

    async def left(self) -> tuple[int, str]:
        """Return why it is to go, once it is."""
        return await asyncio.shield(self._leaves)

    async def hand_on(self) -> None:
        """Hand everything that it says to its peer, until it leaves."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # one of the two is closed
            while True:
                frame = await self.socket.receive()
                if frame["type"] != "websocket.receive":
                    break
                text, data = frame.get("text"), frame.get("bytes")
                peer = await self.peer
                await (peer.socket.send_text(text) if text is not None else peer.socket.send_bytes(data or b""))
        self.leave(LEFT, "it left")

    def part(self, code: int, why: str) -> None:
        """Have its peer go too."""
        if self.peer.done() and not self.peer.cancelled():
            self.peer.result().leave(*((code, why) if code == OVER else (LEFT, "the other end left")))


class Relays:
    """The ends that are attached now, by their leases. Everything happens in the server's own loop."""

    def __init__(self) -> None:
        self._ends: dict[tuple[str, Side], End] = {}

    def attach(self, lease: str, side: Side, end: End) -> None:
        """Take an end in; one that was there before on its side leaves, and so does who spoke to that one."""
        before = self._ends.get((lease, side))
        if before is not None:
            before.leave(REPLACED, "another one took its place")
        self._ends[lease, side] = end
        peer = self._ends.get((lease, "host" if side == "user" else "user"))
        if peer is not None and peer.peer.done():
            peer.leave(LEFT, "the other end left")
        elif peer is not None:
            peer.peer.set_result(end)
            end.peer.set_result(peer)

    def detach(self, lease: str, side: Side, end: End) -> None:
        """Let an end go."""
        if self._ends.get((lease, side)) is end:
            del self._ends[lease, side]


@router.websocket("/leases/{lease}/device")
async def use(websocket: WebSocket, lease: Id) -> None:
    """Attach the end of a lease's holder."""
    farm: Farm = websocket.app.state.farm

    def enter(who: Identity) -> None:
        farm.do(lambda db, now: desk.use(db, who, lease, now))

    await _attach(websocket, lease, "user", Scope.RUN, enter)


@router.websocket("/hosts/{host}/leases/{lease}/device")
async def relay(websocket: WebSocket, host: Name, lease: Id) -> None:
    """Attach the end of the host that reaches a lease's device."""
    farm: Farm = websocket.app.state.farm

    def enter(who: Identity) -> None:
        farm.look(lambda db: desk.relay(db, who, host, lease))

    await _attach(websocket, lease, "host", Scope.HOST, enter)


async def _attach(
    websocket: WebSocket, lease: str, side: Side, scope: Scope, enter: Callable[[Identity], None]
) -> None:
    """Let an end in whose token and lease are right, and hand on what it says until one of the two leaves."""
    farm: Farm = websocket.app.state.farm
    relays: Relays = websocket.app.state.relays
    try:
        await run_in_threadpool(_check, websocket, farm, scope, enter)
    except HTTPException as error:
        await _deny(websocket, answer_with(error.status_code, str(error.detail), "", error.headers))
        return
    except EdgebuildError as error:
        await _deny(websocket, answer_to(error))
        return
    await websocket.accept()
    end = End(websocket)
    relays.attach(lease, side, end)
    work = [asyncio.create_task(each) for each in (end.hand_on(), _watch(farm, lease, end))]
    code, why = LEFT, "the server stops"
    try:
        code, why = await end.left()
    finally:
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        relays.detach(lease, side, end)
        end.part(code, why)
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it is closed already
        await websocket.close(code, why)


async def _deny(websocket: WebSocket, answer: Response) -> None:
    await websocket.send_denial_response(answer)
    # uvicorn logs an error for a denied handshake whose connection isn't closed yet when this returns.
    await asyncio.sleep(CLOSING_S)


def _check(websocket: WebSocket, farm: Farm, scope: Scope, enter: Callable[[Identity], None]) -> None:
    scheme, _, token = websocket.headers.get("authorization", "").partition(" ")
    who = whose(websocket, farm, token.strip() if scheme.lower() == "bearer" else None)
    if not who.may(scope):
        raise HTTPException(403, f"The token {who.name} ({who.scope}) doesn't allow that: it takes {scope}.")
    enter(who)


async def _watch(farm: Farm, lease: str, end: End) -> None:
    """Have an end leave when its lease is over. A database that is away ends none: it lends nothing either."""

    def over(db: Connection) -> str:
        found = leases.get(db, lease)
        return "" if found.state is LeaseState.HELD else str(found.end or "over")

    while True:
        await asyncio.sleep(LOOK_S)
        try:
            how = await run_in_threadpool(farm.look, over)
        except StoreError:
            continue
        except UsageError:
            how = "gone"
        if how:
            end.leave(OVER, f"the lease is over: {how}")
            return
