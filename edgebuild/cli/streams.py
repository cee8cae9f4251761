"""Standard streams that never fail a command: what can't be written is dropped, and remembered."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


class Stream(io.TextIOWrapper):
    """Standard output or error. A character that its encoding lacks is written as an escape.

    When writing fails, the rest goes nowhere, so that a command ends as it would have; ``failure`` says what happened.
    """

    failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or drop."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        self.failure = self.failure or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # so that what is still buffered can be flushed at the end
        os.close(nowhere)


def protect_streams() -> None:
    """Replace this process's standard output and error by ``Stream``; streams that are closed become /dev/null.

    Called once, first of all: no file that is opened later may take the number of a closed standard stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open as long as the process lives
    sys.stdout = _protected(cast("io.TextIOWrapper | None", sys.stdout), 1)
    sys.stderr = _protected(cast("io.TextIOWrapper | None", sys.stderr), 2)


def _protected(stream: io.TextIOWrapper | None, number: int) -> TextIO:
    if stream is None:
        return cast("TextIO", Stream(io.FileIO(number, "w", closefd=False), encoding="utf-8", write_through=True))
    encoding, lines = stream.encoding, stream.isatty() or number == 2
    return cast("TextIO", Stream(stream.detach(), encoding=encoding, errors="backslashreplace", line_buffering=lines))


def output_failure() -> str:
    """Return why standard output took less than was written; empty where it took all, or its reader went away."""
    sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    if failure is None or failure.errno == errno.EPIPE:
        return ""
    return failure.strerror or type(failure).__name__


@contextlib.contextmanager
def output_to_stderr() -> Iterator[None]:
    """Send to standard error what is printed meanwhile, whoever prints it: native code and child processes, too."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def end_output() -> None:
    """Let what is printed from now on, such as when the interpreter ends, go to standard error."""
    sys.stdout.flush()
    os.dup2(2, 1)
