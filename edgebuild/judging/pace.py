"""How much work an interval may be: draws are timed, reported and can be stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgebuild.core.steps import NoProgress, never_stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.core.steps import Progress

#: Draws where all that a percentile interval wants don't fit: few steps, so that small differences in time rarely
#: change how many there are.
FEW_DRAWS = (200, 100, 50, 20)
#: So many are made, however long each takes.
LEAST_DRAWS = 10


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The draws of a judgement take about ``box_s``, unless 10 of them take longer.

    ``progress`` is told of each, ``check`` is called before it and may raise to stop. Code of a project's, which may
    wait for anything, is timed by ``clock``; what is only computed here by ``computing``, so that a busy machine makes
    no other draws than a quiet one.
    """

    box_s: float = 4.0
    progress: Progress = field(default_factory=NoProgress)
    check: Callable[[], None] = never_stop
    clock: Callable[[], float] = time.perf_counter
    computing: Callable[[], float] = time.thread_time

    def fitting(self, wanted: int, draw_s: float) -> int:
        """Return how many draws of ``draw_s`` each fit: ``wanted``, or one of few numbers below it."""
        return next((n for n in (wanted, *FEW_DRAWS) if n <= wanted and n * draw_s <= self.box_s), LEAST_DRAWS)

    def too_slow(self, draw_s: float) -> bool:
        """Whether not even the fewest draws of ``draw_s`` each fit."""
        return LEAST_DRAWS * draw_s > self.box_s

    def shared(self, parts: int) -> Pace:
        """Return the pace of one of so many parts of the work, which reports nothing itself."""
        return replace(self, box_s=self.box_s / parts, progress=NoProgress())
