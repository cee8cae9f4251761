"""What `device …` does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from edgebuild.catalogue.tables import validate
from edgebuild.cli.answering import Answer
from edgebuild.cli.console import say_error
from edgebuild.cli.output import make_console, say
from edgebuild.core.values import Value
from edgebuild.errors import DeviceError, EnvironmentGap, UsageError
from edgebuild.fleet.inventory import DeviceEntry, entry_of, inventory_path, load_inventory, remove_entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: The options that bring a fingerprint.
SSH_KEY, JUMP_KEY = "--host-key", "--jump-host-key"
NOT_THERE = "unknown"


class KnownDevice(Value):
    """A device of the inventory; ``facts`` is what it said of itself when it was enrolled."""

    name: str
    target: str
    kind: str
    address: str
    jump: str | None
    core: str
    python: str
    root: str
    site: str
    labels: dict[str, str]
    facts: dict[str, str]


class Enrolled(Value):
    """A device that is in the inventory now.

    ``lacking`` are the runtimes of its target that it lacks: `device provision` is next. ``why_no_counts``: why an
    emulator counts no instructions; empty where it does, and for every other device.
    """

    device: KnownDevice
    inventory: str
    lacking: tuple[str, ...] = ()
    why_no_counts: str = ""


class Lacking(Value):
    """A runtime that can't be put on the board from here, and how to install it."""

    runtime: str
    hint: str


class Provisioned(Value):
    """What was put on a board, into ``site``, and which runtimes it has now; exit code 6 where it lacks one."""

    name: str
    python: str
    site: str
    wheels: tuple[str, ...]
    sent_bytes: int
    runtimes: dict[str, str]
    lacking: tuple[Lacking, ...]


class CheckedFact(Value):
    """One thing that was checked; ``wrong`` where it keeps the device from being used."""

    what: str
    found: str
    wrong: bool


class Checked(Value):
    """How a device is; exit code 5 where something is wrong."""

    name: str
    findings: tuple[CheckedFact, ...]


class Removed(Value):
    """A device that is not in the inventory any more; ``left`` is what isn't edgebuild's in its folder."""

    name: str
    left: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Route:
    """How a board is reached, as the user gave it; ``expected`` holds the fingerprints that were given, by option."""

    ssh: str
    jump: str | None
    key: Path | None
    expected: Mapping[str, str | None]


def add_emulator(name: str, target: str, project: Path | None) -> Answer:
    """Set up the emulator of a target's CPU as a device."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.fleet.connect import emulate
    from edgebuild.fleet.enrol import core_of, enrol

    fields = {"name": name, "target": target, "kind": "emulator", "core": core_of(target, project)}
    entry = validate(DeviceEntry, fields, "edgebuild device add")
    device = emulate(entry, make_progress())
    entry, _ = enrol(entry, project)
    made = Enrolled(device=_known(entry), inventory=str(inventory_path()), why_no_counts=device.why_no_counts or "")

    def told() -> None:
        say(f"{entry.name} is an emulated {entry.target} ({entry.facts.get('cpu')}); it is in {made.inventory} now.")
        say("Accuracy, parity, memory and instructions are checked on it; nothing on it is ever timed.")
        if made.why_no_counts:
            say(f"Instructions are not counted: {made.why_no_counts}.")

    return Answer(value=made, text=told)


def add_local(name: str, target: str, project: Path | None) -> Answer:
    """Take this machine itself as a device."""
    from edgebuild.core.files import cache_home
    from edgebuild.fleet.enrol import enrol

    root = str(cache_home() / "boards" / name)
    fields = {"name": name, "target": target, "kind": "local", "python": sys.executable, "root": root}
    entry, _ = enrol(validate(DeviceEntry, fields, "edgebuild device add"), project)
    made = Enrolled(device=_known(entry), inventory=str(inventory_path()))
    return Answer(
        value=made, text=lambda: say(f"{name} is this machine, a {entry.target}; it is in {made.inventory} now.")
    )


def add_board(fields: dict[str, object], route: Route, project: Path | None) -> Answer:
    """Take a board behind SSH; ``fields`` are the entry's own. Its keys are confirmed by a person, or brought along."""
    from edgebuild.devices.ssh.address import SshAddress
    from edgebuild.devices.ssh.connection import read_host_keys
    from edgebuild.devices.ssh.device import SshDevice
    from edgebuild.fleet.enrol import enrol

    address = SshAddress.parse(route.ssh)
    fields = {**fields, "address": str(address), "host_keys": ["unread"]}
    validate(DeviceEntry, fields, "edgebuild device add")  # before anybody is asked anything
    gate = None
    if route.jump is not None:
        between = SshAddress.parse(route.jump)
        keys = read_host_keys(between)
        _confirm(str(between), keys[0], route.expected[JUMP_KEY], JUMP_KEY)
        fields |= {"jump": str(between), "jump_host_keys": list(keys)}
        gate = SshDevice("the jump host", address=between, host_keys=keys, key_file=route.key)
    keys = read_host_keys(address, None if gate is None else gate.reach)
    _confirm(str(address), keys[0], route.expected[SSH_KEY], SSH_KEY)
    wanted = validate(DeviceEntry, {**fields, "host_keys": list(keys)}, "edgebuild device add")
    entry, runtimes = enrol(wanted, project)
    lacking = tuple(runtime for runtime, version in runtimes.items() if version == NOT_THERE)
    made = Enrolled(device=_known(entry), inventory=str(inventory_path()), lacking=lacking)

    def told() -> None:
        say(f"{entry.name} is a {entry.target}; it is in {made.inventory} now.")
        if lacking:
            say(f"Its {entry.python} lacks {', '.join(lacking)}: `edgebuild device provision {entry.name}` is next.")

    return Answer(value=made, text=told)


