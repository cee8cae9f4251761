"""Turns errors into one sentence, a hint and an exit code."""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.errors import CTRL_C, EdgebuildError, EnvironmentGap, Interrupted, was_interrupted, without_passwords

if TYPE_CHECKING:
    from collections.abc import Callable
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


def run_process(load: Callable[[], Callable[..., object]]) -> int:
    """Run the command line that ``load`` imports, whatever this process's streams are; return the exit code."""
    from edgebuild.cli.streams import output_failure, protect_streams

    sys.unraisablehook = _unraisable
    # A shell that runs its jobs in the background has them ignore Ctrl-C; that stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    protect_streams()
    try:
        code = run(load())
    except KeyboardInterrupt:
        code = _interrupted()
    # From here on a second Ctrl-C just ends the process, and one that was put off is past.
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    reason = output_failure()
    if reason:
        say_error(f"The output can't be written: {reason}.", "Send it elsewhere.")
    return code or (EnvironmentGap.exit_code if reason else 0)


def run(app: Callable[..., object]) -> int:
    """Run a typer app; return the exit code. Only an error that nobody foresaw leaves a traceback."""
    import typer

    try:
        Path.cwd()
    except OSError:
        say_error("The working directory doesn't exist any more.", "Change into one that does.")
        return USAGE
    try:
        result = app(standalone_mode=False)
    except EdgebuildError as error:
        if was_interrupted(error) and not isinstance(error, Interrupted):
            return _interrupted()
        say_error(error.message, error.hint)
        return error.exit_code
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:  # noqa: BLE001 - the last resort, where our bugs end
        return _unforeseen(error)
    # Depending on its version typer makes this of a Ctrl-C, and says nothing.
    if result == INTERRUPTED:
        return _interrupted()
    return result if isinstance(result, int) else 0


def _unforeseen(error: Exception) -> int:
    """Say what the command line, the system or a bug raised."""
    if was_interrupted(error):
        return _interrupted()
    # Depending on its version typer raises click's usage errors or those of its own copy of click.
    format_message = getattr(error, "format_message", None)
    if format_message is not None and type(error).__name__ == "NoArgsIsHelpError":
        print(format_message().rstrip(), file=sys.stderr)
        return USAGE
    if format_message is not None:
        say_error(format_message(), "`edgebuild --help` lists commands and options.")
        return USAGE
    if isinstance(error, MemoryError):
        say_error("There is too little memory on this machine.", "Close other programs, or take a larger machine.")
        return EnvironmentGap.exit_code
    if isinstance(error, OSError) and error.errno in BAD_PATH | BAD_MACHINE:
        place = f"{error.filename}: " if error.filename else ""
        say_error(f"{place}{error.strerror}.", "Check the path, its permissions and the disk.")
        return USAGE if error.errno in BAD_PATH else EnvironmentGap.exit_code
    from edgebuild.execution.faults import plugin_failure

    foreign = plugin_failure(error)
    if foreign is not None:
        say_error(foreign.message, foreign.hint)
        return foreign.exit_code
    import traceback

    print(_shown("".join(traceback.format_exception(error))).rstrip(), file=sys.stderr)
    say_error("This is a bug in edgebuild; the traceback above is what its developers need.", "")
    return BUG


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


def _interrupted() -> int:
    say_error(STOPPED, AGAIN)
    return INTERRUPTED


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
