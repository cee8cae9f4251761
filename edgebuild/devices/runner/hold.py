"""Holds this device for one host: a kernel lock that ends with the process, and a number that only ever grows."""

from __future__ import annotations

import fcntl
import json
import os
import time

from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields, Wire

POLL_S = 0.2


def lock_path() -> str:
    """Return the lock of this user on this machine: the same one that measurements started on it take."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = runtime if runtime and os.access(runtime, os.W_OK) else "/tmp"  # noqa: S108  flock only
    return os.path.join(folder, "edgebuild-measuring-%d.lock" % os.getuid())


def hold(request: Fields, wire: Wire) -> Fields:
    """Take the lock, tell the attempt's number, and keep both until stdin closes. Tells who holds it while waiting."""
    handle = os.open(lock_path(), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    told = ""
    while not _taken(handle):
        holder = os.pread(handle, 4096, 0).decode("utf-8", "replace")
        if holder != told:
            told = holder
            wire.event(event="waiting", holder=_what(holder))
        time.sleep(POLL_S)
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"pid": os.getpid(), "what": request["what"]}).encode("utf-8"), 0)
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


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _what(holder: str) -> str:
    try:
        return str(json.loads(holder)["what"])[:200]
    except (ValueError, KeyError, TypeError):
        return "somebody"
