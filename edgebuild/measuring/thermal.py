"""Heat changes rankings: before a launch, wait until the device is about as cool as it was when the session began."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: A launch starts when the hottest zone is within this of the session's idle baseline …
MARGIN_C = 3.0
#: … or when it has waited so long.
LONGEST_WAIT_S = 300.0
POLL_S = 2.0
_ZONE = "temperatures_c."


def hottest_c(probe: Mapping[str, str]) -> float | None:
    """Return the hottest zone of a flattened probe in degrees Celsius; None where no zone can be read."""
    found = []
    for name, value in probe.items():
        if name.startswith(_ZONE):
            try:
                degrees = float(value)
            except ValueError:
                continue
            found += [degrees] if math.isfinite(degrees) else []
    return max(found, default=None)


class CoolDown:
    """Waits before launches. On a device without readable zones it reads once and never waits."""

    def __init__(
        self,
        read: Callable[[], Mapping[str, str]],
        *,
        check: Callable[[], None],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._check, self._sleep, self._clock = read, check, sleep, clock
        self.baseline_c = hottest_c(read())

    def wait(self) -> bool:
        """Return True when the device is cool, False when ``LONGEST_WAIT_S`` passed without it getting there."""
        if self.baseline_c is None:
            return True
        start = self._clock()
        while True:
            now_c = hottest_c(self._read())
            if now_c is None or now_c <= self.baseline_c + MARGIN_C:
                return True
            if self._clock() - start >= LONGEST_WAIT_S:
                return False
            self._check()
            self._sleep(POLL_S)
