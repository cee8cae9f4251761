"""The server as a process: bound to one address, TLS always, impatient with the slow, ended by a signal."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgebuild.errors import EnvironmentGap
from edgebuild.farm.authority import SERVER, SERVER_KEY
from edgebuild.farm.relay.wire import MOST_FRAME_BYTES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from fastapi import FastAPI

    from edgebuild.farm.server.farm import Farm

#: How long a connection may take until its first request, or the next one's head, is there.
HEAD_S = 15.0
#: How long what runs may go on once the server is to end.
GRACE_S = 5
MOST_CONNECTIONS = 4000
#: What the head of a request may hold.
MOST_HEAD_BYTES = 32 << 10


class Impatient(H11Protocol):
    """Ends a connection that doesn't send the whole head of a request in time; the body has its own limit."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        if self.transport.get_protocol() is not self or (self.cycle is not None and not self.cycle.response_complete):
            self._forget()
        elif self._head is None and not self.transport.is_closing():
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._head = self.loop.call_later(HEAD_S, self.transport.close)

    def _forget(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class Server(uvicorn.Server):
    """Says when it is there, lets those go who wait when it is to end, and ends without an error by a signal."""

    def __init__(self, config: uvicorn.Config, farm: Farm, began: Callable[[], None]) -> None:
        super().__init__(config)
        self._farm = farm
        self._began = began

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        self._began()

    def leave(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End; the second time without waiting for anybody."""
        del number, frame
        self.force_exit = self.should_exit
        self.should_exit = True
        # Not here: what this interrupts may hold the bell's lock.
        threading.Thread(target=self._farm.leave, daemon=True).start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn, which raises the signal again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.leave) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address of this machine; raises ``EnvironmentGap`` where that can't be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise EnvironmentGap(
            f"The farm can't listen at {host}:{port}: {why}.", hint="--listen names another address."
        ) from error


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens at an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def make_server(app: FastAPI, farm: Farm, folder: Path, began: Callable[[], None]) -> Server:
    """Return the server of an application, with the certificate of a farm's folder."""
    config = uvicorn.Config(
        app,
        http=Impatient,
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        # An address that a client claims to be another's isn't believed.
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        ws="websockets-sansio",
        ws_max_size=MOST_FRAME_BYTES,
        # What passes is small, or a model that is packed already.
        ws_per_message_deflate=False,
        ssl_certfile=folder / SERVER,
        ssl_keyfile=folder / SERVER_KEY,
    )
    return Server(config, farm, began)
