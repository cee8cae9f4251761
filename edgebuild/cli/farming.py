"""`farm …`: the commands and their options. What they do is in `farm_running` and `farm_asking`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads it when the program runs
from typing import Annotated, Optional

import typer

from edgebuild.cli.answering import answer
from edgebuild.cli.options import JsonOption, NativeOption  # noqa: TC001 - typer reads it when the program runs

app = typer.Typer(
    no_args_is_help=True, help="Boards shared by people and CI: one server, and hosts that bring devices."
)
token_app = typer.Typer(no_args_is_help=True, help="Who may use the farm. Works on the server's machine.")
app.add_typer(token_app, name="token")

FarmOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it when the program runs
    typer.Option(
        "--farm",
        help="The farm's address, https://HOST:PORT; the token comes from $EDGEBUILD_FARM_TOKEN. "
        "Default: $EDGEBUILD_FARM.",
    ),
]
DeviceArgument = Annotated[str, typer.Argument(help="The device's name in `edgebuild farm list`.")]
JobArgument = Annotated[str, typer.Argument(help="The job's id.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; everybody who looks at the device sees it.")]


class TokenScope(StrEnum):
    """As the farm's own, without importing it."""

    READ = "read"
    RUN = "run"
    ADMIN = "admin"
    HOST = "host"


class States(StrEnum):
    """As the farm's own, without importing it."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


@app.command("init")
def init(
    database: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="postgresql://USER:PASSWORD@HOST/NAME. Default: SQLite in the farm's folder."),
    ] = None,
    name: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="What others call this machine: a name or an address; repeatable. Default: its host name."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a farm on this machine: its authority, its database and an admin's token, which is shown once."""
    from edgebuild.cli.farm_running import make_farm

    answer(lambda: make_farm(database or "", tuple(name or ())), as_json=json)


@app.command("serve")
def serve(
    listen: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="HOST:PORT. Default: that of farm.toml, else 127.0.0.1:8443, which only this machine sees."),
    ] = None,
    no_devices: Annotated[
        bool, typer.Option("--no-devices", help="Don't lend the devices of this machine's own inventory.")
    ] = False,
    native: NativeOption = False,
    json: JsonOption = False,
) -> None:
    """Serve the farm of this machine until Ctrl-C, and lend the devices of its inventory. Logs JSON to stderr."""
    from edgebuild.cli.farm_running import serve_farm

    serve_farm(listen, devices=not no_devices, native=native, as_json=json)


@app.command("join")
def join(
    url: Annotated[str, typer.Argument(help="The farm's address, https://HOST:PORT.")],
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--name", help="What this machine is called in the farm. Default: its host name."),
    ] = None,
    native: NativeOption = False,
) -> None:
    """Lend the devices of this machine's inventory to a farm, until Ctrl-C.

    Needs $EDGEBUILD_FARM_TOKEN of the scope host, and $EDGEBUILD_FARM_CA, the farm's ca.pem.
    """
    from edgebuild.cli.farm_running import join_farm

    join_farm(url, name, native=native)


@token_app.command("make")
def token_make(
    name: Annotated[str, typer.Argument(help="Whose it is; the audit shows it.")],
    scope: Annotated[
        TokenScope,
        typer.Option(help="read: look; run: use devices too; admin: everything; host: bring devices."),
    ],
    days: Annotated[float, typer.Option(min=0.001, max=3650.0, help="How long it is good for.")] = 90.0,
    json: JsonOption = False,
) -> None:
    """Make a token and print it, this once."""
    from edgebuild.cli.farm_running import make_token

    answer(lambda: make_token(name, scope.value, days), as_json=json)


@token_app.command("list")
def token_list(json: JsonOption = False) -> None:
    """Show the tokens, without what would prove them."""
    from edgebuild.cli.farm_running import find_tokens

    answer(find_tokens, as_json=json)


@token_app.command("revoke")
def token_revoke(name: Annotated[str, typer.Argument(help="The token's name.")], json: JsonOption = False) -> None:
    """End a token now."""
    from edgebuild.cli.farm_running import revoke_token

    answer(lambda: revoke_token(name), as_json=json)


@app.command("list")
def list_devices(farm: FarmOption = None, json: JsonOption = False) -> None:
    """Show the farm's devices, how they are and why."""
    from edgebuild.cli import farm_asking

    answer(lambda: farm_asking.devices(farm), as_json=json)


@app.command("jobs")
def jobs(
    state: Annotated[Optional[States], typer.Option(help="Only those. Default: all, the newest first.")] = None,  # noqa: UP045
    farm: FarmOption = None,
    json: JsonOption = False,
) -> None:
    """Show the farm's jobs."""
    from edgebuild.cli import farm_asking

    answer(lambda: farm_asking.jobs(farm, None if state is None else state.value), as_json=json)


