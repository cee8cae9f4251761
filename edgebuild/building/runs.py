"""A build that was stopped and goes on is one build: what its earlier runs took counts in its record.

``<home>/unfinished.json`` holds what was asked for, and each run that didn't come to a record: its seconds and peak
memory. It is kept while a run works, so that even a kill loses little of it; a build that comes to its end removes it.
"""

from __future__ import annotations

import json
import resource
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgebuild.core.values import canonical_json, digest_json
from edgebuild.measuring.session_folder import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgebuild.building.context import Options
    from edgebuild.catalogue.project import Project

NAME = "unfinished.json"
#: While steps run their time is written down this often at most.
EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Total:
    """All runs of a build: how many, their seconds, and the highest peak memory of the host's process."""

    runs: int
    seconds: float
    peak_bytes: int


@dataclass
class Runs:
    """The runs of one build, this one among them. Nothing is kept, and nothing found, without a folder."""

    home: Path | None = None
    asked: str = ""
    started_s: float = field(default_factory=time.monotonic)
    clock: Callable[[], float] = time.monotonic
    earlier: tuple[Total, ...] = ()
    _kept_s: float = 0.0

    def total(self) -> Total:
        """Return what all runs took until now."""
        every = (*self.earlier, self._own())
        return Total(
            runs=len(every),
            seconds=sum(each.seconds for each in every),
            peak_bytes=max(each.peak_bytes for each in every),
        )

    def keep(self, *, now: bool = False) -> None:
        """Write down what this run took, if it wasn't just now; a full disk is for others to report."""
        moment = self.clock()
        if self.home is None or (moment - self._kept_s < EVERY_S and not now):
            return
        self._kept_s = moment
        runs = [{"seconds": each.seconds, "peak_bytes": each.peak_bytes} for each in (*self.earlier, self._own())]
        with suppress(OSError):
            write_atomic(self.home / NAME, canonical_json({"asked": self.asked, "runs": runs}))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Keep what this run took where it is stopped or fails; forget all runs where it comes to its end."""
        try:
            yield
        except BaseException:
            self.keep(now=True)
            raise
        self.finish()

    def finish(self) -> None:
        """Forget them: the build has its record."""
        if self.home is not None:
            with suppress(OSError):
                (self.home / NAME).unlink(missing_ok=True)
            self.home = None

    def _own(self) -> Total:
        return Total(runs=1, seconds=self.clock() - self.started_s, peak_bytes=peak_bytes())


def resumed(home: Path, asked: str, started_s: float) -> Runs:
    """Return the runs of the build that ``asked`` stands for, the earlier ones of it as they are on disk."""
    earlier: tuple[Total, ...] = ()
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        found = json.loads((home / NAME).read_bytes())
        if found["asked"] == asked:
            runs = ((float(each["seconds"]), int(each["peak_bytes"])) for each in found["runs"])
            earlier = tuple(Total(runs=1, seconds=s, peak_bytes=b) for s, b in runs if s >= 0 and b >= 0)
    return Runs(home=home, asked=asked, started_s=started_s, earlier=earlier)


def asked_for(project: Project, options: Options) -> str:
    """Return what stands for a build: its project, and what the user asked for besides how long it may take."""
    asked = [options.targets, options.budget, options.recipes, options.device, options.no_measure]
    return digest_json([project.model_dump(mode="json"), repr(asked)])


def peak_bytes() -> int:
    """The host process's own peak; on Linux ru_maxrss of *self* is only wrong right after an exec from a bigger one."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
