"""A farm's board as a build's device, over as many leases as it takes: none is held while nothing is done with it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.devices.transport import MAX_FILE_BYTES
from edgebuild.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from edgebuild.core.capabilities import Capabilities
    from edgebuild.farm.relay.channel import FarmChannel
    from edgebuild.farm.relay.device import FarmDevice


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where everything lies on a board, and what it can be asked: the same under each lease."""

    root: str
    python: str
    capabilities: Capabilities


class LentBoard:
    """One physical board, lent when it is used and given back when it rests. Not to be shared between threads.

    ``lend`` returns it under a new lease once it is lent again; it may wait, and raises what stands against that. Only
    ``rest`` may be called from another thread.
    """

    detached = True
    on_host = False

    def __init__(self, first: FarmDevice, lend: Callable[[], FarmDevice]) -> None:
        self.id = first.id
        self._device: FarmDevice | None = first
        self._lend = lend
        self._place: _Place | None = None
        self._closed = False
        # Held while something is asked of the board. What runs on it afterwards keeps it too: see ``idle_s``.
        self._using = threading.Lock()

    @property
    def root(self) -> str:
        """The folder on the board. Connects the first time."""
        return self._known().root

    @property
    def python(self) -> str:
        """The board's interpreter. Connects the first time."""
        return self._known().python

    @property
    def capabilities(self) -> Capabilities:
        """What a build can ask of the board. Connects the first time."""
        return self._known().capabilities

    def regain(self) -> None:
        """Return once the board is lent."""
        with self._using:
            self._lent()

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> FarmChannel:
        """Start a program; the host allows nothing but edgebuild's runner."""
        with self._using:
            return self._lent().open(argv, env)

    def put(self, source: Path, name: str) -> str:
        """Send a file, unless it is one that the host places itself."""
        with self._using:
            return self._lent().put(source, name)

    def get(self, remote: str, destination: Path, *, most_bytes: int = MAX_FILE_BYTES) -> None:
        """Fetch a plain file."""
        with self._using:
            self._lent().get(remote, destination, most_bytes=most_bytes)

    def remove(self, remote: str) -> None:
        """Remove a file or folder under the root."""
        with self._using:
            self._lent().remove(remote)

    def rest(self, idle_s: float = 0.0) -> None:
        """Give the board back if nothing was done with it for so long; one that is lost stays lost, and says so."""
        if not self._using.acquire(blocking=False):
            return  # something is asked of it, or it is waited for
        try:
            idle = None if self._device is None else self._device.idle_s()
            if self._device is not None and idle is not None and idle >= idle_s:
                device, self._device = self._device, None
                device.close()
        finally:
            self._using.release()

    def close(self) -> None:
        """End what runs for this end there, and give the board back."""
        with self._using:
            self._closed = True
            if self._device is not None:
                self._device.close()

    def _known(self) -> _Place:
        if self._place is None:
            with self._using:
                self._place = _place_of(self._lent())
        return self._place

    def _lent(self) -> FarmDevice:
        if self._closed:
            raise DeviceError(f"{self.id} is closed.")
        if self._device is None:
            device = self._lend()
            try:
                if self._place is not None and _place_of(device) != self._place:
                    raise DeviceError(
                        f"{self.id} isn't what it was: its host was set up anew meanwhile.",
                        hint="Run the command again.",
                    )
            except BaseException:
                device.close()
                raise
            self._device = device
        return self._device


def _place_of(device: FarmDevice) -> _Place:
    return _Place(root=device.root, python=device.python, capabilities=device.capabilities)
