"""What the library says while it works: kept for build.log, and passed on as progress, not too often."""

from __future__ import annotations

import time

from .cuda import no_driver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    Tell = Callable[[str, float, Optional[float]], None]

LOG_LINES = 20000
#: Least interval between progress updates.
TELL_S = 0.5
PHASE_CHARACTERS = 120


def silent(phase: str, done: float, total: Optional[float]) -> None:
    """Tell nobody."""


class Log:
    """Keeps what the library says. ``tell`` receives progress: by phases, or by lines where there are no phases."""

    def __init__(self, tell: Tell = silent) -> None:
        self.lines: List[str] = []
        self.errors: List[str] = []
        self.by_phases = False
        self._tell = tell
        self._next = 0.0

    def add(self, severity: Any, message: str) -> None:
        """Keep one line."""
        name = str(severity).rpartition(".")[2]
        if len(self.lines) < LOG_LINES:
            self.lines.append("%s %s" % (name, message))
        if name in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message)
        if not self.by_phases:
            self.tell(message, len(self.lines), None)

    def tell(self, phase: str, done: float, total: Optional[float]) -> None:
        """Pass progress on, unless it was passed just now."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + TELL_S
            self._tell(phase.strip()[:PHASE_CHARACTERS], done, total)

    def said(self) -> str:
        """Return the last errors in one line."""
        return "; ".join(line.strip()[:400] for line in self.errors[-3:]) or "it doesn't say why"


def logger(log: Log) -> Any:
    """Return the library's own kind of logger, which writes into ``log``."""
    import tensorrt as trt

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(severity, message)

    return Logger()


def monitor(log: Log) -> Any:
    """Return a progress monitor that tells ``log`` of each phase, or None where the library has none (8.5)."""
    import tensorrt as trt

    if not hasattr(trt, "IProgressMonitor"):
        return None
    steps: Dict[str, int] = {}
    log.by_phases = True

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:  # noqa: ARG002
            steps[phase_name] = num_steps
            log.tell(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            log.tell(phase_name, step + 1, steps.get(phase_name))
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            steps.pop(phase_name, None)

    return Monitor()


def made(kind: Any, log: Log) -> Any:
    """Return a ``Builder`` or ``Runtime``; raises ``Problem`` where the library makes none, for lack of a driver.

    The bindings raise ``TypeError`` then ("factory function returned nullptr"): seen with 8.5.2.
    """
    try:
        found = kind(logger(log))
    except TypeError as error:
        raise no_driver() from error
    if found is None:
        raise no_driver()
    return found
