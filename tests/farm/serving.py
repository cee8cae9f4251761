"""A real server of a farm in a thread of the test, on a free port of this machine."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import uvicorn

from edgebuild.farm.relay.wire import MOST_FRAME_BYTES
from edgebuild.farm.server.app import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.farm.server.farm import Farm


@contextlib.contextmanager
def served(farm: Farm) -> Iterator[str]:
    """Yield the address of a farm's server."""
    config = uvicorn.Config(
        create_app(farm),
        host="127.0.0.1",
        port=0,
        log_level="warning",
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
        server.should_exit = True
        thread.join()
