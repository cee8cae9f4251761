"""The wire: one request line on stdin, event lines and one last line (result or error) on the real stdout."""

from __future__ import annotations

import errno
import json
import os
import queue
import select
import signal
import sys
import threading

from . import pausing

PROTOCOL = 2
MAX_REQUEST_BYTES = 4 << 20
#: A request comes with the start; a host that was cut off before it was sent will never send it.
REQUEST_S = 30.0
#: The status of a runner for which nobody waits any more.
ORPHANED = 3
#: What a write fails with on a full disk, or where a quota is used up.
FULL = (errno.ENOSPC, errno.EDQUOT)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

    Fields = Dict[str, Any]


class Problem(Exception):
    """Something to tell the caller. ``kind``: model | data | environment | full | usage | device | runtime."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.hint = hint


class Wire:
    """Owns the process's stdout: what a runtime prints there goes to stderr, so that it can't break the protocol."""

    def __init__(self) -> None:
        self._out = self._turns = os.dup(1)
        self._silence_s = self._limit_s = 0.0
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        os.dup2(2, 1)

    def request(self) -> Fields:
        """Return the request; from here on its time limit holds."""
        data = b""
        while not data.endswith(b"\n"):
            if not select.select([0], [], [], REQUEST_S)[0]:
                os._exit(ORPHANED)
            chunk = os.read(0, 1 << 16)
            data += chunk
            if not chunk or len(data) > MAX_REQUEST_BYTES:
                raise Problem("device", "The request is not one line of JSON.")
        fields = json.loads(data.decode("utf-8"))
        if not isinstance(fields, dict) or fields.get("protocol") != PROTOCOL:
            raise Problem("device", "This runner speaks protocol %d, the request doesn't." % PROTOCOL)
        self._silence_s, self._limit_s = float(fields.get("silence_s") or 0.0), float(fields["time_limit_s"])
        # No handler on purpose: the signal's default ends the process even inside a call that never returns to Python.
        signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        return fields

    def pause_between_turns(self) -> None:
        """Have this process stopped whenever it has told the end of a turn, until the host's next line."""
        self._turns = pausing.start_keeper(self._out, self._silence_s, self._limit_s)
        self._silence_s = 0.0  # the keeper's matter: a stopped process hears nothing

    def listen(self) -> None:
        """Watch stdin from here on: when it closes, nobody waits for us and the process ends."""
        threading.Thread(target=_listen, args=(self._silence_s, self._lines), daemon=True).start()

    def command(self) -> str:
        """Return the host's next line after its request; asleep until there is one."""
        return self._lines.get()

    def event(self, **fields: object) -> None:
        """Tell of progress."""
        self._line(fields)

    def end_turn(self, **fields: object) -> None:
        """Tell of progress with which a turn ends; the host hears of it when this process is paused."""
        self._line(fields, self._turns)

    def progress(self, phase: str, done: float, total: Optional[float]) -> None:
        """Tell how far ``phase`` is."""
        self.event(event="progress", phase=phase, done=done, total=total)

    def finish(self, result: Fields) -> None:
        """Write the result and end the process at once: a runtime's own tear-down has nothing to add."""
        self._line({"result": result})
        self.end()

    def fail(self, error: BaseException) -> None:
        """Write the error and end the process. An error without a ``kind`` is unexpected: its trace goes to stderr."""
        if isinstance(error, OSError) and error.errno in FULL:
            error = Problem("full", "The disk of the device is full.", "Free some space there and run it again.")
        kind = "environment" if isinstance(error, MemoryError) else getattr(error, "kind", None)
        if kind is None:
            import traceback

            traceback.print_exception(type(error), error, error.__traceback__)
        message = str(error) if kind else "%s: %s" % (type(error).__name__, error)
        if isinstance(error, MemoryError):
            message = "There is too little memory on the device: %s" % (error or "MemoryError")
        self._line(
            {"error": {"kind": kind or "runtime", "message": message[:4000], "hint": getattr(error, "hint", "")}}
        )
        self.end()

    def end(self) -> None:
        """End the process with status 0."""
        sys.stderr.flush()
        os._exit(0)

    def _line(self, fields: Fields, out: Optional[int] = None) -> None:
        data = json.dumps(fields, allow_nan=False).encode("utf-8") + b"\n"
        while data:
            data = data[os.write(self._out if out is None else out, data) :]


def _listen(silence_s: float, lines: queue.SimpleQueue[str]) -> None:
    """Hand on what the host says, and end the process when nobody waits for it.

    That is when stdin is closed, or a host that promised to knock (with an empty line) was silent for so long: a cut
    link closes nothing here, only the silence tells.
    """
    rest = b""
    while True:
        if silence_s and not select.select([0], [], [], silence_s)[0]:
            os._exit(ORPHANED)
        chunk = os.read(0, 4096)
        if not chunk or len(rest) > MAX_REQUEST_BYTES:
            os._exit(ORPHANED)
        *whole, rest = (rest + chunk).split(b"\n")
        for line in filter(None, whole):
            lines.put(line.decode("utf-8", "replace"))
