"""Targets on different devices are built side by side: the devices work at once, what the host does takes turns."""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from edgebuild.core.steps import never_stop
from edgebuild.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

POLL_S = 0.2


def _wait_or_end(futures: Sequence[Future[T]]) -> None:
    """Wait until all have stopped. Who interrupts that too ends the process at once, and every lock with it.

    Nothing is lost: what is on disk is whole after a kill, too.
    """
    try:
        wait(futures)
    except KeyboardInterrupt:
        os._exit(Interrupted.exit_code)


class HostTurn:
    """The host's own work, which one thread does at a time: libraries of the user's and ours share global state.

    Whoever waits for a device lends the turn meanwhile. Both are re-entrant.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    @contextmanager
    def taken(self, check: Callable[[], None] = never_stop) -> Iterator[None]:
        """Hold the turn; ``check`` is called while another thread has it, and may raise."""
        if self._owner == threading.get_ident():
            yield
            return
        while not self._lock.acquire(timeout=POLL_S):
            check()
        self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._give()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let other threads have the turn that this one holds, and take it back at the end."""
        if self._owner != threading.get_ident():
            yield
            return
        self._give()
        try:
            yield
        finally:
            self._lock.acquire()
            self._owner = threading.get_ident()

    def _give(self) -> None:
        self._owner = None
        self._lock.release()


class Stopping:
    """``check`` of work in several threads: raises what the caller's own does, and stops all once one has failed."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._stopped = threading.Event()

    def __call__(self) -> None:
        """Raise ``Interrupted`` where the work must stop."""
        self._check()
        if self._stopped.is_set():
            raise Interrupted("another target's build failed or was stopped; what was finished is kept")

    def stop(self) -> None:
        """Stop all that asks from now on."""
        self._stopped.set()


def side_by_side(work: Sequence[Callable[[], T]], turn: HostTurn, stopping: Stopping) -> list[T]:
    """Do each piece of work in a thread of its own; the first failure, or a Ctrl-C, stops the others and is raised."""
    if len(work) < 2:
        return [each() for each in work]

    def taking_turns(each: Callable[[], T]) -> T:
        with turn.taken(stopping):
            return each()

    with ThreadPoolExecutor(len(work), thread_name_prefix="edgebuild-target") as pool:
        futures = [pool.submit(taking_turns, each) for each in work]
        try:
            while (state := wait(futures, POLL_S, FIRST_EXCEPTION)).not_done:
                if any(future.exception() for future in state.done):
                    break
                stopping()
        except BaseException:
            stopping.stop()
            _wait_or_end(futures)
            raise
        if state.not_done:
            stopping.stop()
            with suppress(KeyboardInterrupt):  # all are stopping already: the failure is what is said
                wait(futures)
            _wait_or_end(futures)
    failures = [error for future in futures if (error := future.exception()) is not None]
    if failures:
        raise next((error for error in failures if not isinstance(error, Interrupted)), failures[0])
    return [future.result() for future in futures]
