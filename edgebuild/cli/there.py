"""What a device is asked to do with a release by itself, and what it says of that."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field, ValidationError

from edgebuild.cli.answering import Answer
from edgebuild.cli.console import stop_if_interrupted
from edgebuild.cli.output import say
from edgebuild.core.values import Value
from edgebuild.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgebuild.devices.client import RunnerClient
    from edgebuild.releasing.on_device import BoardAnswer
    from edgebuild.releasing.trust import Policy


class _Said(Value):
    """Of what a device says only what is known is taken."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class ReleaseThere(_Said):
    """A release on a device; ``damaged`` is why nothing else can be said of it."""

    slot: str = ""
    project: str = ""
    version: str = ""
    target: str = ""
    damaged: str = ""


class Answers(_Said):
    """How many of the golden frames were answered, and how far off at most, as a share of what may be."""

    frames: int
    excess: float


class LatencyThere(_Said):
    """What one call takes there, what was recorded, in ms, and whether the one is inside the other."""

    found_ms: float
    low_ms: float
    high_ms: float
    inside: bool


class DeviceReport(_Said):
    """What a device says of a release that it checks or has: ``message`` and ``hint`` where it refuses.

    ``slot`` is the folder of the current release, ``current`` and ``previous`` are told of what is installed.
    """

    project: str = ""
    version: str = ""
    target: str = ""
    release_digest: str = Field(default="", validation_alias="digest")
    answers: Answers | None = None
    latency: LatencyThere | None = None
    slot: str = ""
    current: ReleaseThere | None = None
    previous: ReleaseThere | None = None
    damaged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    message: str = ""
    hint: str = ""


class OnDevice(Value):
    """What a device's own check of a release came to: its exit code is the command's. ``lines`` say it to people."""

    device: str
    exit_code: int
    report: DeviceReport
    lines: tuple[str, ...]


def run_there(
    command: str,
    *,
    device: str | None,
    bundle: Path | None = None,
    root: str | None = None,
    project: str = "",
    trust: Policy | None = None,
    arguments: Sequence[str] = (),
) -> OnDevice:
    """Have a device (this machine without a name) check, install or roll back by itself; return what it says."""
    from edgebuild.releasing.bundle import is_name
    from edgebuild.releasing.on_device import run_on_device

    if command != "check" and not root:
        if device is None or root is not None:
            raise UsageError("This machine has no folder for releases by itself.", hint="Name one with --root.")
        if not is_name(project):
            raise UsageError(f"{project!r} names no project.", hint="Name it with --name, or the folder with --root.")
    if root and device is None:
        root = str(Path(root).absolute())
    files = {} if trust is None else {"--policy": trust.to_json().encode()}
    with _client(device) as client:
        words = list(arguments)
        if command != "check":
            words += [f"--root={root or f'{client.device.root}-releases/{project}'}"]
        answer = run_on_device(client, command, words, bundle=bundle, files=files, check=stop_if_interrupted)
        return _said(client.device.id, answer)


def _said(device: str, answer: BoardAnswer) -> OnDevice:
    try:
        report = DeviceReport.model_validate(dict(answer.report))
    except ValidationError as error:
        raise DeviceError(f"{device} reports nonsense of the release.", hint="`edgebuild doctor` checks it.") from error
    return OnDevice(device=device, exit_code=answer.code, report=report, lines=answer.lines)


def told_there(there: OnDevice) -> Answer:
    """Return what a device says; its exit code is the command's."""
    return Answer(value=there, text=lambda: show_on_device(there), code=there.exit_code)


def show_on_device(there: OnDevice) -> None:
    """Print what a device says; on standard error where it refuses."""
    say(f"On {there.device}:")
    for line in there.lines:
        say(f"  {line}", error=there.exit_code != 0)


@contextlib.contextmanager
def _client(name: str | None) -> Iterator[RunnerClient]:
    from edgebuild.backends.table import backends
    from edgebuild.cli.progress import make_progress
    from edgebuild.core.files import cache_home
    from edgebuild.devices.hold import holding
    from edgebuild.devices.local import local_device
    from edgebuild.fleet.inventory import entry_of
    from edgebuild.fleet.provider import InventoryProvider, attached

    devices = InventoryProvider()
    here = local_device(cache_home() / "release")
    with (
        attached(here if name is None else devices.connect(entry_of(name, devices.entries())), backends()) as at,
        holding(at.client, make_progress(), stop_if_interrupted)("release", False),
    ):
        yield at.client
