"""Turns errors into one sentence, a hint and an exit code; with --json into an object on standard output, too."""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgebuild.cli.answering import plain_data, wants_json
from edgebuild.cli.output import say_json
from edgebuild.errors import (
    CTRL_C,
    EdgebuildError,
    EnvironmentGap,
    Interrupted,
    UsageError,
    was_interrupted,
    without_passwords,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

#: What a shell expects of a program that Ctrl-C ended.
INTERRUPTED = 130
STOPPED = "Interrupted; what was finished is kept."
AGAIN = "Run the same command again to go on."
#: Where packages are installed, and how soon it is looked again whether one is still being imported.
INSTALLED = frozenset({"site-packages", "dist-packages"})
LOOK_AGAIN_S = 0.05
#: A traceback is for our own bugs only.
BUG = 1
USAGE = 2
#: No line of an error is longer.
MAX_LINE = 1_000
#: What the system says of a path that makes no sense, and of a machine that can't do what was asked.
BAD_PATH = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR})
BAD_MACHINE = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
    }
)


class _Failure(NamedTuple):
    """How a command failed; see ``failed.Problem``."""

    kind: str
    message: str
    hint: str
    exit_code: int


_INTERRUPTED = _Failure("Interrupted", STOPPED, AGAIN, INTERRUPTED)


def run_process(load: Callable[[], Callable[..., object]]) -> int:
    """Run the command line that ``load`` imports, whatever this process's streams are; return the exit code."""
    from edgebuild.cli.streams import end_output, output_failure, protect_streams

    sys.unraisablehook = _unraisable
    # A shell that runs its jobs in the background has them ignore Ctrl-C; that stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    protect_streams()
    try:
        code = run(load())
    except KeyboardInterrupt:
        code = _say(_INTERRUPTED, sys.argv[1:])
    # From here on a second Ctrl-C just ends the process, and one that was put off is past.
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    reason = output_failure()
    if reason:
        say_error(f"The output can't be written: {reason}.", "Send it elsewhere.")
    if wants_json(sys.argv[1:]):
        end_output()
    return code or (EnvironmentGap.exit_code if reason else 0)


def run(app: Callable[..., object], arguments: Sequence[str] | None = None) -> int:
    """Run a typer app, on this process's arguments unless others are given; return the exit code.

    Only an error that nobody foresaw leaves a traceback.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    ended = _ended(app, words)
    return ended if isinstance(ended, int) else _say(ended, words)


def _ended(app: Callable[..., object], words: list[str]) -> int | _Failure:
    import typer

    try:
        Path.cwd()
    except OSError:
        return _usage("The working directory doesn't exist any more.", "Change into one that does.")
    try:
        result = app(args=words, standalone_mode=False)
    except EdgebuildError as error:
        if was_interrupted(error) and not isinstance(error, Interrupted):
            return _INTERRUPTED
        return _failure(error)
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort, where our bugs end
        return _unforeseen(error)
    # Depending on its version typer makes this of a Ctrl-C, and says nothing.
    if result == INTERRUPTED:
        return _INTERRUPTED
    return result if isinstance(result, int) else 0


def _say(failure: _Failure, words: Sequence[str]) -> int:
    """Say how a command failed; return its exit code."""
    say_error(failure.message, failure.hint)
    if wants_json(words):
        from edgebuild.cli.failed import Failed, Problem

        say_json(plain_data(Failed(error=Problem(**failure._asdict()))))
    return failure.exit_code


def _failure(error: EdgebuildError) -> _Failure:
    return _Failure(type(error).__name__, error.message, error.hint, error.exit_code)


def _usage(message: str, hint: str) -> _Failure:
    return _failure(UsageError(message, hint=hint))


def _unforeseen(error: Exception) -> int | _Failure:
    """Return what became of a command that the command line, the system or a bug ended."""
    if was_interrupted(error):
        return _INTERRUPTED
    # Depending on its version typer raises click's usage errors or those of its own copy of click.
    format_message = getattr(error, "format_message", None)
    if format_message is not None and type(error).__name__ == "NoArgsIsHelpError":
        print(format_message().rstrip(), file=sys.stderr)
        return USAGE
    if format_message is not None:
        return _usage(format_message(), "`edgebuild --help` lists commands and options.")
    if isinstance(error, MemoryError):
        advice = "Close other programs, or take a larger machine."
        return _failure(EnvironmentGap("There is too little memory on this machine.", hint=advice))
    if isinstance(error, OSError) and error.errno in BAD_PATH | BAD_MACHINE:
        place = f"{error.filename}: " if error.filename else ""
        kind = UsageError if error.errno in BAD_PATH else EnvironmentGap
        return _failure(kind(f"{place}{error.strerror}.", hint="Check the path, its permissions and the disk."))
    from edgebuild.execution.faults import plugin_failure

    foreign = plugin_failure(error)
    if foreign is not None:
        return _failure(foreign)
    import traceback

    print(_shown("".join(traceback.format_exception(error))).rstrip(), file=sys.stderr)
    return _Failure("Bug", "This is a bug in edgebuild; the traceback above is what its developers need.", "", BUG)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal that ends the command: raise ``KeyboardInterrupt``, and remember it, whatever becomes of it.

    Not in the midst of importing an installed package: native code that imports modules of its own (torch's does) ends
    the process where one of them raises. It is raised when the import is done; a second signal doesn't wait for that.
    """
    asked_again = CTRL_C.is_set() and number != signal.SIGALRM
    CTRL_C.set()
    if _importing_installed(frame) and not asked_again:
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, LOOK_AGAIN_S)
        return
    raise KeyboardInterrupt


def _importing_installed(frame: FrameType | None) -> bool:
    """Whether what runs is Python's import system, or the top level of an installed module with all that it calls."""
    module = ""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return not module or not INSTALLED.isdisjoint(Path(module).parts)
        module = frame.f_code.co_filename
        frame = frame.f_back
    return False


def stop_if_interrupted() -> None:
    """Raise ``Interrupted`` after a Ctrl-C that the user's code or a library swallowed."""
    if CTRL_C.is_set():
        raise Interrupted(STOPPED, hint=AGAIN)


def _unraisable(problem: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that came while a destructor ran is raised again, where it can be; it would be lost with a traceback."""
    if isinstance(problem.exc_value, KeyboardInterrupt):
        if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:  # else the process is at its end already
            signal.raise_signal(signal.SIGINT)
    else:
        sys.__unraisablehook__(problem)


def say_error(message: str, hint: str) -> None:
    """Print one error to stderr, plainly: it is read in CI logs as often as on terminals."""
    print(f"edgebuild: {_shown(message)}", file=sys.stderr)
    if hint:
        print(f"  how to fix it: {_shown(hint)}", file=sys.stderr)


def _shown(text: str) -> str:
    """Return a text with no line longer than anybody reads, no password, and no character that a terminal obeys."""
    lines = [line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…" for line in without_passwords(text).split("\n")]
    return "\n".join("".join(c if c.isprintable() else _escaped(c) for c in line) for line in lines)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
