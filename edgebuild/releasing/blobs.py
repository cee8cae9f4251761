"""Blobs on the way into a folder: every one is held against its descriptor before it gets its name."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from edgebuild.core.artifact_files import open_plain
from edgebuild.core.values import CHUNK_BYTES
from edgebuild.errors import ReleaseError
from edgebuild.execution.disk import is_folder, remove, sync_file, sync_folder
from edgebuild.releasing.layout import BLOBS, LAYOUT_FILE, LAYOUT_TEXT, write_index
from edgebuild.releasing.referrers import read_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from edgebuild.releasing.layout import Descriptor

PARTIAL = "partial"
_NO_LINK = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES})


def blob_path(folder: Path, blob: Descriptor) -> Path:
    """Return where a layout keeps a blob."""
    return folder / BLOBS / "sha256" / blob.sha256


class Staging:
    """A layout that is being put together next to its final place, and survives a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in (BLOBS, f"{BLOBS}/sha256", PARTIAL):
            (folder / part).mkdir(exist_ok=True)
            if not is_folder(folder / part):
                raise ReleaseError(f"{folder / part} is a link, and isn't followed.", hint=f"Remove {folder}.")

    def has(self, blob: Descriptor, read: Callable[[int], None]) -> bool:
        """Whether a blob is here already, whole: what a cut of power left is not believed."""
        if is_whole(blob_path(self.folder, blob), blob, read):
            return True
        blob_path(self.folder, blob).unlink(missing_ok=True)
        return False

    def take(self, blob: Descriptor, source: Path, read: Callable[[int], None]) -> bool:
        """Link or copy a blob from another layout; False where that hasn't got it, or not whole."""
        found, place = blob_path(source, blob), blob_path(self.folder, blob)
        place.unlink(missing_ok=True)
        try:
            os.link(found, place, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            return self._copy(blob, found, read)
        return self.has(blob, read)

    def _copy(self, blob: Descriptor, source: Path, read: Callable[[int], None]) -> bool:
        try:
            with open_plain(source) as file:
                return self.write(blob, iter(lambda: file.read(CHUNK_BYTES), b""), read)
        except OSError:
            return False

    def write(self, blob: Descriptor, chunks: Iterable[bytes], read: Callable[[int], None]) -> bool:
        """Write a blob; False, and nothing stays, where it isn't what its descriptor says."""
        partial = self.partial(blob)
        partial.unlink(missing_ok=True)
        return self.append(blob, 0, hashlib.sha256(), chunks, read)

    def begun(self, blob: Descriptor) -> tuple[int, hashlib._Hash]:
        """Return how much of a blob was written before, and the hash of that."""
        hasher, size = hashlib.sha256(), 0
        with suppress(FileNotFoundError), open_plain(self.partial(blob)) as file:
            while size < blob.size and (chunk := file.read(min(CHUNK_BYTES, blob.size - size))):
                hasher.update(chunk)
                size += len(chunk)
        return size, hasher

    def append(
        self, blob: Descriptor, offset: int, hasher: hashlib._Hash, chunks: Iterable[bytes], read: Callable[[int], None]
    ) -> bool:
        """Go on writing a blob at ``offset``; it gets its name where it is whole, and is thrown away where it isn't."""
        partial = self.partial(blob)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "wb") as out:
            out.truncate(offset)
            out.seek(offset)
            whole = copy_checked(out, blob, offset, hasher, chunks, read)
        if not whole:
            partial.unlink(missing_ok=True)
            return False
        partial.replace(blob_path(self.folder, blob))
        return True

    def partial(self, blob: Descriptor) -> Path:
        """Return where a blob lies until it is whole."""
        return self.folder / PARTIAL / blob.sha256

    def finish(self, listed: Iterable[Descriptor], known: Iterable[Descriptor], place: Path) -> None:
        """Throw away what no manifest lists, write the index, and give the whole its final name.

        Raises ``ReleaseError`` where the whole can't be read as a signed bundle.
        """
        wanted = {each.sha256 for each in known}
        for path in (self.folder / BLOBS / "sha256").iterdir():
            if path.name not in wanted:
                remove(path)
        for path in self.folder.iterdir():
            if path.name != BLOBS:
                remove(path)
        (self.folder / LAYOUT_FILE).write_text(LAYOUT_TEXT)
        sync_file(self.folder / LAYOUT_FILE)
        write_index(self.folder, listed)
        for folder in (self.folder / BLOBS / "sha256", self.folder / BLOBS, self.folder):
            sync_folder(folder)
        read_signed(self.folder)
        self.folder.rename(place)
        sync_folder(place.parent)


@contextmanager
def staged(place: Path) -> Iterator[Staging]:
    """Hand out the staging folder of ``place``, for one process at a time; what an earlier one left is still there.

    Raises ``ReleaseError`` where ``place`` exists, or the disk refuses.
    """
    hidden = place.absolute().parent / f".{place.name}.part"
    with disk_errors(place):
        if os.path.lexists(place):
            raise ReleaseError(f"{place} exists already.", hint="Name a folder that doesn't, or remove it.")
        hidden.mkdir(parents=True, exist_ok=True)
        handle = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not _locked(handle, hidden):
                raise ReleaseError(f"Another process is writing {place}.", hint="Wait for it.")
            try:
                yield Staging(hidden)
            finally:
                if is_folder(hidden) and not any(path.is_file() for path in hidden.rglob("*")):
                    remove(hidden)
        finally:
            os.close(handle)


def _locked(handle: int, folder: Path) -> bool:
    """Whether an open folder is this process's alone from now on, and still the one of that name."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), folder.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn what the system refuses into a ``ReleaseError``."""
    try:
        yield
    except OSError as error:
        raise ReleaseError(
            f"{error.filename or place} can't be used: {error.strerror or error}.",
            hint="Name another folder, or make room; what has arrived is kept.",
        ) from error


def copy_checked(
    out: BinaryIO,
    blob: Descriptor,
    offset: int,
    hasher: hashlib._Hash,
    chunks: Iterable[bytes],
    read: Callable[[int], None],
) -> bool:
    """Write what of a blob follows ``offset``, never more than it has; durable and True where the whole is the blob."""
    size = offset
    for chunk in chunks:
        size += len(chunk)
        if size > blob.size:
            return False
        out.write(chunk)
        hasher.update(chunk)
        read(len(chunk))
    out.flush()
    os.fsync(out.fileno())
    return (size, hasher.hexdigest()) == (blob.size, blob.sha256)


def is_whole(path: Path, blob: Descriptor, read: Callable[[int], None]) -> bool:
    """Whether a plain file holds exactly a blob; reads it in bounded memory."""
    hasher, size = hashlib.sha256(), 0
    try:
        with open_plain(path) as file:
            if os.fstat(file.fileno()).st_size != blob.size:
                return False
            while size <= blob.size and (chunk := file.read(CHUNK_BYTES)):
                hasher.update(chunk)
                size += len(chunk)
                read(0)
    except OSError:
        return False
    if (size, hasher.hexdigest()) != (blob.size, blob.sha256):
        return False
    read(size)
    return True


def require_room(folder: Path, size: int) -> None:
    """Raise ``ReleaseError`` where a disk hasn't got room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ReleaseError(
            f"{folder} has room for {free:,} bytes, and {size:,} are needed.", hint="Make room, or name another disk."
        )
