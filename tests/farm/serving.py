"""A real server of a farm in a thread of the test, on a free port of this machine."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import uvicorn

from edgebuild.farm import authority
from edgebuild.farm.relay.wire import MOST_FRAME_BYTES
from edgebuild.farm.server.app import create_app
from edgebuild.farm.server.pages.access import access_at
from edgebuild.farm.server.serving import bind, make_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.farm.home import Home
    from edgebuild.farm.server.farm import Farm


@contextlib.contextmanager
def served(farm: Farm, *, reconciled: bool = True, port: int = 0) -> Iterator[str]:
    """Yield the address of a farm's server; one that isn't ``reconciled`` stays as it is, whoever falls silent.

    ``port``: that of a server that went. Default: a free one.
    """
    config = uvicorn.Config(
        create_app(farm),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        lifespan="auto" if reconciled else "off",
        ws="websockets-sansio",
        ws_max_size=MOST_FRAME_BYTES,
        ws_per_message_deflate=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        farm.leave()
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def over_tls(farm: Farm, home: Home, host: str = "127.0.0.1") -> Iterator[int]:
    """Yield the port of a server as `edgebuild farm serve` runs it, at an address of this machine only."""
    authority.renew_server(home.folder, home.settings.names)
    began = threading.Event()
    listening = bind(host, 0)
    port: int = listening.getsockname()[1]
    server = make_server(create_app(farm, access_at(host, names=home.settings.names)), farm, home.folder, began.set)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    began.wait()
    try:
        yield port
    finally:
        server.leave()
        thread.join()
