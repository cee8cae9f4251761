"""`device add | provision | list | check | remove`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from edgebuild.cli.answering import answer
from edgebuild.cli.options import JsonOption  # noqa: TC001 - typer reads it when the program runs

app = typer.Typer(no_args_is_help=True, help="The boards that you build on, over SSH or emulated.")
NameArgument = Annotated[str, typer.Argument(help="The device's name in the inventory.")]
ProjectOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it when the program runs
    typer.Option(
        "--project", "-p", help="A project with targets of its own. Default: only those that ship with edgebuild."
    ),
]


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
    json: JsonOption = False,
) -> None:
    """Check that a board, or this machine, is the target, or set up its emulator; write it into the inventory.

    On a host of a farm (`edgebuild farm serve` or `farm join` runs here) the farm lends it from then on.
    """
    from edgebuild.cli import enrolling
    from edgebuild.errors import UsageError
    from edgebuild.fleet.inventory import load_inventory

    if name in load_inventory():
        raise UsageError(f"There is a device {name} already.", hint=f"`edgebuild device remove {name}` removes it.")
    if emulator + local + (ssh is not None) != 1:
        raise UsageError(
            "A device is either behind --ssh user@host, or an --emulator, or --local.", hint="Give one of the three."
        )
    if ssh is None:
        add_here = enrolling.add_local if local else enrolling.add_emulator
        answer(lambda: add_here(name, target, project), as_json=json)
        return
    fields: dict[str, object] = {"name": name, "target": target, "python": python, "root": root}
    if key is not None:
        fields["key_file"] = str(key.absolute())
    expected = {enrolling.SSH_KEY: host_key, enrolling.JUMP_KEY: jump_host_key}
    route = enrolling.Route(ssh=ssh, jump=jump, key=key, expected=expected)
    answer(lambda: enrolling.add_board(fields, route, project), as_json=json)


@app.command("provision")
def provision(name: NameArgument, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Put the runtime of the board's target on the board; it needs no internet and no pip."""
    from edgebuild.cli import enrolling

    answer(lambda: enrolling.provision(name, project), as_json=json)


@app.command("list")
def list_devices(json: JsonOption = False) -> None:
    """Show the inventory."""
    from edgebuild.cli import enrolling

    answer(enrolling.devices, as_json=json)


@app.command("check")
def check(name: NameArgument, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Look at a device: whether it answers, its facts against the target and against those when it was enrolled."""
    from edgebuild.cli import enrolling

    answer(lambda: enrolling.check(name, project), as_json=json)


@app.command("remove")
def remove(
    name: NameArgument,
    files: Annotated[bool, typer.Option("--files", help="Also remove edgebuild's folder on the board.")] = False,
    json: JsonOption = False,
) -> None:
    """Take a device out of the inventory."""
    from edgebuild.cli import enrolling

    answer(lambda: enrolling.remove(name, files=files), as_json=json)
