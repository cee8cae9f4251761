"""One measurement at a time on one physical machine, whoever starts it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.devices.runner.turns import MachineLock, lock_path
from edgebuild.errors import EnvironmentGap, NoTimeToWait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgebuild.core.steps import Progress

POLL_S = 0.2


@contextlib.contextmanager
def measurement_lock(
    what: str,
    *,
    shared: bool = False,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
    until_s: float = float("inf"),
    path: Path | None = None,
) -> Iterator[None]:
    """Hold the machine for a measurement; waits while another process measures, saying who.

    ``shared`` is for what disturbs no verdict but those of others that measure: it runs alongside others of its kind.
    ``what`` is shown to whoever waits. The lock is gone when the holder is, however it ended, and is the same for all
    users. Not re-entrant. ``check`` is called while waiting and may raise. Raises ``NoTimeToWait`` where it still
    waits at ``until_s`` (of ``time.monotonic``), ``EnvironmentGap`` where something else is in the lock file's place.
    """
    where = lock_path() if path is None else str(path)
    with contextlib.ExitStack() as stack:
        try:
            lock = MachineLock(where)
            stack.callback(lock.close)
            _wait(lock, shared, progress or NoProgress(), check, until_s)
        except OSError as error:
            raise EnvironmentGap(
                f"Can't open the measurement lock {where}: {error.strerror}.", hint="Remove what is there."
            ) from error
        lock.note(what)
        stack.callback(lock.note, "")
        yield


def waiting_for(holder: str, where: str) -> str:
    """Return what progress says of a wait."""
    return f"waiting: {holder} is measuring on {where}"


def require_time(until_s: float, holder: str, where: str) -> None:
    """Raise ``NoTimeToWait`` past a moment (of ``time.monotonic``)."""
    if time.monotonic() > until_s:
        raise NoTimeToWait(
            f"The time asked for is over while {holder} is measuring on {where}.",
            hint="What was finished is kept: the same command goes on from there, with all of its time again.",
        )


def _wait(lock: MachineLock, shared: bool, progress: Progress, check: Callable[[], None], until_s: float) -> None:
    if lock.take(shared):
        return
    holder = lock.holder()
    with progress.task(waiting_for(holder, "this machine")) as task:
        while not lock.take(shared):
            check()
            require_time(until_s, lock.holder(), "this machine")
            time.sleep(POLL_S)
            now = lock.holder()
            task.advance(0.0, f"now {now}" if now != holder else "")
