"""One end of a relay: a websocket to the farm's server."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from edgebuild.devices.messages import one_line
from edgebuild.errors import DeviceError, EnvironmentGap
from edgebuild.farm.client import FarmAway, problem_of, trusted
from edgebuild.farm.relay import wire

if TYPE_CHECKING:
    from edgebuild.farm.client import FarmAddress

OPEN_S = 20.0
CLOSE_S = 3.0
#: An end that is silent for so long is gone: both say something, if only to the websocket's own pings.
PING_S = 15.0
#: Frames that wait here to be read; more of them wait at the server.
MOST_WAITING = 8


class LinkLost(DeviceError):
    """The relay is over; says why as far as the server did."""


class Link:
    """A websocket of one end. Sending is safe between threads; one thread receives."""

    def __init__(self, address: FarmAddress, path: str) -> None:
        """Connect; raises ``FarmAway`` where nobody answers, what the farm says is wrong otherwise."""
        import_websockets()
        from websockets.exceptions import InvalidHandshake, InvalidStatus
        from websockets.sync.client import connect

        url = address.url.rstrip("/")
        self._open = contextlib.ExitStack()
        try:
            connecting = connect(
                "ws" + url.removeprefix("http") + path,
                additional_headers={"Authorization": f"Bearer {address.token}"},
                ssl=trusted(address) if url.startswith("https") else None,
                compression=None,
                # A proxy of the environment's would see the token where it ends TLS.
                proxy=None,
                open_timeout=OPEN_S,
                close_timeout=CLOSE_S,
                ping_interval=PING_S,
                ping_timeout=PING_S,
                max_size=wire.MOST_FRAME_BYTES,
                max_queue=MOST_WAITING,
            )
            self._socket: Any = self._open.enter_context(connecting)
        except InvalidStatus as error:
            raise problem_of(error.response.status_code, bytes(error.response.body or b""), url) from error
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise FarmAway(
                f"The farm {url} can't be reached: {one_line(str(error))[:300] or type(error).__name__}.",
                hint="Check that it runs and can be reached.",
            ) from error

    def receive(self, timeout_s: float | None = None) -> str | bytes:
        """Return the next frame; raises ``LinkLost`` once there is none, ``TimeoutError``."""
        from websockets.exceptions import ConnectionClosed

        try:
            frame: str | bytes = self._socket.recv(timeout_s)
        except ConnectionClosed as error:
            raise self._lost(error) from error
        return frame

    def send(self, *frames: str | bytes) -> None:
        """Send frames; waits while the other end takes none. Raises ``LinkLost``."""
        from websockets.exceptions import ConnectionClosed

        try:
            for frame in frames:
                self._socket.send(frame)
        except ConnectionClosed as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """End the relay; twice is fine."""
        with contextlib.suppress(Exception):
            self._open.close()

    def _lost(self, error: Any) -> LinkLost:
        said = one_line(error.rcvd.reason)[:200] if error.rcvd is not None else ""
        return LinkLost(said or "the connection was cut")


def import_websockets() -> None:
    """Raise ``EnvironmentGap`` where the package is missing."""
    try:
        import websockets  # noqa: F401
    except ImportError as error:
        raise EnvironmentGap("websockets is not installed.", hint="pip install 'edgebuild[farm]'") from error
