"""One measurement at a time on one physical machine, whoever starts it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgebuild.core.steps import Progress

POLL_S = 0.2


def lock_path() -> Path:
    """Return the lock file of this user on this machine: in XDG_RUNTIME_DIR, else in /tmp.

    TMPDIR is not asked: two shells with different ones share the same cores.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime and os.access(runtime, os.W_OK) else Path("/tmp")  # noqa: S108  flock only
    return folder / f"edgebuild-measuring-{os.getuid()}.lock"


@contextlib.contextmanager
def measurement_lock(
    what: str, *, progress: Progress | None = None, check: Callable[[], None] = never_stop, path: Path | None = None
) -> Iterator[None]:
    """Hold the machine for a measurement; waits while another process measures, saying who.

    ``what`` is shown to whoever waits. The lock is the kernel's (flock): it is gone when the holder is, however it
    ended. Not re-entrant. ``check`` is called while waiting and may raise.
    """
    path = path or lock_path()
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise EnvironmentGap(
            f"Can't open the measurement lock {path}: {error.strerror}.", hint="Remove that file, or fix its owner."
        ) from error
    try:
        _wait(handle, progress or NoProgress(), check)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "what": what}).encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _wait(handle: int, progress: Progress, check: Callable[[], None]) -> None:
    if _taken(handle):
        return
    with progress.task(f"waiting: {_holder(handle)} is measuring on this machine") as task:
        while not _taken(handle):
            check()
            time.sleep(POLL_S)
            task.advance(0.0, _holder(handle))


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(handle: int) -> str:
    try:
        facts = json.loads(os.pread(handle, 4096, 0))
        return f"process {facts['pid']} ({facts['what']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
