"""A process that the agent started: it is told once what to do, watched, and gone with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING

from pydantic import ValidationError

from edgebuild.farm.endpoint import AUTHORITY, TOKEN, URL
from edgebuild.farm.host.orders import MAKE_ROOM, MOST_LINE_BYTES, Word

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgebuild.farm.host.orders import Order

#: How long a process has to end by itself once it was told to.
END_S = 10.0


class Child:
    """A subprocess that leads a session of its own. Its standard input stays open: when it closes, the child ends.

    Its environment holds no token, and nothing is imported from its working directory.
    """

    def __init__(self, module: str, folder: Path, *, output: int = subprocess.DEVNULL) -> None:
        self.began = time.monotonic()
        self._lock = threading.Lock()
        self._reaped = False
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=output,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name not in {URL, TOKEN, AUTHORITY}},
            start_new_session=True,
        )

    def tell(self, line: bytes) -> None:
        """Write a line to a child that may be gone."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.write(line)
                self.process.stdin.flush()

    def stop(self) -> None:
        """Ask the whole group to end, and see to it after a while. Returns at once; twice is fine."""
        self._signal(signal.SIGTERM)
        later = threading.Timer(END_S, self._signal, (signal.SIGKILL,))
        later.daemon = True
        later.start()

    def reap(self) -> int:
        """Wait for the child, end what is left of its group, and return its status (minus the signal's number)."""
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        self._signal(signal.SIGKILL)
        with self._lock:
            self._reaped = True
            status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            _close(pipe)
        return status

    def ended(self) -> bool:
        """Whether it ended; it isn't reaped by this."""
        with self._lock:
            return (
                self._reaped or os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
            )

    def _signal(self, number: int) -> None:
        """Its number is nobody else's as long as it isn't reaped."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if not self._reaped:
                os.killpg(self.process.pid, number)


class Running:
    """The process of a job. ``words`` takes what it says, ``ended`` that it is gone; both come from a thread."""

    def __init__(
        self, order: Order, *, words: Callable[[Running, Word], None], ended: Callable[[Running, int], None]
    ) -> None:
        self.order = order
        self.job = order.job.id
        self.token = order.job.attempts[-1].token
        #: Why the agent stopped it: cancelled, over, time, leaving; empty while it didn't.
        self.stopped = ""
        self.making_room = False
        self.last: Word | None = None
        self.deadline = time.monotonic() + order.job.spec.ask.duration_s + END_S
        self._words, self._ended = words, ended
        self._child = Child("edgebuild.farm.host.worker", order.folder, output=subprocess.PIPE)
        self.thread = threading.Thread(target=self._follow, name=f"edgebuild-{self.job}", daemon=True)
        self.thread.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._child.process.pid

    def stop(self, why: str) -> None:
        """Have it end; what comes first is why."""
        if not self.stopped:
            self.stopped = why
            self._child.stop()

    def make_room(self) -> None:
        """Have it end when it can."""
        self.making_room = True
        self._child.tell(MAKE_ROOM)

    def _follow(self) -> None:
        self._child.tell(self.order.model_dump_json().encode() + b"\n")
        pipe = self._child.process.stdout
        while pipe is not None and (line := pipe.readline(MOST_LINE_BYTES + 1)):
            try:
                word = Word.model_validate_json(line)
            except ValidationError:
                continue  # cut off in the midst of it
            if word.log:
                self._words(self, word)
            if word.finished is not None or word.made_room:
                self.last = word
        self._ended(self, self._child.reap())


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()
