"""Which of the devices that are known can load a release, by what they said of themselves when they were enrolled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.core.measurement import UNKNOWN
from edgebuild.releasing.board.running import doubts, misfits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgebuild.fleet.inventory import DeviceEntry
    from edgebuild.releasing.values import TargetRelease


@dataclass(frozen=True, kw_only=True)
class Fielded:
    """A device, what runs on it in words, and why it can't load a release: nothing where it can.

    ``doubts`` are differences with which it loads, and may answer or take otherwise.
    """

    device: str
    runtime: str
    system: str
    misfits: tuple[str, ...]
    doubts: tuple[str, ...]


def fielded(release: TargetRelease, entries: Iterable[DeviceEntry]) -> tuple[Fielded, ...]:
    """Return every device of the release's target, by name; emulators aren't in the field."""
    mine = [entry for entry in entries if entry.target == release.target and entry.kind != "emulator"]
    return tuple(_fielded(release, entry) for entry in sorted(mine, key=lambda each: each.name))


def _fielded(release: TargetRelease, entry: DeviceEntry) -> Fielded:
    requires, facts = release.requires.model_dump(mode="json"), _facts(entry.facts)
    name = release.requires.runtime
    named = (entry.facts.get(each, UNKNOWN) for each in ("os", "l4t", "jetpack"))
    return Fielded(
        device=entry.name,
        runtime=f"{name} {facts['runtime'].get(name, UNKNOWN)}",
        system=", ".join(value for value in named if value != UNKNOWN) or UNKNOWN,
        misfits=tuple(misfits(requires, facts)),
        doubts=tuple(doubts(requires, facts)),
    )


def _facts(flat: Mapping[str, str]) -> dict[str, Any]:
    """Return facts as a runner answers them, of those in an inventory, which are text."""
    facts: dict[str, Any] = {name: value for name, value in flat.items() if value != UNKNOWN}
    start = "runtime."
    facts["runtime"] = {name.removeprefix(start): value for name, value in flat.items() if name.startswith(start)}
    facts["isa"] = flat.get("isa", "").split()
    memory = flat.get("memory_bytes", "")
    facts["memory_bytes"] = int(memory) if memory.isascii() and memory.isdigit() else None
    return facts
