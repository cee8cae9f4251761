"""Takes a board into the inventory, once it is what it is said to be, and looks at it again later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.measurement import UNKNOWN
from edgebuild.devices.messages import whole_number
from edgebuild.devices.probe import configuration_of
from edgebuild.errors import DeviceError, EdgebuildError, UsageError
from edgebuild.fleet.connect import connect
from edgebuild.fleet.provider import attached

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.catalogue.resolve import ResolvedTarget
    from edgebuild.fleet.inventory import DeviceEntry

OLDEST_PYTHON = (3, 8)
#: How a device of each kind was reached.
HOW = {"emulator": "emulated, nothing on it is timed", "local": "this machine", "ssh": "host key as pinned"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was checked; ``wrong`` where it keeps the device from being used."""

    what: str
    found: str
    wrong: bool = False


def enrol(entry: DeviceEntry, project: Path | None) -> tuple[DeviceEntry, dict[str, str]]:
    """Probe the device, require that it is its target, and write it into the inventory with what it said of itself.

    Returns the entry, and the runtimes that its target needs with their versions there ("unknown" where they lack).
    Raises ``DeviceError`` when it doesn't answer, ``ConfigError`` with every contradiction to the target.
    """
    from edgebuild.fleet.inventory import save_entry

    probe = probe_of(entry)
    resolved = require_target(entry, probe, project)
    known = entry.model_copy(update={"facts": {fact.name: fact.value for fact in configuration_of(probe)}})
    save_entry(known)
    return known, runtimes_of(resolved, probe)


def core_of(target: str, project: Path | None) -> str:
    """Return the CPU model that a target is emulated as; raises ``UsageError`` for one that can't be."""
    from edgebuild.catalogue.shipped import pick
    from edgebuild.catalogue.targets import load_targets

    targets = load_targets(project)
    core = pick("targets", target, targets).facts.emulator_core
    if core is None:
        able = sorted(name for name, one in targets.items() if one.facts.emulator_core is not None)
        raise UsageError(
            f"{target} can't be emulated: its facts name no emulator_core.", hint=f"These can be: {', '.join(able)}."
        )
    return core.value


def probe_of(entry: DeviceEntry) -> Mapping[str, str]:
    """Connect, run the runner's probe, and return what it found."""
    from edgebuild.backends.table import backends

    with attached(connect(entry), backends()) as device:
        return device.probe


def require_target(entry: DeviceEntry, probe: Mapping[str, str], project: Path | None) -> ResolvedTarget:
    """Return what the target is on this device; raises for one that isn't it, or whose Python is too old."""
    from edgebuild.catalogue.profiles import load_profiles
    from edgebuild.catalogue.resolve import resolve
    from edgebuild.catalogue.shipped import pick
    from edgebuild.catalogue.targets import load_targets

    resolved = resolve(pick("targets", entry.target, load_targets(project)), load_profiles(project), probe)
    version = probe.get("python", "")
    numbers = tuple(n for part in version.split(".")[:2] if (n := whole_number(part)) is not None)
    if len(numbers) == len(OLDEST_PYTHON) and numbers < OLDEST_PYTHON:
        raise UsageError(
            f"{entry.name} has Python {version}; the runner needs 3.8 or later.", hint="--python names another one."
        )
    return resolved


def runtimes_of(resolved: ResolvedTarget, probe: Mapping[str, str]) -> dict[str, str]:
    """Return the runtimes that a device's target is built for, with the version found there or "unknown"."""
    names = dict.fromkeys(profile.backend for profile in resolved.profiles)
    return {name: probe.get(f"runtime.{name}", UNKNOWN) for name in names}


def look_again(entry: DeviceEntry, project: Path | None) -> tuple[Finding, ...]:
    """Probe a device of the inventory and compare it with its target and with what it was when it was enrolled."""
    try:
        probe = probe_of(entry)
    except DeviceError as error:
        return (Finding(what="answer", found=error.message, wrong=True),)
    how = HOW.get(entry.kind, "reached")
    findings = [Finding(what="answer", found=f"{how}, the runner answers")]
    try:
        require_target(entry, probe, project)
        findings.append(Finding(what="target", found=f"is a {entry.target} as far as its facts go"))
    except EdgebuildError as error:
        findings.append(Finding(what="target", found=error.message, wrong=True))
    now = {fact.name: fact.value for fact in configuration_of(probe)}
    for name in sorted(entry.facts.keys() | now.keys()):
        before, after = entry.facts.get(name, "unknown"), now.get(name, "unknown")
        if before != after:
            findings.append(Finding(what=name, found=f"was {before} when enrolled, is {after}"))
    runtimes = {name: value for name, value in probe.items() if name.startswith("runtime.")}
    findings += [Finding(what=name, found=value) for name, value in sorted(runtimes.items())]
    for name in ("memory_free_bytes", "temperatures_c", "throttles", "governor", "power_mode", "power_sensor"):
        findings.append(Finding(what=name, found=probe.get(name, "unknown")))
    return tuple(findings)
