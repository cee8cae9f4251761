"""What the routes share: the database, the files, and who waits for something to happen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, TypeVar

from edgebuild.errors import StoreError
from edgebuild.farm import desk, news
from edgebuild.farm.retention import KEEP_DAYS
from edgebuild.farm.server import logs
from edgebuild.farm.server.tidying import Tidying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection

    from edgebuild.farm.blobs import Blobs
    from edgebuild.farm.database import Database

#: How often what went on without anybody saying so is put right.
RECONCILE_S = 2.0
#: A server that didn't come to that for so long heard nobody either.
LATE_S = 15.0
#: After so long without, the farm isn't well.
UNWELL_S = 60.0

T = TypeVar("T")


class Farm:
    """One server's farm. Safe between threads. ``keep_days``: how long is kept what needn't be kept for good."""

    def __init__(self, database: Database, blobs: Blobs, *, keep_days: int = KEEP_DAYS) -> None:
        self.database = database
        self.blobs = blobs
        self.bell = Bell()
        self.polls = Polls()
        self.tidying = Tidying(self, keep_days)
        self._over = threading.Event()
        self._reconciler: threading.Thread | None = None
        #: The server is about to end: nobody is kept waiting.
        self.leaving = False
        #: Why the tables can't be put right at the moment; empty while they can.
        self.trouble = ""
        self._right_at: float | None = None
        self._made_at = database.clock.now()

    @property
    def now(self) -> float:
        """The farm's time."""
        return self.database.clock.now()

    def do(self, work: Callable[[Connection, float], T]) -> T:
        """Return what a transaction returns, once it is kept; the hosts for which it has news look again."""
        with self.database.write() as db:
            news.take(db)
            done = work(db, self.now)
            hosts = news.take(db)
        self.bell.ring(hosts)
        return done

    def look(self, work: Callable[[Connection], T]) -> T:
        """Return what a look at the tables returns."""
        with self.database.read() as db:
            return work(db)

    def leave(self) -> None:
        """Let everybody go who waits for something to happen."""
        self.leaving = True
        self.bell.ring_all()

    def put_right(self) -> None:
        """Put right what went on without anybody saying so, unless the server couldn't have heard it."""
        self._right_at = self.do(self._put_right)

    @property
    def well(self) -> bool:
        """Whether the tables are put right all the time."""
        return not self.trouble and self.late_s < UNWELL_S

    @property
    def late_s(self) -> float:
        """How long ago the tables were put right last."""
        return max(0.0, self.now - (self._made_at if self._right_at is None else self._right_at))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Put right, while the block runs, what goes on without anybody saying so, and remove what nobody needs."""
        self._reconciler = threading.Thread(target=self._reconcile, name="edgebuild-farm", daemon=True)
        self._reconciler.start()
        self.tidying.start()
        try:
            yield
        finally:
            self._over.set()
            self._reconciler.join()
            self.tidying.end()

    def _put_right(self, db: Connection, now: float) -> float:
        if self._right_at is None or self.trouble or now - self._right_at > LATE_S:
            desk.spare(db, now)
        desk.reconcile(db, now)
        return now

    def _reconcile(self) -> None:
        """A database that is away comes back, and nobody was silent while the server couldn't listen."""
        while not self._over.wait(RECONCILE_S):
            try:
                self.put_right()
                self.trouble = ""
            except StoreError as error:
                self.trouble = error.message
            except Exception as error:  # noqa: BLE001 - without this thread no lease would ever expire
                self.trouble = f"a bug in the farm: {type(error).__name__}"
                logs.event("reconciling failed", level=logging.ERROR, error=error)


class Bell:
    """Wakes the hosts for which there is news."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._loops: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._lock = threading.Lock()

    def ring(self, hosts: Iterable[str]) -> None:
        """Wake those who listen for these hosts."""
        with self._lock:
            events = [(event, self._loops[event]) for host in hosts for event in self._waiting.get(host, ())]
        for event, loop in events:
            with contextlib.suppress(RuntimeError):  # its loop is over
                loop.call_soon_threadsafe(event.set)

    def ring_all(self) -> None:
        """Wake everybody."""
        with self._lock:
            hosts = list(self._waiting)
        self.ring(hosts)

    @contextlib.contextmanager
    def listening(self, host: str) -> Iterator[asyncio.Event]:
        """Yield what is set when there is news for a host; look after asking for it, so that none is missed."""
        event = asyncio.Event()
        with self._lock:
            self._waiting.setdefault(host, set()).add(event)
            self._loops[event] = asyncio.get_running_loop()
        try:
            yield event
        finally:
            with self._lock:
                del self._loops[event]
                self._waiting[host].discard(event)
                if not self._waiting[host]:
                    del self._waiting[host]


class Polls:
    """Numbers the questions of each host for work: who asked again isn't answered twice."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def begin(self, host: str, token: str) -> int:
        """Return the number of a new question."""
        with self._lock:
            number = self._newest[host, token] = self._newest.get((host, token), 0) + 1
        return number

    def over(self, host: str, token: str, number: int) -> bool:
        """Whether the host has asked again since."""
        return self._newest[host, token] != number
