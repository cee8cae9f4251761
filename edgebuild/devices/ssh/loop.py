"""The thread in which everything asynchronous about SSH happens."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from concurrent.futures import Future

END_S = 20.0


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_unheard)
        self._thread = threading.Thread(target=self._loop.run_forever, name="edgebuild-ssh", daemon=True)
        self._thread.start()

    def call(self, coroutine: Awaitable[Any], limit_s: float | None) -> Any:
        """Run a coroutine there and return its result; it is cancelled when its time is over or the caller leaves."""
        future = self.begin(coroutine)
        try:
            return future.result(limit_s)
        except BaseException:
            future.cancel()
            raise

    def begin(self, coroutine: Awaitable[Any]) -> Future[Any]:
        """Start a coroutine there and return at once."""
        return asyncio.run_coroutine_threadsafe(_awaited(coroutine), self._loop)

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_S)
        self._loop.close()


def _unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A lost connection fails in many of asyncssh's tasks at once; who waits for one hears of it, the rest is noise."""
    asyncssh = import_asyncssh()
    if not isinstance(context.get("exception"), asyncssh.Error | OSError):
        loop.default_exception_handler(context)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    """asyncssh hands out awaitables that are no coroutines."""
    return await awaitable


def import_asyncssh() -> Any:
    """Return asyncssh, or say how to install it."""
    try:
        import asyncssh
    except ImportError as error:
        raise EnvironmentGap("asyncssh is not installed.", hint="pip install 'edgebuild[ssh]'") from error
    return asyncssh
