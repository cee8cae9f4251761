"""Changes what a bundle lists, by one process at a time, each change whole or not at all."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from edgebuild.core.artifact import is_digest
from edgebuild.core.values import digest_bytes
from edgebuild.errors import ReleaseError
from edgebuild.execution import disk
from edgebuild.execution.abreast import WAITING, abreast
from edgebuild.execution.disk import is_folder, sync_folder, write_atomically
from edgebuild.releasing.layout import BLOBS, INDEX_FILE, Descriptor, Index, oci_bytes
from edgebuild.releasing.referrers import read_signed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: What a kill may leave beside the index (see ``write_staged``).
_LITTER = ".new-"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep others from changing the bundle meanwhile: one of two new indexes would be lost."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReleaseError(f"{folder} is no bundle: it can't be opened as a folder ({reason}).") from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ReleaseError(
            f"{folder} is being changed by another process.", hint="Try again when it is done."
        ) from error
    except OSError as error:
        raise ReleaseError(
            f"{folder} can't be locked: {error.strerror or error}.", hint="Use a copy on another file system."
        ) from error


def store(folder: Path, blobs: Sequence[bytes], listed: Sequence[Descriptor]) -> None:
    """Write blobs, then the index that lists them: each whole or not at all, and nothing through a link."""
    into = folder / BLOBS / "sha256"
    if not is_folder(folder / BLOBS) or not is_folder(into):
        raise ReleaseError(f"{into} is a link or no folder, and isn't followed.")
    try:
        # All of them wait for the disk at the same time, and are there before the index that lists them.
        for data, path in abreast(lambda data: (data, disk.write_staged(folder, data)), dict.fromkeys(blobs), WAITING):
            path.replace(into / digest_bytes(data))
        sync_folder(into)
        write_atomically(folder / INDEX_FILE, oci_bytes(Index(manifests=tuple(listed))), staging=folder)
        _sweep(folder)
    except OSError as error:
        with suppress(OSError):
            _sweep(folder)
        raise ReleaseError(f"Nothing can be written into {folder}: {error.strerror or error}.") from error


def _sweep(folder: Path) -> None:
    """Remove blobs that nothing lists any more, and what a kill left."""
    listed = {each.sha256 for each in read_signed(folder)[0].descriptors()}
    into = folder / BLOBS / "sha256"
    for path in into.iterdir():
        if is_digest(path.name) and path.name not in listed and not is_folder(path):
            path.unlink()
    for path in folder.glob(f"{_LITTER}*"):
        if not is_folder(path):
            path.unlink()
    sync_folder(into)
