"""What a device is to edgebuild: a place to put files and start a program, over lines of text.

A transport knows no model and no clock. A new one (SSH, an emulator) is one file with these two protocols, and passes
``edgebuild.testing.devices.check_device``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgebuild.core.capabilities import Capabilities

#: A longer line from a device is an attack or a bug, not a result.
MAX_LINE_BYTES = 4 << 20
#: What a device may send as one file.
MAX_FILE_BYTES = 8 << 30


@runtime_checkable
class Channel(Protocol):
    """One running program on a device."""

    def send(self, line: str) -> None:
        """Write one line to its input; raises ``DeviceError`` when it no longer reads."""
        ...

    def receive(self, timeout_s: float) -> str | None:
        """Return its next line of output, or ``None`` once the output has ended.

        Raises ``TimeoutError`` when no line came in time, ``DeviceError`` for a line over ``MAX_LINE_BYTES``.
        """
        ...

    def wait(self, timeout_s: float) -> int:
        """Return its exit status, minus the signal number if one ended it; raises ``TimeoutError`` in time."""
        ...

    def kill(self) -> None:
        """End it and everything it started, and give back what the channel holds. Never raises; may be called twice."""
        ...

    def stderr_tail(self) -> str:
        """Return the end of what it wrote to its error output."""
        ...


@runtime_checkable
class CountsInstructions(Protocol):
    """A device that can say how many instructions a program executes."""

    @property
    def why_no_counts(self) -> str:
        """Why instructions can't be counted here; empty where they can."""
        ...

    def counting(self) -> CountingDevice:
        """Return the same device, counting: every program on it is counted, and slower."""
        ...


@runtime_checkable
class Shared(Protocol):
    """A device that others have while nothing is done with it here."""

    def regain(self) -> None:
        """Return once it is this end's again: what follows doesn't wait for it. May raise as any use of it does."""
        ...


@runtime_checkable
class Device(Protocol):
    """One physical machine. Paths on it are plain strings; everything edgebuild writes lies under ``root``."""

    @property
    def id(self) -> str:
        """A name that tells this machine from every other."""
        ...

    @property
    def root(self) -> str:
        """The folder on the device that edgebuild may fill."""
        ...

    @property
    def python(self) -> str:
        """The interpreter on the device, 3.8 or later."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What a build can ask of it."""
        ...

    @property
    def detached(self) -> bool:
        """Whether a program there may outlive its connection, so that it wants to hear that the host is still there."""
        ...

    @property
    def on_host(self) -> bool:
        """Whether programs run on this machine's own cores, and take turns with what is measured there."""
        ...

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> Channel:
        """Start a program, ``env`` added to its environment; it gets no shell and no terminal."""
        ...

    def put(self, source: Path, name: str) -> str:
        """Place a file at ``name`` under the root, whole or not at all, and return its path on the device.

        ``name`` is content-addressed: a file that already lies there with the same size is not moved again.
        """
        ...

    def get(self, remote: str, destination: Path, *, most_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a plain file of the device to ``destination``, whole or not at all.

        Raises ``DeviceError`` for a link, a pipe, a folder, and what holds more than ``most_bytes``.
        """
        ...

    def remove(self, remote: str) -> None:
        """Remove a file or folder under the root; nothing there is fine."""
        ...

    def close(self) -> None:
        """Give back what the device holds (a connection, say); may be called twice. It can't be used any more."""
        ...


class CountingDevice(Device, Protocol):
    """A device under whose root ``counts`` is where the instructions of its programs are written."""

    @property
    def counts(self) -> str:
        """The file's name; no two of these devices share it."""
        ...
