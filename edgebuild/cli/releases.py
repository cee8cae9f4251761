"""`edgebuild release …`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.releasing.values import BuildFolder

app = typer.Typer(no_args_is_help=True, help="Releases: what was built, with its proof, in one bundle.")

ProjectOption = Annotated[
    Path,
    typer.Option(
        "--project",
        "-p",
        help="The project's folder, or its edgebuild.toml. Default: the current folder.",
        show_default=False,
    ),
]
HERE = Path()


@app.command()
def create(
    version: Annotated[str, typer.Option("--version", help="The release's version, such as 1.4.0.")],
    build: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it when the program runs
        typer.Option("--build", help="A build's id or its start; one for each target. Default: the newest."),
    ] = None,
    against: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The bundle of the release before, which this one names as its parent. Default: none."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The folder to write. Default: releases/NAME-VERSION in the project."),
    ] = None,
    project: ProjectOption = HERE,
) -> None:
    """Write a bundle: artifacts with golden vectors, evidence, SBOM and card. Equal builds give equal bytes."""
    from edgebuild.building.projects import load_project
    from edgebuild.cli.output import say
    from edgebuild.releasing import bundle

    loaded = load_project(project)
    builds = _builds(loaded.folder / ".edgebuild", build or [None])
    parent = None if against is None else bundle.read_bundle(against).descriptor.digest
    where = out or loaded.folder / "releases" / f"{loaded.name}-{bundle.require_version(version)}"
    made = bundle.create(builds, where, version=version, parent=parent)
    say(f"{made.project} {made.version}: {made.descriptor.digest}")
    for part in made.targets:
        size, files = sum(layer.size for layer in part.manifest.layers), len(part.manifest.layers)
        say(f"  {part.release.target}: {part.release.candidate}, {files} files, {size / 2**20:.1f} MiB")
    say(f"Bundle: {where}")
    say(f"Next: edgebuild release sign {where} --key KEY.pem")


@app.command()
def gate(
    new: Annotated[Path, typer.Argument(help="The bundle of the new release.")],
    against: Annotated[Path, typer.Option(help="The bundle of the release that it is to follow.")],
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--target", "-t", help="Only this target. Default: all that both have."),
    ] = None,
    device: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Device of the inventory. Default: this machine."),
    ] = None,
    native: Annotated[
        bool,
        typer.Option("--allow-native-libraries", help="Let the artifacts run the native code that they bring, as you."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    junit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write a JUnit report to this file, too. Default: none."),
    ] = None,
) -> None:
    """Compare two releases, interleaved on one device. Exit code 0: no figure is worse, 3: one is, 4: one is open."""
    from edgebuild.cli.gating import run_gate

    raise typer.Exit(run_gate(new, against, target=target, device=device, native=native, as_json=json, junit=junit))


def _builds(home: Path, names: Sequence[str | None]) -> tuple[BuildFolder, ...]:
    from edgebuild.building.record import find_build, load_record
    from edgebuild.core.evidence import changed
    from edgebuild.releasing.values import NEEDED, BuildFolder

    found = []
    for name in names:
        folder = find_build(home, name)
        record = load_record(folder)
        found.append(
            BuildFolder(
                home=home,
                folder=folder,
                record=record,
                changed=changed(home, record.evidence),
                missing=tuple(each for each in NEEDED if not (folder / each).is_file()),
            )
        )
    return tuple(found)
