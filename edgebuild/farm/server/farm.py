"""What the routes share: the database, the files, and who waits for something to happen."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

from edgebuild.errors import StoreError
from edgebuild.farm import desk, leases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from edgebuild.farm.blobs import Blobs
    from edgebuild.farm.database import Database

#: How often what went on without anybody saying so is put right.
RECONCILE_S = 2.0

T = TypeVar("T")


class Farm:
    """One server's farm. Safe between threads."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self.database = database
        self.blobs = blobs
        self.bell = Bell()
        self._over = threading.Event()
        self._reconciler: threading.Thread | None = None
        #: The server is about to end: nobody is kept waiting.
        self.leaving = False
        #: Why the tables can't be put right at the moment; empty while they can.
        self.trouble = ""

    @property
    def now(self) -> float:
        """The farm's time."""
        return self.database.clock.now()

    def do(self, work: Callable[[Connection, float], T]) -> T:
        """Return what a transaction returns, once it is kept; those who wait for a change look again."""
        with self.database.write() as db:
            done = work(db, self.now)
        self.bell.ring()
        return done

    def do_quietly(self, work: Callable[[Connection, float], T]) -> T:
        """Return what a transaction returns that is nobody else's news: nobody who waits looks again."""
        with self.database.write() as db:
            return work(db, self.now)

    def look(self, work: Callable[[Connection], T]) -> T:
        """Return what a look at the tables returns."""
        with self.database.read() as db:
            return work(db)

    def leave(self) -> None:
        """Let everybody go who waits for something to happen."""
        self.leaving = True
        self.bell.ring()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Put right, while the block runs, what goes on without anybody saying so."""
        with contextlib.suppress(StoreError):
            self.do(leases.spare)
        self._reconciler = threading.Thread(target=self._reconcile, name="edgebuild-farm", daemon=True)
        self._reconciler.start()
        try:
            yield
        finally:
            self._over.set()
            self._reconciler.join()

    def _reconcile(self) -> None:
        """A database that is away comes back, and nobody was silent meanwhile."""
        while not self._over.wait(RECONCILE_S):
            try:
                if self.trouble:
                    self.do(leases.spare)
                self.do(desk.reconcile)
                self.trouble = ""
            except StoreError as error:
                self.trouble = error.message


class Bell:
    """Wakes those who wait for something to change."""

    def __init__(self) -> None:
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Wake everybody."""
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is over
                loop.call_soon_threadsafe(event.set)

    def listen(self) -> asyncio.Event:
        """Return what is set at the next ring; ask before looking, so that no ring is missed."""
        event = asyncio.Event()
        with self._lock:
            self._waiting.add((asyncio.get_running_loop(), event))
        return event
