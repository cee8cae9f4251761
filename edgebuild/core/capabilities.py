"""What a build can ask of a target's device, and so what it can prove there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.values import Value
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.core.objective import Objective

#: The reading of a device that is emulated; others don't have it. What it is emulated as, is its ``cpu``.
EMULATED_FACT = "emulated"


class Capabilities(Value):
    """``runs``: artifacts run there, and what they answer counts. ``times``: so do their latency and memory.

    ``why`` says why what can't be asked is unknown. Work may take ``patience`` times as long as on a board. ``facts``
    are readings that only such a device has.
    """

    runs: bool = True
    times: bool = True
    why: str = "not measured"
    patience: float = 1.0
    facts: tuple[tuple[str, str], ...] = ()

    def decides(self, objective: Objective) -> bool:
        """Whether it can be said which candidate is the best; the size of files needs no device."""
        return self.times or objective.in_files

    @property
    def untimed(self) -> str:
        """Why nothing is timed there; empty where it is."""
        return "" if self.times else self.why

    def require_clock(self, device: str) -> None:
        """Raise ``EnvironmentGap`` where no time, memory or energy that the device shows is a board's."""
        if not self.times:
            raise EnvironmentGap(
                f"Nothing is timed on {device}: {self.why}.",
                hint="Measure on a board: `edgebuild device add NAME --target T --ssh user@host`.",
            )


#: A board, or this machine.
BOARD = Capabilities()
#: Right results on an emulated CPU; how long they take, and the memory, are the emulator's.
EMULATED = Capabilities(
    times=False,
    why="the device is emulated, which says nothing about a board's speed or memory: certify on a board",
    # fp32 kernels take 90 to 190 times as long, of which the limits of a real board already allow for a part.
    patience=20.0,
    facts=((EMULATED_FACT, "yes"),),
)
#: No device at all: what a host can compile is compiled.
COMPILE_ONLY = Capabilities(
    runs=False,
    times=False,
    why="compiled only (--no-measure): neither its accuracy nor its latency was measured on the target",
)


def capabilities_of(facts: Mapping[str, str]) -> Capabilities:
    """Return what can be asked of a device that said this of itself when it was enrolled."""
    return EMULATED if EMULATED_FACT in facts else BOARD
