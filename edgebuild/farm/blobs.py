"""Files of the farm, by their digests: models that are to be measured, and the raw samples that came of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgebuild.errors import DataError, StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: What one file may hold.
MOST_BYTES = 4 << 30
CHUNK_BYTES = 1 << 20


class Blobs:
    """A folder of files, each under the SHA-256 of what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Between a look at a file's age and its end nobody may ask for it.
        self._ending = threading.Lock()

    def path(self, digest: str) -> Path:
        """Return where a file lies, or would; raises ``UsageError`` for what is no digest."""
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{digest[:80]!r} is no SHA-256.", hint="Give 64 hexadecimal digits.")
        return self.folder / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether a file is there."""
        return self.path(digest).is_file()

    def ask(self, digest: str) -> bool:
        """Whether a file is there; from now on it counts as new (see ``drop``). Raises ``StoreError``."""
        path = self.path(digest)
        with self._ending:
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise _full(path, error) from error
        return True

    def untouched(self, before: float) -> set[str]:
        """Return the digests of the files that nobody sent or asked for since ``before``."""
        return {path.name for path in self.folder.glob("??/*") if _DIGEST.fullmatch(path.name) and _older(path, before)}

    def drop(self, digest: str, before: float) -> bool:
        """Remove a file, unless somebody sent it or asked for it since ``before``; return whether it was removed."""
        path = self.path(digest)
        with self._ending:
            if not _older(path, before):
                return False
            path.unlink(missing_ok=True)
        return True

    def drop_parts(self, before: float) -> None:
        """Remove what is left of files that never arrived whole, their server having been killed."""
        for path in self.folder.glob(".part-*"):
            if _older(path, before):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def receive(self, digest: str) -> Iterator[Receiving]:
        """Yield what takes a file's bytes; it is kept at the end if they are those of its digest.

        Raises ``DataError`` for others, and for more than ``MOST_BYTES``; ``StoreError`` when the disk is full.
        """
        path = self.path(digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(dir=self.folder, prefix=".part-")
        except OSError as error:
            raise _full(path, error) from error
        try:
            with os.fdopen(handle, "wb") as file:
                receiving = Receiving(file, path)
                yield receiving
                receiving.require(digest)
                _sync(file, path)
            Path(scratch).replace(path)
        finally:
            Path(scratch).unlink(missing_ok=True)

    def put(self, data: Iterable[bytes], digest: str) -> None:
        """Keep a file's bytes (see ``receive``)."""
        with self.receive(digest) as receiving:
            for chunk in data:
                receiving.take(chunk)


class Receiving:
    """Takes the bytes of one file."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self._hash = hashlib.sha256()
        self._taken = 0

    def take(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._taken += len(chunk)
        if self._taken > MOST_BYTES:
            raise DataError(f"A file of more than {MOST_BYTES:,} bytes isn't kept.")
        self._hash.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise _full(self._path, error) from error

    def require(self, digest: str) -> None:
        """Raise ``DataError`` unless all that was taken has this digest."""
        if self._hash.hexdigest() != digest:
            raise DataError("The file arrived damaged: its bytes aren't those of its digest.", hint="Send it again.")


def _sync(file: IO[bytes], path: Path) -> None:
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise _full(path, error) from error


def _older(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False


def _full(path: Path, error: OSError) -> StoreError:
    return StoreError(f"The farm can't keep {path.name}: {error.strerror}.", hint=f"Make room at {path.parent.parent}.")
