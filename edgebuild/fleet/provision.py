"""Puts the runtime of a board's target on the board: wheels fetched here, sent under their digests, unpacked there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.core.files import cache_home
from edgebuild.core.measurement import UNKNOWN
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.devices.hold import hold_device
from edgebuild.devices.probe import read_probe
from edgebuild.errors import DeviceError, EnvironmentGap, UsageError
from edgebuild.fleet.connect import connect_ssh
from edgebuild.fleet.enrol import enrol, require_target, runtimes_of
from edgebuild.fleet.provider import attached
from edgebuild.fleet.wheels import BoardPython, choose, places, unpacked_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgebuild.backends.protocol import Backend
    from edgebuild.core.steps import Progress
    from edgebuild.devices.client import RunnerClient
    from edgebuild.devices.ssh.device import SshDevice
    from edgebuild.fleet.inventory import DeviceEntry
    from edgebuild.fleet.wheels import Lock

ASK_LIMIT_S = 60.0
#: A slow card takes minutes for some hundred megabytes.
INSTALL_LIMIT_S = 3600.0
#: Compiled Python and directories come on top of what the wheels hold.
COMPILED_SHARE = 1.25


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """What came of it: nothing sent where everything was there, and the versions of the runtimes found afterwards.

    ``lacking`` holds the runtimes that come no such way and aren't there, each with how to install it.
    """

    entry: DeviceEntry
    python: str
    wheels: tuple[str, ...]
    sent_bytes: int
    runtimes: dict[str, str]
    lacking: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class _Board:
    """A board that is held for us."""

    client: RunnerClient
    device: SshDevice
    progress: Progress
    check: Callable[[], None]


def provision(
    entry: DeviceEntry,
    project: Path | None,
    *,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
) -> Provisioned:
    """Put the runtimes of the target's profiles on the board and write where they lie into the inventory.

    The board needs neither internet nor pip, and keeps what it had until the new packages lie there whole and load.
    What it has already moves no byte. Raises ``EnvironmentGap`` for a runtime that pip finds no wheels of,
    ``DeviceError`` for a board without the room, ``UsageError`` for an emulated one.
    """
    from edgebuild.backends.table import backends

    if entry.kind == "emulator":
        raise UsageError(f"{entry.name} is emulated: it was set up with its runtime.", hint="Build on it right away.")
    if entry.kind != "ssh":
        raise UsageError(f"{entry.name} is a device of kind {entry.kind}.", hint="Put its runtime there by hand.")
    table = backends()
    device = connect_ssh(entry)
    with (
        attached(device, table) as at,
        hold_device(at.client, "putting a runtime on the board", progress=progress, check=check),
    ):
        probe = read_probe(at.client)  # whoever had the board until now may have put packages there
        needed = runtimes_of(require_target(entry, probe, project), probe)
        _require_known(entry, needed, table)
        distributions = {name: table[name].distributions for name in needed if table[name].distributions}
        board = _Board(client=at.client, device=device, progress=progress or NoProgress(), check=check)
        if distributions:
            # What worked before must load alongside the new packages too.
            load = sorted(name for name, version in needed.items() if name in distributions or version != UNKNOWN)
            site, python, lock, sent = _put(board, distributions, load)
            entry = entry.model_copy(update={"site": site})
        else:
            python, lock, sent = "", None, 0
    known, runtimes = enrol(entry, project)
    wheels = tuple(f"{wheel.name} {wheel.version}" for wheel in lock.wheels) if lock else ()
    lacking = tuple(
        (name, table[name].install_hint)
        for name, version in runtimes.items()
        if version == UNKNOWN and name not in distributions
    )
    return Provisioned(entry=known, python=python, wheels=wheels, sent_bytes=sent, runtimes=runtimes, lacking=lacking)


def _require_known(entry: DeviceEntry, needed: Mapping[str, str], table: Mapping[str, Backend]) -> None:
    if not needed:
        raise EnvironmentGap(
            f"No profile of {entry.target} fits {entry.name}, so there is no runtime to put there.",
            hint=f"`edgebuild targets {entry.target}` shows its profiles.",
        )
    for name in needed:
        if name not in table:
            raise EnvironmentGap(f"No backend is named {name!r}.", hint="Install the package that brings it.")


def _put(board: _Board, distributions: Mapping[str, tuple[str, ...]], load: list[str]) -> tuple[str, str, Lock, int]:
    """Return the folder on the board, what its Python is, what was chosen for it, and the bytes that were sent."""
    client, cache = board.client, cache_home() / "provision"
    python = BoardPython.parse(client.call("python", {}, time_limit_s=ASK_LIMIT_S, check=board.check), board.device.id)
    names = sorted({name for each in distributions.values() for name in each})
    with board.progress.task(f"Fetching {', '.join(names)} for {python}"):
        lock = choose(names, python, cache)
    wheels = [{"file": wheel.file, "sha256": wheel.sha256} for wheel in lock.wheels]
    request: dict[str, Any] = {"site": lock.site, "wheels": wheels, "load": load}
    there = client.call("site", request, time_limit_s=ASK_LIMIT_S, check=board.check)
    folder = f"{board.device.root}/site/{lock.site}"
    if there.get("complete") is True:
        return folder, str(python), lock, 0
    files = places(lock, cache)
    sizes = [file.stat().st_size for file in files]
    unpacked = sum(map(unpacked_bytes, files))
    present = there.get("there_bytes")
    to_send = max(0, sum(sizes) - (present if isinstance(present, int) else 0))
    _require_room(board, python, to_send + int(unpacked * COMPILED_SHARE))
    with board.progress.task("Sending them", float(sum(sizes))) as task:
        for wheel, file, size in zip(lock.wheels, files, sizes, strict=True):
            board.check()
            board.device.put(file, f"blobs/{wheel.sha256}")
            task.advance(float(size), wheel.file)
    with board.progress.task("Unpacking and loading them on the board"):
        client.call("install", {**request, "unpacked_bytes": unpacked}, time_limit_s=INSTALL_LIMIT_S, check=board.check)
    return folder, str(python), lock, to_send


def _require_room(board: _Board, python: BoardPython, needed: int) -> None:
    """The disk first, then the quota; nothing is sent where it can't fit."""
    if needed > python.free_bytes:
        raise DeviceError(
            f"{board.device.id}: the runtime needs {needed / 1e6:.0f} MB, and {python.free_bytes / 1e6:.0f} MB are "
            f"free on the disk of {board.device.root}.",
            hint="Free some space there, or enrol the board with a --root on a larger disk.",
        )
    board.device.require_room(needed)
