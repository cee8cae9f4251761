"""One launch whose samples are taken in bursts, when the host asks for one; in between the process is paused.

Several such processes take turns on a device, so that what they measure is paired in time: on a shared machine the
noise lies in the seconds, not in the launch.
"""

from __future__ import annotations

import time
from array import array

from . import measure
from .machine import Machine
from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields, Wire

#: The part of a burst that runs before it, untimed: caches were another process's.
SETTLE_SHARE = 0.1
END = "end"
BURST = "burst"


def bursts(request: Fields, wire: Wire) -> Fields:
    """Return the fields of a launch as ``measure`` does, and ``bursts``: the number of samples in each, in their order.

    After the warm-up it says that it is ready, and how much memory is left; each line ``burst`` is one burst of
    ``burst_s`` and at least ``burst_inferences``, told when it is over; ``end`` ends the launch.
    """
    return measure.launch(request, wire, Bursts(request))


class Bursts(measure.Mode):
    """Samples come burst by burst."""

    def __init__(self, request: Fields) -> None:
        self._seconds = float(request["burst_s"])
        self._least = int(request["burst_inferences"])
        self._most = int(request["bursts"])

    def sample(self, bench: measure.Bench, options: Fields, wire: Wire) -> measure.Sampled:
        """Take a burst whenever the host says so."""
        wire.end_turn(event="ready", available_bytes=Machine().kilobytes("proc/meminfo", "MemAvailable"))
        room = int(options["max_samples"]) // self._most
        kept, counts, busy_s = array("q"), [], 0.0
        while wire.command() == BURST:
            started = time.monotonic()
            bench.run(SETTLE_SHARE * self._seconds, 1)
            count = min(bench.run(self._seconds, self._least), room)
            busy_s += time.monotonic() - started
            kept.extend(bench.taken(count))
            counts.append(count)
            wire.end_turn(event="burst", done=count)
        if not counts:
            raise Problem("usage", "The launch was ended before its first burst.")
        bench.hold(kept)
        return measure.Sampled(len(kept), {"bursts": counts}, busy_s)
