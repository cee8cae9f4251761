"""Turns errors into one sentence, a hint and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from edgebuild.errors import EdgebuildError

if TYPE_CHECKING:
    from collections.abc import Callable

#: What a shell expects of a program that Ctrl-C ended.
INTERRUPTED = 130
#: A traceback is for our own bugs only.
BUG = 1
USAGE = 2


def run(app: Callable[..., object]) -> int:
    """Run a typer app; return the exit code. Only an error that nobody foresaw leaves a traceback."""
    import typer

    try:
        result = app(standalone_mode=False)
    except EdgebuildError as error:
        say_error(error.message, error.hint)
        return error.exit_code
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort, where our bugs end
        # Depending on its version typer raises click's usage errors or those of its own copy of click.
        told = getattr(error, "format_message", None)
        if told is not None and type(error).__name__ == "NoArgsIsHelpError":
            print(told().rstrip(), file=sys.stderr)
            return USAGE
        if told is not None:
            say_error(told(), "`edgebuild --help` lists commands and options.")
            return USAGE
        import traceback

        traceback.print_exc()
        say_error("This is a bug in edgebuild; the traceback above is what its developers need.", "")
        return BUG
    # Depending on its version typer makes this of a Ctrl-C, and says nothing.
    if result == INTERRUPTED:
        return _interrupted()
    return result if isinstance(result, int) else 0


def _interrupted() -> int:
    say_error("Interrupted; what was finished is kept.", "Run the same command again to go on.")
    return INTERRUPTED


def say_error(message: str, hint: str) -> None:
    """Print one error to stderr, plainly: it is read in CI logs as often as on terminals."""
    print(f"edgebuild: {message}", file=sys.stderr)
    if hint:
        print(f"  how to fix it: {hint}", file=sys.stderr)
