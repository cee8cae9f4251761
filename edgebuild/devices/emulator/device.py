"""The emulated board as a device: files and processes of this machine, whose Python is a program for another CPU."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from edgebuild.core.capabilities import EMULATED
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.transport import MAX_FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgebuild.devices.emulator.setup import Emulator
    from edgebuild.devices.local import ProcessChannel


class EmulatedDevice:
    """A board of ``core`` under QEMU. What runs on it computes as it does there; how long it takes says nothing.

    ``counting`` devices run every program under the plugin that counts instructions (see ``Emulator.plugin``).
    """

    capabilities = EMULATED
    detached = True
    on_host = True

    def __init__(self, name: str, emulator: Emulator, core: str, root: Path, *, counting: bool = False) -> None:
        self._emulator = emulator
        self._core = core
        self._folder = root
        #: Where the plugin writes what it counted, below the root; no two of these devices share it.
        self.counts = f"counts-{uuid.uuid4().hex}.json"
        self._environment: dict[str, str] = {}
        self._local = LocalDevice(root, str(emulator.python(core)), name=f"{name} (emulated {core})")
        if counting:
            self._environment = {
                # QEMU's options are separated by commas; two are one that isn't meant so.
                "QEMU_PLUGIN": f"file={str(emulator.plugin).replace(',', ',,')}",
                "EDGEBUILD_COUNTS": f"{self._local.root}/{self.counts}",
            }

    @property
    def id(self) -> str:
        """The name, with the core and that it is emulated."""
        return self._local.id

    @property
    def root(self) -> str:
        """The folder on this machine that stands for the board's disk."""
        return self._local.root

    @property
    def python(self) -> str:
        """The interpreter: a script that starts aarch64 Python under QEMU."""
        return self._local.python

    @property
    def why_no_counts(self) -> str:
        """Why instructions can't be counted here; empty where they can."""
        return self._emulator.why_no_counts

    def counting(self) -> EmulatedDevice:
        """Return the same board with the plugin that counts instructions."""
        name = self.id.removesuffix(f" (emulated {self._core})")
        return EmulatedDevice(name, self._emulator, self._core, self._folder, counting=True)

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> ProcessChannel:
        """See ``Device``."""
        return self._local.open(argv, {**self._environment, **env})

    def put(self, source: Path, name: str) -> str:
        """See ``Device``."""
        return self._local.put(source, name)

    def get(self, remote: str, destination: Path, *, most_bytes: int = MAX_FILE_BYTES) -> None:
        """See ``Device``."""
        self._local.get(remote, destination, most_bytes=most_bytes)

    def remove(self, remote: str) -> None:
        """See ``Device``."""
        self._local.remove(remote)

    def close(self) -> None:
        """See ``Device``."""
        self._local.close()
