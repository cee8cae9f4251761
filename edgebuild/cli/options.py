"""Options that several commands have, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

#: Where ``--project`` isn't given.
HERE = Path()
ProjectOption = Annotated[
    Path,
    typer.Option(
        "--project",
        "-p",
        help="The project's folder, or its edgebuild.toml. Default: the current folder.",
        show_default=False,
    ),
]
AnyDeviceOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it when the program runs
    typer.Option("--device", help="Device of the inventory. Default: this machine."),
]
NativeOption = Annotated[
    bool,
    typer.Option("--allow-native-libraries", help="Let artifacts run the native code that they bring, as you."),
]
OnFarmOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--farm",
        help="Use the devices of this farm, https://HOST:PORT; the token comes from $EDGEBUILD_FARM_TOKEN. "
        "Default: those of the inventory.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON; `edgebuild schema COMMAND` prints the schema that it follows.")
]
