"""The formats of `release export`, and how any of them is written: beside its place, to the disk, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.errors import EnvironmentGap, UsageError
from edgebuild.execution.disk import sync_file, sync_folder
from edgebuild.releasing.exporting import mender, swupdate, triton

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.releasing.exporting.values import Wish


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format: what writes it, and the options that it has besides ``name``."""

    write: Callable[[Wish, Path], tuple[str, ...]]
    options: frozenset[str]


FORMATS = {
    "mender": Format(write=mender.write, options=frozenset({"device_type", "dest", "whole"})),
    "swupdate": Format(write=swupdate.write, options=frozenset({"device_type", "dest", "whole", "cert", "key"})),
    "triton": Format(write=triton.write, options=frozenset()),
}
OPTIONS = {"device_type": "--device-type", "dest": "--dest", "whole": "--whole", "cert": "--cert", "key": "--key"}


def export(wish: Wish, to: str, out: Path) -> tuple[str, ...]:
    """Write a target of a release in the format ``to`` as the new file or folder ``out``, whole or not at all.

    Returns what the user should know of it. Equal bundles and wishes give equal bytes, and large files never are in
    memory as a whole (but for the fp32 fallback in Triton's format, whose inputs are read from it). Raises
    ``UsageError`` for a wish that the format can't fulfil, ``ReleaseError`` for a bundle that was changed,
    ``EnvironmentGap`` where the disk refuses.
    """
    form = FORMATS.get(to)
    if form is None:
        raise UsageError(f"{to!r} is no format that releases are exported to.", hint=f"There are {', '.join(FORMATS)}.")
    for field, option in OPTIONS.items():
        if getattr(wish, field) and field not in form.options:
            raise UsageError(f"{option} says nothing to {to}.", hint="Leave it out.")
    if os.path.lexists(out):
        raise UsageError(f"{out} is there already.", hint="Name another path, or remove it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=out.parent))
        try:
            made = scratch / "made"
            notes = form.write(wish, made)
            _sync(made)
            made.rename(out)
            sync_folder(out.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise EnvironmentGap(f"{out} can't be written: {error.strerror or error}.", hint="Check the disk.") from error
    return notes


def _sync(made: Path) -> None:
    if made.is_file():
        sync_file(made)
        return
    for parent, _, names in os.walk(made, topdown=False):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))
