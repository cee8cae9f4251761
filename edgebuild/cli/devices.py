"""`device add | provision | list | check | remove`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgebuild.cli.output import make_console, say

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(no_args_is_help=True, help="The boards that you build on, over SSH or emulated.")
NameArgument = Annotated[str, typer.Argument(help="The device's name in the inventory.")]
ProjectOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it when the program runs
    typer.Option(
        "--project", "-p", help="A project with targets of its own. Default: only those that ship with edgebuild."
    ),
]
#: The options that bring a fingerprint.
SSH_KEY, JUMP_KEY = "--host-key", "--jump-host-key"


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What you want to call it.")],
    target: Annotated[str, typer.Option("--target", "-t", help="What it is: a name of `edgebuild targets`.")],
    ssh: Annotated[Optional[str], typer.Option(help="user@host or user@host:port.")] = None,  # noqa: UP045
    emulator: Annotated[
        bool, typer.Option("--emulator", help="Emulate the target's CPU on this machine: accuracy, and never a time.")
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="This machine itself, for a board that lends itself to a farm.")
    ] = False,
    key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Private key file. Default: the keys in ssh-agent and ~/.ssh."),
    ] = None,
    host_key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The board's fingerprint, SHA256:…, for scripts. Default: you are asked to confirm it."),
    ] = None,
    jump: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="user@host of a host to go through. Default: a direct connection."),
    ] = None,
    jump_host_key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="That host's fingerprint, SHA256:…. Default: you are asked to confirm it."),
    ] = None,
    python: Annotated[str, typer.Option(help="The board's Python, 3.8 or later.")] = "python3",
    root: Annotated[str, typer.Option(help="The folder on the board that edgebuild may fill.")] = "~/.edgebuild",
    project: ProjectOption = None,
) -> None:
    """Check that a board, or this machine, is the target, or set up its emulator; write it into the inventory.

    On a host of a farm (`edgebuild farm serve` or `farm join` runs here) the farm lends it from then on.
    """
    from edgebuild.errors import UsageError
    from edgebuild.fleet.inventory import load_inventory

    if name in load_inventory():
        raise UsageError(f"There is a device {name} already.", hint=f"`edgebuild device remove {name}` removes it.")
    if emulator + local + (ssh is not None) != 1:
        raise UsageError(
            "A device is either behind --ssh user@host, or an --emulator, or --local.", hint="Give one of the three."
        )
    if ssh is None:
        add_here = _add_local if local else _add_emulator
        add_here(name, target, project)
        return
    fields: dict[str, object] = {"name": name, "target": target, "python": python, "root": root}
    if key is not None:
        fields["key_file"] = str(key.absolute())
    _add_board(fields, _Route(ssh=ssh, jump=jump, key=key), {SSH_KEY: host_key, JUMP_KEY: jump_host_key}, project)


def _add_emulator(name: str, target: str, project: Path | None) -> None:
    from edgebuild.catalogue.tables import validate
    from edgebuild.cli.progress import make_progress
    from edgebuild.fleet.connect import emulate
    from edgebuild.fleet.enrol import core_of, enrol
    from edgebuild.fleet.inventory import DeviceEntry, inventory_path

    fields = {"name": name, "target": target, "kind": "emulator", "core": core_of(target, project)}
    entry = validate(DeviceEntry, fields, "edgebuild device add")
    device = emulate(entry, make_progress())
    entry, _ = enrol(entry, project)
    say(f"{entry.name} is an emulated {entry.target} ({entry.facts.get('cpu')}); it is in {inventory_path()} now.")
    say("Accuracy, parity, memory and instructions are checked on it; nothing on it is ever timed.")
    if device.why_no_counts:
        say(f"Instructions are not counted: {device.why_no_counts}.")


def _add_local(name: str, target: str, project: Path | None) -> None:
    from edgebuild.catalogue.tables import validate
    from edgebuild.core.files import cache_home
    from edgebuild.fleet.enrol import enrol
    from edgebuild.fleet.inventory import DeviceEntry, inventory_path

    root = str(cache_home() / "boards" / name)
    fields = {"name": name, "target": target, "kind": "local", "python": sys.executable, "root": root}
    entry, _ = enrol(validate(DeviceEntry, fields, "edgebuild device add"), project)
    say(f"{entry.name} is this machine, a {entry.target}; it is in {inventory_path()} now.")


@dataclass(frozen=True, kw_only=True)
class _Route:
    """How a board is reached, as the user gave it."""

    ssh: str
    jump: str | None
    key: Path | None


def _add_board(
    fields: dict[str, object], route: _Route, expected: Mapping[str, str | None], project: Path | None
) -> None:
    """``fields`` are the entry's own; ``expected`` holds the fingerprints that were given, by option."""
    from edgebuild.catalogue.tables import validate
    from edgebuild.devices.ssh.address import SshAddress
    from edgebuild.devices.ssh.connection import read_host_keys
    from edgebuild.devices.ssh.device import SshDevice
    from edgebuild.fleet.enrol import enrol
    from edgebuild.fleet.inventory import DeviceEntry, inventory_path

    address = SshAddress.parse(route.ssh)
    fields = {**fields, "address": str(address), "host_keys": ["unread"]}
    validate(DeviceEntry, fields, "edgebuild device add")  # before anybody is asked anything
    gate = None
    if route.jump is not None:
        between = SshAddress.parse(route.jump)
        keys = read_host_keys(between)
        _confirm(str(between), keys[0], expected[JUMP_KEY], JUMP_KEY)
        fields |= {"jump": str(between), "jump_host_keys": list(keys)}
        gate = SshDevice("the jump host", address=between, host_keys=keys, key_file=route.key)
    keys = read_host_keys(address, None if gate is None else gate.reach)
    _confirm(str(address), keys[0], expected[SSH_KEY], SSH_KEY)
    wanted = validate(DeviceEntry, {**fields, "host_keys": list(keys)}, "edgebuild device add")
    entry, runtimes = enrol(wanted, project)
    say(f"{entry.name} is a {entry.target}; it is in {inventory_path()} now.")
    missing = [runtime for runtime, version in runtimes.items() if version == "unknown"]
    if missing:
        say(f"Its {entry.python} lacks {', '.join(missing)}: `edgebuild device provision {entry.name}` is next.")


