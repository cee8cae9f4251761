"""Locks between processes, by ``flock``: the kernel releases them however a holder ends, ``kill -9`` included."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edgebuild.errors import StoreError
from edgebuild.execution.disk import disk_errors, open_plain, read_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

POLL_S = 0.1


class FileLock:
    """An exclusive lock on ``path`` that says who holds it. The file disappears when it is released."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock and return True, or return False when another process (or object) holds it."""
        while True:
            descriptor = open_plain(self.path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except BaseException:
                os.close(descriptor)
                raise
            if self._still_there(descriptor):
                break
            os.close(descriptor)  # the last holder removed the file between our open and our flock
        self._descriptor = descriptor
        now = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "since": now}).encode(), 0)
        return True

    def _still_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.lstat())
        except FileNotFoundError:
            return False

    def holder(self) -> str:
        """Return who holds it, such as ``pid 4711, since 2026-01-01T10:00:00+00:00``."""
        try:
            note = json.loads(read_plain(self.path, 4096))
            return f"pid {note['pid']}, since {note['since']}"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return "a process that just started or ended"

    def release(self) -> None:
        """Give it back; not holding it is fine."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            self.path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


class BuildLock:
    """One build per project at a time: a context manager over a lock file in the project's build folder.

    Raises ``StoreError`` with the holder's process id and start time when another build runs.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def __enter__(self) -> BuildLock:
        path = self._lock.path
        with disk_errors(path.parent, "locking the project"):
            path.parent.mkdir(parents=True, exist_ok=True)
            taken = self._lock.acquire()
        if not taken:
            raise StoreError(
                f"another build of this project is running ({self._lock.holder()}; lock file {path})",
                hint="wait until it ends, or stop that process; the lock goes with it",
            )
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


@contextmanager
def waiting_lock(path: Path, check: Callable[[], None], waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock on ``path``; while another process has it, call ``check`` often and tell ``waiting`` the holder."""
    lock = FileLock(path)
    while True:
        with disk_errors(path.parent, "locking a step"):
            if lock.acquire():
                break
        waiting(lock.holder())
        check()
        time.sleep(POLL_S)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def guard(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold a short shared or exclusive ``flock`` on an existing file; waits for conflicting holders."""
    descriptor = open_plain(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
