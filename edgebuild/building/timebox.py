"""The time box of a build while it runs: what is left of it, and work that is stopped before it eats up the rest."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgebuild.core.steps import never_stop
from edgebuild.errors import OutOfTime
from edgebuild.planning.account import left_out
from edgebuild.planning.inputs import UnitCosts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgebuild.building.context import BuildContext


#: A build that is late already, its box being too small for it, still waits for so much of the box.
LATE_SHARE = 0.05


class Limits:
    """``check`` of work that has a limit: raises what the caller's own does, and ``OutOfTime`` past the limit.

    Every thread has limits of its own. The clock counts seconds.
    """

    def __init__(self, check: Callable[[], None] = never_stop, clock: Callable[[], float] = time.monotonic) -> None:
        self._check, self.clock = check, clock
        self._own = threading.local()

    def __call__(self) -> None:
        """Raise where the work must stop."""
        self._check()
        if self.clock() > getattr(self._own, "until_s", float("inf")):
            raise OutOfTime("stopped to stay inside the time asked for: what is left of it is for measuring")

    @contextmanager
    def until(self, moment_s: float) -> Iterator[None]:
        """Limit what this thread does inside; an outer limit that comes earlier holds on."""
        outer = getattr(self._own, "until_s", float("inf"))
        self._own.until_s = min(outer, moment_s)
        try:
            yield
        finally:
            self._own.until_s = outer


@dataclass(frozen=True, kw_only=True)
class TimeBox:
    """The ``asked_s`` that a build may take, for one target until ``deadline_s`` of the clock and from ``begins_s`` on.

    ``unit`` is what work costs, as far as it is known by now. ``reserved_s`` is for what must follow the work at hand.
    """

    asked_s: float
    deadline_s: float
    begins_s: float
    unit: UnitCosts = field(default_factory=UnitCosts)
    reserved_s: float = 0.0
    clock: Callable[[], float] = field(default=time.monotonic)

    @property
    def until_s(self) -> float:
        """The moment by which the work at hand must have ended."""
        return self.deadline_s - self.reserved_s

    @property
    def left_s(self) -> float:
        """What is left for the work at hand; negative where it is late already."""
        return self.until_s - self.clock()

    def why_not(self, seconds: float) -> str | None:
        """Return why work of so many seconds is left out, or None where it fits."""
        return None if seconds <= self.left_s else left_out(self.asked_s, seconds, self.left_s)


def box_of(time_s: float | None, started_s: float) -> TimeBox | None:
    """Return the time box of a build that began at a moment of the clock; None where none was asked for."""
    if time_s is None:
        return None
    return TimeBox(asked_s=time_s, begins_s=started_s, deadline_s=started_s + time_s)


def wait_until(box: TimeBox | None, needed_s: float = 0.0) -> float:
    """Return the moment until which another build is waited for: so much must be left of the box then.

    Whoever asks for four minutes has an answer after four, also where others measure: a build that was kept waiting
    ends there, and goes on when it is asked for again. One that is late anyway still waits for a moment.
    """
    return float("inf") if box is None else max(box.until_s - needed_s, box.clock() + LATE_SHARE * box.asked_s)


def shared(contexts: Sequence[BuildContext]) -> tuple[BuildContext, ...]:
    """Divide what is left of the time box evenly among targets, one after the other."""
    boxed = []
    for number, context in enumerate(contexts):
        box = context.box
        if box is not None:
            now = box.clock()
            share = max(box.deadline_s - now, 0.0) / len(contexts)
            ends = now + share * (number + 1) if number + 1 < len(contexts) else box.deadline_s
            box = replace(box, begins_s=now + share * number, deadline_s=ends)
        boxed.append(replace(context, box=box))
    return tuple(boxed)