def _confirm(address: str, key: str, expected: str | None, option: str) -> None:
    """Nothing is trusted at first sight: a person compares the fingerprint, or a script brings it."""
    from edgebuild.devices.ssh.connection import fingerprint
    from edgebuild.errors import DeviceError, UsageError

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


@app.command("provision")
def provision(name: NameArgument, project: ProjectOption = None) -> None:
    """Put the runtime of the board's target on the board; it needs no internet and no pip."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.errors import EnvironmentGap
    from edgebuild.fleet.inventory import entry_of
    from edgebuild.fleet.provision import provision as put_runtime

    done = put_runtime(entry_of(name), project, progress=make_progress())
    if done.wheels:
        say(f"{name} has {done.python}: {', '.join(done.wheels)}.")
        sent = (
            f"{done.sent_bytes / 1e6:.1f} MB were sent" if done.sent_bytes else "all of it was there, nothing was sent"
        )
        say(f"They lie in {done.entry.site} on the board; {sent}.")
    say(f"Runtimes: {', '.join(f'{runtime} {version}' for runtime, version in done.runtimes.items())}.")
    if done.lacking:
        names = ", ".join(runtime for runtime, _ in done.lacking)
        hint = " ".join(how for _, how in done.lacking)
        raise EnvironmentGap(f"{name} lacks {names}, which can't be put there from here.", hint=hint)


@app.command("list")
def list_devices() -> None:
    """Show the inventory."""
    from rich.table import Table
    from rich.text import Text

    from edgebuild.fleet.inventory import inventory_path, load_inventory

    inventory = load_inventory()
    if not inventory:
        say(f"No devices in {inventory_path()}: `edgebuild device add` enrols one.")
        return
    table = Table("Device", "Target", "Address", "CPU", "Runtimes", box=None, pad_edge=False)
    for entry in inventory.values():
        runtimes = [f"{k.removeprefix('runtime.')} {v}" for k, v in entry.facts.items() if k.startswith("runtime.")]
        known = ", ".join(runtime for runtime in runtimes if not runtime.endswith(" unknown"))
        table.add_row(
            *map(
                Text,
                (
                    entry.name,
                    entry.target,
                    entry.address or f"emulated {entry.core}",
                    entry.facts.get("cpu", "unknown"),
                    known,
                ),
            )
        )
    make_console().print(table)


@app.command("check")
def check(name: NameArgument, project: ProjectOption = None) -> None:
    """Look at a device: whether it answers, its facts against the target and against those when it was enrolled."""
    from edgebuild.errors import DeviceError
    from edgebuild.fleet.enrol import look_again
    from edgebuild.fleet.inventory import entry_of

    findings = look_again(entry_of(name), project)
    for finding in findings:
        say(f"{'WRONG' if finding.wrong else 'ok':5}  {finding.what}: {finding.found}")
    if any(finding.wrong for finding in findings):
        raise typer.Exit(DeviceError.exit_code)


@app.command("remove")
def remove(
    name: NameArgument,
    files: Annotated[bool, typer.Option("--files", help="Also remove edgebuild's folder on the board.")] = False,
) -> None:
    """Take a device out of the inventory."""
    from edgebuild.fleet.connect import empty
    from edgebuild.fleet.inventory import entry_of, remove_entry

    left = empty(entry_of(name)) if files else ()
    remove_entry(name)
    say(f"{name} is not in the inventory any more.")
    if left:
        say(f"What isn't edgebuild's stayed in its folder: {', '.join(left)}.")
