"""Where devices come from, and the one way in which they are reached: the runner on them, and asked what they are."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.probe import read_probe
from edgebuild.fleet.connect import connect
from edgebuild.fleet.inventory import load_inventory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edgebuild.backends.protocol import Backend
    from edgebuild.devices.transport import Device
    from edgebuild.fleet.inventory import DeviceEntry


class DeviceProvider(Protocol):
    """Knows devices and how to reach them."""

    def entries(self) -> Mapping[str, DeviceEntry]:
        """Return every device by name."""
        ...

    def connect(self, entry: DeviceEntry) -> Device:
        """Return the device; it connects when it is first used. Raises ``EnvironmentGap`` without what it needs."""
        ...


class InventoryProvider:
    """The devices of the user's inventory."""

    def entries(self) -> Mapping[str, DeviceEntry]:
        """See ``DeviceProvider``."""
        return load_inventory()

    def connect(self, entry: DeviceEntry) -> Device:
        """See ``DeviceProvider``."""
        return connect(entry)


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A device with the runner of every backend on it, and what it said that it is."""

    client: RunnerClient
    probe: Mapping[str, str]


@contextlib.contextmanager
def attached(device: Device, backends: Mapping[str, Backend], *, native_libraries: bool = False) -> Iterator[Attached]:
    """Put the runner on a device and ask it what it is; closes it at the end. Raises ``DeviceError``."""
    with contextlib.closing(device):
        files = {name: backend.device_file for name, backend in backends.items()}
        client = RunnerClient(device, files, native_libraries=native_libraries)
        yield Attached(client=client, probe=read_probe(client))


def probe_here(backends: Mapping[str, Backend]) -> Mapping[str, str]:
    """Return what this machine is, leaving nothing behind."""
    with (
        tempfile.TemporaryDirectory(prefix="edgebuild-probe-") as scratch,
        attached(LocalDevice(Path(scratch)), backends) as here,
    ):
        return here.probe
