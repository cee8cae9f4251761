"""`release create` and `release export`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from edgebuild.cli.answering import Answer
from edgebuild.cli.output import say
from edgebuild.core.values import Value
from edgebuild.errors import UsageError
from edgebuild.releasing import bundle as bundles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgebuild.releasing.values import BuildFolder


class CreatedTarget(Value):
    """One target of a new release."""

    target: str
    candidate: str
    build_id: str
    files: int
    size_bytes: int


class Created(Value):
    """A release that was written, and what signs it next."""

    project: str
    version: str
    release_digest: str
    folder: str
    targets: tuple[CreatedTarget, ...]


class Exported(Value):
    """A target of a release as another tool ships it."""

    project: str
    version: str
    target: str
    format: str
    path: str
    notes: tuple[str, ...]


def create(
    project: Path, names: Sequence[str | None], *, version: str, against: Path | None, out: Path | None
) -> Answer:
    """Write the bundle of builds, each named by its id or its start; None is the newest."""
    from edgebuild.building.projects import load_project
    from edgebuild.catalogue.contract_table import meaning_of
    from edgebuild.releasing import creating

    loaded = load_project(project)
    builds = _builds(loaded.folder / ".edgebuild", names)
    before = None if against is None else bundles.read_bundle(against)
    if before is not None and before.project != loaded.name:
        raise UsageError(f"{against} is a release of {before.project}, and this project is {loaded.name}.")
    parent = None if before is None else before.descriptor.digest
    where = out or loaded.folder / "releases" / f"{loaded.name}-{bundles.require_version(version)}"
    meaning = partial(meaning_of, loaded.contract, loaded.folder)
    made = creating.create(builds, where, version=version, parent=parent, meaning=meaning)
    value = Created(
        project=made.project,
        version=made.version,
        release_digest=made.descriptor.digest,
        folder=str(where.absolute()),
        targets=tuple(
            CreatedTarget(
                target=part.release.target,
                candidate=part.release.candidate,
                build_id=part.release.build_id,
                files=len(part.manifest.layers),
                size_bytes=sum(layer.size for layer in part.manifest.layers),
            )
            for part in made.targets
        ),
    )
    return Answer(value=value, text=lambda: _show_created(value, where))


def _show_created(made: Created, where: Path) -> None:
    say(f"{made.project} {made.version}: {made.release_digest}")
    for each in made.targets:
        say(f"  {each.target}: {each.candidate}, {each.files} files, {each.size_bytes / 2**20:.1f} MiB")
    say(f"Bundle: {where}")
    say(f"Next: edgebuild release sign {where} --key KEY.pem")


def _builds(home: Path, names: Sequence[str | None]) -> tuple[BuildFolder, ...]:
    from edgebuild.building.record import find_build, load_record
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
                missing=tuple(each for each in NEEDED if not (folder / each).is_file()),
            )
        )
    return tuple(found)


def export_release(
    bundle: Path,
    to: str,
    out: Path,
    *,
    target: str | None,
    name: str | None,
    device_type: str | None,
    dest: str | None,
    whole: bool,
    cert: Path | None,
    key: Path | None,
) -> Answer:
    """Write a target of a release in another tool's format, ``to``."""
    from edgebuild.releasing.exporting.table import export
    from edgebuild.releasing.exporting.values import Wish
    from edgebuild.releasing.unpack import part_of

    read = bundles.read_bundle(bundle)
    part = part_of(read, target)
    wish = Wish(bundle=read, part=part, name=name, device_type=device_type, dest=dest, whole=whole, cert=cert, key=key)
    notes = tuple(export(wish, to, out))

    def told() -> None:
        say(f"{read.project} {read.version} for {part.release.target}: {out}")
        for note in notes:
            say(f"  {note}")

    value = Exported(
        project=read.project,
        version=read.version,
        target=part.release.target,
        format=to,
        path=str(out.absolute()),
        notes=notes,
    )
    return Answer(value=value, text=told)
