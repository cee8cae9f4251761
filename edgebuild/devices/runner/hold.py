"""Holds this device for one host: a kernel lock that ends with the process, and a number that only ever grows."""

from __future__ import annotations

import os
import time

from . import turns
from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields, Wire

POLL_S = 0.2


def hold(request: Fields, wire: Wire) -> Fields:
    """Take the lock, tell the attempt's number, and keep both until stdin closes. Tells who holds it while waiting."""
    path = turns.lock_path()
    try:
        lock = turns.MachineLock(path)
        told = ""
        while not lock.take():
            holder = lock.holder()
            if holder != told:
                told = holder
                wire.event(event="waiting", holder=holder)
            time.sleep(POLL_S)
    except OSError as error:
        raise Problem(
            "environment",
            "The device's lock %s can't be taken: %s." % (path, error.strerror),
            "Remove what is there.",
        ) from error
    lock.note(request["what"])
    attempt = current(request["root"]) + 1
    partial = "%s.%d" % (_path(request["root"]), os.getpid())
    with open(partial, "w") as file:
        file.write(str(attempt))
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, _path(request["root"]))
    wire.event(event="held", attempt=attempt)
    while True:
        time.sleep(3600)


def require_current(request: Fields) -> None:
    """Refuse the request of a host that held this device before another one took it."""
    now = current(request["root"])
    if request["attempt"] != now:
        raise Problem(
            "device",
            "Another host took this device: attempt %s is over, %d runs." % (request["attempt"], now),
            "Run the command again: it waits its turn and goes on where it was.",
        )


def current(root: str) -> int:
    """Return the number of the newest attempt, 0 before the first."""
    try:
        with open(_path(root)) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _path(root: str) -> str:
    return os.path.join(root, "attempt")
