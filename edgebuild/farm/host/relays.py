"""The relays of a host: a process for each lease that somebody uses from afar, as long as the lease lasts."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

from edgebuild.farm.host.outbox import Pause
from edgebuild.farm.host.running import Child

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgebuild.farm.host.orders import Farm
    from edgebuild.farm.values import Turn
    from edgebuild.fleet.inventory import DeviceEntry

MODULE = "edgebuild.farm.relay.host"


class Relays:
    """Keeps a relay for each lease. One that ended while its lease goes on is started again, later each time."""

    def __init__(self, farm: Farm, host: str, folder: Path, *, native_libraries: bool, module: str = MODULE) -> None:
        self._about = {**farm.model_dump(mode="json"), "host": host, "native_libraries": native_libraries}
        self._folder, self._module = folder, module
        self._kept: dict[str, Child | None] = {}
        self._again: dict[str, tuple[float, Pause]] = {}

    def ids(self) -> list[str]:
        """Return the leases that are relayed, or about to be again."""
        return list(self._kept)

    def keep(self, turns: Sequence[Turn], entries: Mapping[str, DeviceEntry]) -> bool:
        """Relay these leases and no others; return whether that changed any."""
        wanted = {turn.id: entries.get(turn.device) for turn in turns}
        changed = wanted.keys() != self._kept.keys()
        for lease in self._kept.keys() - wanted.keys():
            self._end(lease)
        for lease, entry in wanted.items():
            child = self._kept.setdefault(lease, None)
            if child is not None and child.ended():
                child.reap()
                self._kept[lease] = None
            if self._kept[lease] is None and entry is not None and self._due(lease):
                self._kept[lease] = self._begun(lease, entry)
        return changed

    def close(self) -> None:
        """End all of them."""
        for lease in list(self._kept):
            self._end(lease)

    def _due(self, lease: str) -> bool:
        at, pause = self._again.get(lease, (0.0, Pause()))
        if time.monotonic() < at:
            return False
        self._again[lease] = (time.monotonic() + pause.length_s(), pause)
        return True

    def _begun(self, lease: str, entry: DeviceEntry) -> Child | None:
        try:
            child = Child(self._module, self._folder)
        except OSError:
            return None
        about = {**self._about, "lease": lease, "entry": entry.model_dump(mode="json")}
        child.tell(json.dumps(about).encode() + b"\n")
        return child

    def _end(self, lease: str) -> None:
        self._again.pop(lease, None)
        child = self._kept.pop(lease)
        if child is not None:
            child.stop()
            threading.Thread(target=child.reap, daemon=True).start()