@app.command("status")
def status(
    what: Annotated[str | None, typer.Argument(help="A job's or a lease's id. Default: the farm as a whole.")] = None,
    farm: FarmOption = None,
    json: JsonOption = False,
) -> None:
    """Show how a job or a lease stands and what it waits for, or how the farm is."""
    from edgebuild.cli import farm_asking

    answer(lambda: farm_asking.status(farm, what), as_json=json)


@app.command("logs")
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    farm: FarmOption = None,
    json: JsonOption = False,
) -> None:
    """Print what a job said; --json prints a line of JSON for each line."""
    from edgebuild.cli.farm_asking import show_log

    show_log(farm, job, follow=follow, as_json=json)


@app.command("cancel")
def cancel(
    what: Annotated[str, typer.Argument(help="A job's or a lease's id.")],
    farm: FarmOption = None,
    json: JsonOption = False,
) -> None:
    """Cancel a job, or give a lease back."""
    from edgebuild.cli import farm_asking

    answer(lambda: farm_asking.cancel(farm, what), as_json=json)


@app.command("drain")
def drain(name: DeviceArgument, farm: FarmOption = None, json: JsonOption = False) -> None:
    """Let a device end what runs on it and take no more."""
    from edgebuild.cli.farm_asking import change_device

    answer(lambda: change_device(farm, name, "drain", {"draining": True}), as_json=json)


@app.command("undrain")
def undrain(name: DeviceArgument, farm: FarmOption = None, json: JsonOption = False) -> None:
    """Let a device take work again."""
    from edgebuild.cli.farm_asking import change_device

    answer(lambda: change_device(farm, name, "drain", {"draining": False}), as_json=json)


@app.command("maintenance")
def maintenance(name: DeviceArgument, reason: ReasonOption, farm: FarmOption = None, json: JsonOption = False) -> None:
    """Take a device out of the pool until `farm restore`; what runs on it goes on."""
    from edgebuild.cli.farm_asking import change_device

    answer(lambda: change_device(farm, name, "health", {"health": "maintenance", "reason": reason}), as_json=json)


@app.command("restore")
def restore(name: DeviceArgument, farm: FarmOption = None, json: JsonOption = False) -> None:
    """Put a device back; it is checked before anybody gets it."""
    from edgebuild.cli.farm_asking import change_device

    answer(lambda: change_device(farm, name, "health", {"health": "unknown"}), as_json=json)


@app.command("retire")
def retire(name: DeviceArgument, reason: ReasonOption, farm: FarmOption = None, json: JsonOption = False) -> None:
    """Take a device out of the pool for good; its history stays."""
    from edgebuild.cli.farm_asking import change_device

    answer(lambda: change_device(farm, name, "health", {"health": "retired", "reason": reason}), as_json=json)


@app.command("check")
def check(name: DeviceArgument, farm: FarmOption = None, json: JsonOption = False) -> None:
    """Ask for a health check of a device, as soon as it is free."""
    from edgebuild.cli.farm_asking import change_device

    answer(lambda: change_device(farm, name, "check", {}), as_json=json)


@app.command("audit")
def audit(
    most: Annotated[int, typer.Option(min=1, max=1000, help="How many lines.")] = 50,
    farm: FarmOption = None,
    json: JsonOption = False,
) -> None:
    """Show who did what, the newest first."""
    from edgebuild.cli import farm_asking

    answer(lambda: farm_asking.audit(farm, most), as_json=json)


@app.command("history")
def history(
    model: Annotated[str, typer.Argument(help="The model's name in its records.")],
    device: Annotated[Optional[str], typer.Option(help="Only there. Default: on each device.")] = None,  # noqa: UP045
    export: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the records to this .csv or .parquet file."),
    ] = None,
    farm: FarmOption = None,
    json: JsonOption = False,
) -> None:
    """Show how a model fared over time, and whether it or the board changed."""
    from edgebuild.cli import farm_remembering

    answer(lambda: farm_remembering.history(farm, model, device, export), as_json=json)


@app.command("compare")
def compare(
    a: Annotated[str, typer.Argument(help="A record's id, as `farm history` shows it.")],
    b: Annotated[str, typer.Argument(help="The record that it is held against.")],
    farm: FarmOption = None,
    json: JsonOption = False,
) -> None:
    """Hold a record against another: exit code 0 better or equivalent, 3 worse, 4 inconclusive, 2 not comparable."""
    from edgebuild.cli.farm_remembering import comparison

    answer(lambda: comparison(farm, a, b), as_json=json)
