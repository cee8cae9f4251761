"""Puts the files of a bundle's target into a folder, each checked against its digest before it has its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.artifact_files import list_files
from edgebuild.errors import ReleaseError
from edgebuild.execution.disk import copy_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgebuild.releasing.bundle import Bundle, TargetPart


def part_of(bundle: Bundle, target: str | None) -> TargetPart:
    """Return a target of a bundle, or its only one. Raises ``ReleaseError``."""
    names = ", ".join(part.release.target for part in bundle.targets)
    if target is None and len(bundle.targets) == 1:
        return bundle.targets[0]
    found = next((part for part in bundle.targets if part.release.target == target), None)
    if found is None:
        what = "is for several targets" if target is None else f"has no target {target!r}"
        raise ReleaseError(f"{bundle.project} {bundle.version} {what}: {names}.", hint="Name one with --target.")
    return found


def unpack(bundle: Bundle, part: TargetPart, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Write the files of a target whose path is ``wanted`` below ``folder``, which is empty or isn't there."""
    for path, descriptor in part.files().items():
        if not wanted(path):
            continue
        to = folder / path
        to.parent.mkdir(parents=True, exist_ok=True)
        new = to.with_name(f"{to.name}.new")
        with new.open("wb") as out:
            for chunk in bundle.layout.chunks(descriptor):
                out.write(chunk)
        new.replace(to)


def place_folder(source: Path, folder: Path) -> None:
    """Copy the plain files of a folder, links refused; that they are right is to be checked afterwards."""
    for entry in list_files(source):
        to = folder / entry.path
        to.parent.mkdir(parents=True, exist_ok=True)
        copy_file(str(source / entry.path), str(to))
