"""The process of one job: an order in on standard input, words out on standard output, and nothing survives its agent.

It ends at once when its standard input closes or its parent dies. What it held on a board ends with its connection.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from typing import IO, TYPE_CHECKING

from edgebuild.errors import DeviceError, Disturbed, EdgebuildError, Interrupted, RunnerFailed
from edgebuild.farm.host.kinds import KINDS
from edgebuild.farm.host.orders import MAKE_ROOM, MOST_LINE_BYTES, Assignment, Order, Outcome, Word
from edgebuild.farm.values import Finished, JobEnd

if TYPE_CHECKING:
    from types import FrameType

#: prctl(2): the signal that this process gets when its parent dies.
_PR_SET_PDEATHSIG = 1
LONGEST_LOG_LINE = 4_000
LONGEST_REASON = 2_000


class MadeRoom(Interrupted):
    """The job ends because a more urgent one waits for its device."""


class OutOfLease(Interrupted):
    """The job took longer than it asked for."""


class Control:
    """Why the job is to end, if it is."""

    def __init__(self, limit_s: float) -> None:
        self._deadline = time.monotonic() + limit_s
        self._limit_s = limit_s
        self._make_room = threading.Event()
        self._cancelled = threading.Event()

    def check(self) -> None:
        """Raise when the job is to end."""
        if self._cancelled.is_set():
            raise Interrupted("cancelled while it ran")
        if self._make_room.is_set():
            raise MadeRoom("it made room for a more urgent one")
        if time.monotonic() > self._deadline:
            raise OutOfLease(f"it took longer than the {self._limit_s:g} s that it asked for")

    def cancel(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM; a call that doesn't look is ended by the agent's SIGKILL."""
        del number, frame
        self._cancelled.set()

    def listen(self, stdin: IO[bytes]) -> None:
        """Take the agent's words until there is no agent any more; then end this process and all that it started."""
        while line := stdin.readline(MOST_LINE_BYTES):
            if line == MAKE_ROOM:
                self._make_room.set()
        os.killpg(0, signal.SIGKILL)


class Voice:
    """Writes words, whole lines each, whichever thread speaks."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Write to the job's log."""
        self.speak(Word(log=tuple(line[:LONGEST_LOG_LINE] for line in text.splitlines())))

    def speak(self, word: Word) -> None:
        """Write a word."""
        with self._lock:
            self._out.write(word.model_dump_json(exclude_defaults=True).encode() + b"\n")
            self._out.flush()


def main() -> None:
    """Do the job that standard input describes."""
    _die_with_parent()
    voice = Voice(_own_stdout())
    line = sys.stdin.buffer.readline(MOST_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise SystemExit("no order came")
    order = Order.model_validate_json(line)
    control = Control(order.job.spec.ask.duration_s)
    signal.signal(signal.SIGTERM, control.cancel)
    threading.Thread(target=control.listen, args=(sys.stdin.buffer,), daemon=True).start()
    assignment = Assignment(order=order, check=control.check, say=voice.say)
    voice.speak(_done(assignment))
    # Threads of runtimes and of connections have nothing to add.
    os._exit(0)


def _done(assignment: Assignment) -> Word:
    try:
        for folder in (assignment.blobs, assignment.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        outcome = KINDS.get(assignment.order.job.spec.kind)(assignment)
    except MadeRoom:
        return Word(made_room=True)
    except BaseException as error:  # noqa: BLE001  whatever went wrong is how the job ended
        outcome = outcome_of(error, assignment)
    turn = assignment.order.job.attempts[-1].token
    return Word(finished=Finished(token=turn, **{**vars(outcome), "reason": outcome.reason[:LONGEST_REASON]}))


def outcome_of(error: BaseException, assignment: Assignment) -> Outcome:
    """Return how a job ended that raised: whose fault it is decides."""
    if isinstance(error, OutOfLease):
        return Outcome(how=JobEnd.TIMED_OUT, reason=error.message)
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return Outcome(how=JobEnd.CANCELLED, reason="cancelled while it ran")
    if isinstance(error, RunnerFailed):
        # Its own process died; perhaps the whole device did.
        gone = _gone(assignment)
        how = JobEnd.DEVICE_LOST if gone else JobEnd.FAILED
        return Outcome(how=how, reason=_said(error) + (f"\n{gone}" if gone else ""))
    if isinstance(error, Disturbed):
        # It answers, and another try is disturbed just as well: no reason to mistrust it.
        return Outcome(how=JobEnd.INCONCLUSIVE, reason=f"disturbed: {_said(error)}")
    if isinstance(error, DeviceError):
        return Outcome(how=JobEnd.DEVICE_LOST, reason=_said(error))
    if isinstance(error, EdgebuildError):
        return Outcome(how=JobEnd.FAILED, reason=_said(error))
    if isinstance(error, MemoryError):
        return Outcome(how=JobEnd.FAILED, reason="There is too little memory on the farm's host.")
    if isinstance(error, OSError):
        return Outcome(how=JobEnd.FAILED, reason=f"The farm's host can't do that: {error.strerror or error}.")
    traceback.print_exception(error)
    assignment.say(traceback.format_exception_only(error)[-1].strip())
    return Outcome(how=JobEnd.FAILED, reason="A bug in edgebuild or a plug-in; the log holds what it was.")


def _said(error: EdgebuildError) -> str:
    return f"{error.message.rstrip('.')}. {error.hint}" if error.hint else error.message


def _gone(assignment: Assignment) -> str:
    """Return why the device doesn't answer any more; empty where it does."""
    from edgebuild.farm.host.health import require_answer

    try:
        require_answer(assignment.order.entry)
    except EdgebuildError as error:
        return error.message
    return ""


def _own_stdout() -> IO[bytes]:
    """Return standard output; what anything else prints goes to the error output instead."""
    mine = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return mine


def _die_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
