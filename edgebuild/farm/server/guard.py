"""What stands before every route: which names the server answers to, what a request may hold, and how long it may take.

Plain ASGI, so that files and long answers go through as they come.
"""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from edgebuild.farm.authority import ALWAYS
from edgebuild.farm.blobs import MOST_BYTES
from edgebuild.farm.server.answers import answer_with

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: What a request may hold that is no file.
MOST_BODY_BYTES = 4 << 20
#: How long the next piece of a body may take.
BODY_S = 30.0
#: Where files go.
_FILES = "/api/blobs/"
#: What every answer carries unless it says otherwise itself.
HEADERS = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
}
#: Browsers that saw the farm over TLS don't ask for it without.
_TLS_ONLY = (b"strict-transport-security", b"max-age=31536000")


class Guard:
    """Refuses other names, too much and too slow; ``names``: what clients may call the server. Default: anything."""

    def __init__(self, app: ASGIApp, names: Iterable[str] | None = None) -> None:
        self._app = app
        self._names = None if names is None else frozenset(name.lower().strip("[]") for name in (*names, *ALWAYS))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = {name: value for name, value in scope["headers"]}  # noqa: C416 - pairs of bytes, the last one counts
        if scope["type"] == "websocket":
            if self._knows(headers.get(b"host", b"")):
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(scope, send)
        if not self._knows(headers.get(b"host", b"")):
            refusal = answer_with(
                421, "This server isn't known under that name.", "`edgebuild farm init --name` adds one."
            )
            await refusal(scope, receive, send)
            return
        most = MOST_BYTES if scope["path"].startswith(_FILES) and scope["method"] == "PUT" else MOST_BODY_BYTES
        length = headers.get(b"content-length", b"0")
        if len(length) > 18 or (length.isdigit() and int(length) > most):
            await answer_with(413, f"A request holds at most {most:,} bytes.", "")(scope, receive, send)
            return
        await self._app(scope, _Body(receive, most), send)

    def _knows(self, header: bytes) -> bool:
        return self._names is None or host_of(header.decode("latin-1")) in self._names


class _Body:
    """Hands on what a client sends, as far and as long as it may."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._left = most
        self._most = most
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:  # what comes now is that the client has gone, whenever that is
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_S)
        except TimeoutError as error:
            raise HTTPException(
                408, f"Nothing of the request came for {BODY_S:g} s.", {"Connection": "close"}
            ) from error
        self._left -= len(message.get("body", b""))
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        if self._left < 0:
            raise HTTPException(413, f"A request holds at most {self._most:,} bytes.", {"Connection": "close"})
        return message


class Pace:
    """So many requests a second on the whole, and ``burst`` at once, for each token. Safe between threads."""

    MOST_KEPT = 10_000

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, key: str, now: float) -> float:
        """Count a request, and return 0; or how long it is too early for one."""
        with self._lock:
            if len(self._left) >= self.MOST_KEPT:
                self._left.clear()
            left, at = self._left.get(key, (self._burst, now))
            left = min(self._burst, left + max(0.0, now - at) * self._per_s)
            if left < 1.0:
                return (1.0 - left) / self._per_s
            self._left[key] = (left - 1.0, now)
            return 0.0


def host_of(header: str) -> str:
    """Return the name in a ``Host`` header without its port; nothing for what is none."""
    if header.startswith("["):
        name, bracket, rest = header[1:].partition("]")
        if not bracket:
            return ""
    else:
        name, _, rest = header.partition(":")
        rest = f":{rest}" if rest else ""
    if rest and not (rest.startswith(":") and rest[1:].isdecimal()):
        return ""
    return name.lower().removesuffix(".")


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _with_headers(scope: Scope, send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message["headers"]}
            more = [pair for pair in HEADERS.items() if pair[0] not in given]
            if scope["scheme"] == "https":
                more.append(_TLS_ONLY)
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sending
