"""What one running process holds in a store, and its place for unfinished work.

A session is a folder under ``tmp/`` with a lock that dies with its process. ``gc`` sweeps the folders of dead sessions
and leaves alone every key that a living one has used.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from edgebuild.execution.disk import is_folder, open_plain, read_plain, remove

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_NAME = "lock"
HELD_NAME = "held"


class Session:
    """A living process's folder in ``tmp/``. Made under the store's guard, so that no sweep sees it without a lock."""

    def __init__(self, tmp: Path) -> None:
        self.folder = tmp / secrets.token_hex(8)
        self.folder.mkdir()
        self.held: set[str] = set()
        self._held_file = self.folder / HELD_NAME
        descriptor = os.open(self.folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._end = weakref.finalize(self, _end, self.folder, descriptor, os.getpid())

    def hold(self, key: str) -> None:
        """Keep ``key`` from being collected while this process lives."""
        if key in self.held:
            return
        self.held.add(key)
        # A full disk must not stop a build from *using* what is stored.
        with suppress(OSError), self._held_file.open("a", encoding="ascii") as file:
            file.write(f"{key}\n")

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Lend an empty folder on the store's disk; removed afterwards, whatever happened."""
        folder = self.folder / f"work-{secrets.token_hex(8)}"
        folder.mkdir()
        try:
            yield folder
        finally:
            remove(folder)

    def close(self) -> None:
        """Let go of everything; twice is fine."""
        self._end()


def _end(folder: Path, descriptor: int, owner: int) -> None:
    if os.getpid() != owner:
        return  # a forked child must not end its parent's session
    with suppress(OSError):
        remove(folder)
    with suppress(OSError):
        os.close(descriptor)


def held_by_living(folder: Path) -> set[str] | None:
    """Return the keys that the session in ``folder`` holds, or None when its process is gone, or it is no session."""
    if not is_folder(folder):
        return None
    try:
        descriptor = open_plain(folder / LOCK_NAME)
    except PermissionError:
        raise  # another user's, who may live
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return set(read_plain(folder / HELD_NAME).decode("ascii", "replace").split())
        except OSError:
            return set()
    else:
        return None
    finally:
        os.close(descriptor)
