"""Prints for people and programs, and goes on where nobody reads: what was done counts, not what was said of it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import Any, Sequence


def hold_streams() -> None:
    """Have the three standard streams be open, if to nowhere: no other file may get the handle of one."""
    handle = os.open(os.devnull, os.O_RDWR)
    while handle <= 2:
        handle = os.open(os.devnull, os.O_RDWR)
    os.close(handle)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def print_lines(lines: Sequence[str], out: Any) -> None:
    """Print lines, each of them harmless, where they can be printed."""
    write("".join(harmless(line, out.encoding or "ascii") + "\n" for line in lines), out)


def write(text: str, out: Any) -> None:
    """Write to a stream; one that is closed, full or cut takes no more, and nothing fails."""
    try:
        out.write(text)
        out.flush()
    except (OSError, ValueError):
        # Else Python would fail at its end over what is left in the buffer.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, out.fileno())
            os.close(nowhere)


class Parser(argparse.ArgumentParser):
    """Reads a command line, and ends as it should wherever its help and its complaints go."""

    def _print_message(self, message: str, file: Any = None) -> None:
        write(message or "", file or sys.stderr)


def harmless(line: str, encoding: str) -> str:
    """Return a line that can be printed there, and in which nothing moves the cursor."""
    return "".join(c if c.isprintable() else "?" for c in line).encode(encoding, "replace").decode(encoding)
