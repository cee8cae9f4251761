"""What the agent and the process of one job say to each other, a line of JSON each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from edgebuild.farm.values import Finished, Job, JobEnd, Message
from edgebuild.fleet.inventory import DeviceEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.farm.client import FarmAddress

#: A line may hold a job with all of its arguments, or a result with its layers.
MOST_LINE_BYTES = 64 << 20
#: What the agent says to a job that is to make room; it ends at the next moment at which it can.
MAKE_ROOM = b"make room\n"


class Farm(Message):
    """Where the farm is, for a process that is told so on its standard input."""

    url: str
    token: str = Field(repr=False)
    authority: str = ""

    def address(self) -> FarmAddress:
        """Return it as a client takes it."""
        from edgebuild.farm.client import FarmAddress

        return FarmAddress(url=self.url, token=self.token, authority=self.authority)


class Order(Message):
    """A job for one process. ``folder`` is its own: scratch, and ``blobs`` for files that are to be sent to the farm.

    ``native_libraries`` says that this host's owner lets artifacts bring native code.
    """

    job: Job
    entry: DeviceEntry
    farm: Farm
    folder: Path
    native_libraries: bool = False


class Word(Message):
    """What a job's process says: lines for the log, and at its end how it ended or that it made room."""

    log: tuple[str, ...] = ()
    finished: Finished | None = None
    made_room: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job."""

    how: JobEnd = JobEnd.SUCCEEDED
    reason: str = ""
    result: dict[str, Any] | None = None
    readings: dict[str, Any] | None = None
    anchor_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What the work of a job stands on. ``check`` raises when it is to end, ``say`` writes to the job's log."""

    order: Order
    check: Callable[[], None]
    say: Callable[[str], None]

    @property
    def blobs(self) -> Path:
        """Where files lie that the agent sends to the farm before the result: each under its digest."""
        return self.order.folder / "blobs"

    @property
    def scratch(self) -> Path:
        """Where the job may write what it likes."""
        return self.order.folder / "scratch"


class Parcel(Message):
    """The last word on a turn of a device, kept until the farm heard it; without ``finished`` it made room."""

    job: str
    token: int
    finished: Finished | None = None