def _confirm(address: str, key: str, expected: str | None, option: str) -> None:
    """Nothing is trusted at first sight: a person compares the fingerprint, or a script brings it."""
    from edgebuild.devices.ssh.connection import fingerprint

    shown = fingerprint(key)
    if expected is not None:
        if expected != shown:
            raise DeviceError(
                f"{address} shows the host key {shown}, {option} says {expected}.",
                hint="Read it on the board itself: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
            )
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"{address} shows the host key {shown}, and nobody is here to say whether it is the right one.",
            hint=f"Give it with {option} once you compared it with that machine's own.",
        )
    say(f"{address} shows the host key {key.split()[0]} {shown}.")
    if not typer.confirm("Is that its own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on it)?"):
        raise UsageError("The host key was not confirmed; nothing was written.")


def provision(name: str, project: Path | None) -> Answer:
    """Put the runtime of the board's target on the board."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.fleet.provision import provision as put_runtime

    done = put_runtime(entry_of(name), project, progress=make_progress())
    value = Provisioned(
        name=name,
        python=done.python,
        site=done.entry.site,
        wheels=done.wheels,
        sent_bytes=done.sent_bytes,
        runtimes=done.runtimes,
        lacking=tuple(Lacking(runtime=runtime, hint=how) for runtime, how in done.lacking),
    )
    return Answer(
        value=value, text=lambda: _show_provisioned(value), code=EnvironmentGap.exit_code if done.lacking else 0
    )


def _show_provisioned(done: Provisioned) -> None:
    if done.wheels:
        say(f"{done.name} has {done.python}: {', '.join(done.wheels)}.")
        sent = (
            f"{done.sent_bytes / 1e6:.1f} MB were sent" if done.sent_bytes else "all of it was there, nothing was sent"
        )
        say(f"They lie in {done.site} on the board; {sent}.")
    say(f"Runtimes: {', '.join(f'{runtime} {version}' for runtime, version in done.runtimes.items())}.")
    if done.lacking:
        names = ", ".join(each.runtime for each in done.lacking)
        hint = " ".join(each.hint for each in done.lacking)
        say_error(f"{done.name} lacks {names}, which can't be put there from here.", hint)


def devices() -> Answer:
    """Return the inventory."""
    known = tuple(map(_known, load_inventory().values()))
    return Answer(value=known, text=lambda: _show_devices(known))


def _show_devices(known: Sequence[KnownDevice]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not known:
        say(f"No devices in {inventory_path()}: `edgebuild device add` enrols one.")
        return
    table = Table("Device", "Target", "Address", "CPU", "Runtimes", box=None, pad_edge=False)
    for each in known:
        runtimes = [f"{k.removeprefix('runtime.')} {v}" for k, v in each.facts.items() if k.startswith("runtime.")]
        there = ", ".join(runtime for runtime in runtimes if not runtime.endswith(f" {NOT_THERE}"))
        address, cpu = each.address or f"emulated {each.core}", each.facts.get("cpu", "unknown")
        table.add_row(*map(Text, (each.name, each.target, address, cpu, there)))
    make_console().print(table)


def check(name: str, project: Path | None) -> Answer:
    """Look at a device; exit code 5 where something keeps it from being used."""
    from edgebuild.fleet.enrol import look_again

    found = tuple(
        CheckedFact(what=each.what, found=each.found, wrong=each.wrong) for each in look_again(entry_of(name), project)
    )

    def told() -> None:
        for each in found:
            say(f"{'WRONG' if each.wrong else 'ok':5}  {each.what}: {each.found}")

    wrong = any(each.wrong for each in found)
    return Answer(value=Checked(name=name, findings=found), text=told, code=DeviceError.exit_code if wrong else 0)


def remove(name: str, *, files: bool) -> Answer:
    """Take a device out of the inventory, and edgebuild's folder off the board where ``files`` says so."""
    from edgebuild.fleet.connect import empty

    left = tuple(empty(entry_of(name))) if files else ()
    remove_entry(name)

    def told() -> None:
        say(f"{name} is not in the inventory any more.")
        if left:
            say(f"What isn't edgebuild's stayed in its folder: {', '.join(left)}.")

    return Answer(value=Removed(name=name, left=left), text=told)


def _known(entry: DeviceEntry) -> KnownDevice:
    return KnownDevice(**{name: getattr(entry, name) for name in KnownDevice.model_fields})
