"""Holds this device for a host, alone or alongside others that share it.

A kernel lock that ends with the process, and a number that only ever grows: whoever takes the device alone begins a new
attempt, and so do the first of those who share it next. A request of an attempt that is over is refused.
"""

from __future__ import annotations

import fcntl
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
    path, shared = turns.lock_path(), bool(request.get("shared"))
    try:
        lock = turns.MachineLock(path)
        reported = ""
        while not lock.take(shared):
            holder = lock.holder()
            if holder != reported:
                reported = holder
                wire.event(event="waiting", holder=holder)
            time.sleep(POLL_S)
    except OSError as error:
        raise Problem(
            "environment",
            "The device's lock %s can't be taken: %s." % (path, error.strerror),
            "Remove what is there.",
        ) from error
    lock.note(request["what"])
    wire.event(event="held", attempt=_begin(request["root"], shared))
    while True:
        time.sleep(3600)


def _begin(root: str, shared: bool) -> int:
    """Return the number of this attempt: those who share a device share it."""
    with open(_path(root) + ".lock", "w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        number, was_shared = _read(root)
        if shared and was_shared:
            return number
        partial = "%s.%d" % (_path(root), os.getpid())
        with open(partial, "w") as file:
            file.write("%d%s" % (number + 1, " shared" if shared else ""))
            file.flush()
            os.fsync(file.fileno())
        os.rename(partial, _path(root))
        return number + 1


def require_current(request: Fields) -> None:
    """Refuse the request of a host that held this device before another one took it."""
    now = current(request["root"])
    if request["attempt"] != now:
        raise Problem(
            "device",
            "Another host took this device: attempt %s is over, %d runs." % (request["attempt"], now),
            "Run the command again: it waits its turn and resumes where it was.",
        )


def current(root: str) -> int:
    """Return the number of the newest attempt, 0 before the first."""
    return _read(root)[0]


def _read(root: str) -> tuple[int, bool]:
    """Return the newest attempt's number, and whether it is shared."""
    try:
        with open(_path(root)) as file:
            number, _, how = file.read().partition(" ")
            return int(number), how == "shared"
    except (OSError, ValueError):
        return 0, False


def _path(root: str) -> str:
    return os.path.join(root, "attempt")
