"""Progress with time left on a terminal; a line per finished task where output is a file."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from edgebuild.cli.output import make_console, say

if TYPE_CHECKING:
    from collections.abc import Callable

#: Work that takes less than this needs no line of its own in a log.
QUIET_BELOW_S = 2.0
#: How long the rest takes is said once so much of the work is done: before that it is mostly how long beginning took,
#: multiplied by a large number.
LEAST_SHARE = 0.05


class TerminalProgress:
    """Draws one bar per open task, with the time left, on stderr."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(),
            console=make_console(stderr=True),
            transient=True,
        )
        self._open = 0
        self._counting = threading.Lock()
        self.own = threading.local()

    def task(self, title: str, total: float | None = None) -> _TerminalTask:
        """Open a bar; ``total`` None shows activity only."""
        return _TerminalTask(self, self._progress, title, total)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(_line(text), markup=False, highlight=False, soft_wrap=True)

    def opened(self) -> None:
        """Start drawing with the first open task."""
        with self._counting:
            self._open += 1
            if self._open == 1:
                self._progress.start()

    def closed(self) -> None:
        """Stop drawing with the last."""
        with self._counting:
            self._open -= 1
            if self._open == 0:
                self._progress.stop()


class _TerminalTask:
    def __init__(self, owner: TerminalProgress, progress: Any, title: str, total: float | None) -> None:
        self._owner, self._progress, self._title, self._total = owner, progress, title, total
        self._started = time.monotonic()
        self._id: Any = None
        self._outer: _TerminalTask | None = None

    def __enter__(self) -> _TerminalTask:
        self._owner.opened()
        self._id = self._progress.add_task(self._title, total=self._total, note="")
        self._outer = getattr(self._owner.own, "innermost", None)
        self._owner.own.innermost = self
        self._show_outer(visible=False)
        return self

    def _show_outer(self, *, visible: bool) -> None:
        """A step and the work in it are one piece of work: one bar is drawn for both."""
        outer = self._outer
        if outer is not None and outer._total is None and outer._id in self._progress.task_ids:
            self._progress.update(outer._id, visible=visible)

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """See ``Task``."""
        self._progress.update(self._id, advance=amount, **({"note": note} if note else {}))

    def __exit__(self, *exc: object) -> None:
        self._progress.remove_task(self._id)
        self._owner.own.innermost = self._outer
        self._show_outer(visible=True)
        self._owner.closed()


class LogProgress:
    """One line when a task that took over two seconds ends, and one every half minute while it runs.

    Each piece of work has one such line: what is inside a task without a total (a step) is the step's, and a task that
    counts what is inside (all candidates, say) has none where those had theirs.
    """

    def __init__(self) -> None:
        self._open = threading.local()

    def task(self, title: str, total: float | None = None) -> _LogTask:
        """See ``Progress``."""
        return _LogTask(self.open_tasks, title, total)

    def open_tasks(self) -> list[_LogTask]:
        """Return the tasks of this thread that haven't ended, the innermost last."""
        tasks: list[_LogTask] = self._open.__dict__.setdefault("tasks", [])
        return tasks

    def say(self, text: str) -> None:
        """See ``Progress``."""
        say(_line(text), error=True)


class _LogTask:
    EVERY_S = 30.0

    def __init__(self, open_tasks: Callable[[], list[_LogTask]], title: str, total: float | None) -> None:
        self._tasks, self._title, self._total, self._done = open_tasks, title, total, 0.0
        self._started = self._said = time.monotonic()
        self._told = False

    def __enter__(self) -> _LogTask:
        self._tasks().append(self)
        return self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """See ``Task``."""
        self._done += amount
        now = time.monotonic()
        if now - self._said >= self.EVERY_S:
            self._said = now
            say(f"  … {self._title}{f' ({note})' if note else ''}{self._left(now - self._started)}", error=True)

    def _left(self, took_s: float) -> str:
        """About how long it still takes; nothing where that isn't known, or there is more than was planned."""
        total, done = self._total or 0.0, self._done
        if not LEAST_SHARE * total <= done < total:
            return ""
        return f", about {took_s * (total - done) / done:.0f} s left"

    def __exit__(self, *exc: object) -> None:
        took, tasks = time.monotonic() - self._started, self._tasks()
        if self in tasks:
            tasks.remove(self)
        if self._told or took < QUIET_BELOW_S or any(outer._total is None for outer in tasks):
            return
        for outer in tasks:
            outer._told = True
        say(f"  {self._title}: {'stopped after ' if any(exc) else ''}{took:.0f} s", error=True)


def _line(text: str) -> str:
    """A note as a line of its own; nothing in it can steer the terminal."""
    from edgebuild.reporting.formatting import clean

    return f"  note: {clean(text)}"


def make_progress() -> TerminalProgress | LogProgress:
    """Return bars on a terminal, lines elsewhere."""
    return TerminalProgress() if sys.stderr.isatty() else LogProgress()
