"""`release export`: one target of a release, as other tools ship it."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it when the program runs
from typing import Annotated, Optional

import typer

from edgebuild.cli.answering import answer
from edgebuild.cli.options import JsonOption  # noqa: TC001 - typer reads it when the program runs


def export_release(
    bundle: Annotated[Path, typer.Argument(help="The folder of the release.")],
    to: Annotated[str, typer.Option("--to", help="The format: mender, swupdate or triton.")],
    out: Annotated[Path, typer.Option(help="The new file, for triton a folder.")],
    target: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it when the program runs
        typer.Option("--target", "-t", help="Target of the release. Default: its only one."),
    ] = None,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What the software, or Triton's model, is called. Default: the project."),
    ] = None,
    device_type: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What Mender or SWUpdate calls the device. Default: the target."),
    ] = None,
    dest: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Folder on the device, of its own: it is emptied. Default: /data/edgebuild/NAME."),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Send all targets along, and so keep the signatures over the release.")
    ] = False,
    cert: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="swupdate: the certificate of whom signs, in PEM. Default: it isn't signed."),
    ] = None,
    key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="swupdate: the private key of that certificate, in PEM, without a passphrase."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a target for Mender, SWUpdate or Triton. Equal releases give equal bytes."""
    from edgebuild.cli import bundling

    answer(
        lambda: bundling.export_release(
            bundle,
            to,
            out,
            target=target,
            name=name,
            device_type=device_type,
            dest=dest,
            whole=whole,
            cert=cert,
            key=key,
        ),
        as_json=json,
    )
