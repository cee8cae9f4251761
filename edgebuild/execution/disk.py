"""Durable file operations: what is reported as written survives a crash, and is whole or absent.

Every failure of the disk under the store leaves here as a ``StoreError`` with one sentence and a way out.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

FULL_HINT = "free some disk space, run `edgebuild store gc`, or put the store on another disk"
READ_ONLY_HINT = "make it writable for this user, or choose another store"


@contextmanager
def disk_errors(root: Path, doing: str) -> Iterator[None]:
    """Turn an ``OSError`` of the enclosed work into a ``StoreError`` that names the store and what was being done."""
    try:
        yield
    except OSError as error:
        raise store_error(error, root, doing) from error


def store_error(error: OSError, root: Path, doing: str) -> StoreError:
    """Return the ``StoreError`` that says in one sentence what the disk refused."""
    if error.errno in FULL:
        return StoreError(f"the disk under the store {root} is full: {doing} failed", hint=FULL_HINT)
    if error.errno in READ_ONLY:
        return StoreError(f"the store {root} can't be written: {doing} failed ({error.strerror})", hint=READ_ONLY_HINT)
    reason = error.strerror or str(error)
    return StoreError(f"the store {root} can't be used: {doing} failed ({reason})", hint="check the disk and the path")


def copy_file(source: str, target: str) -> str:
    """Copy a file's content for ``shutil.copytree``, which goes on after an ``OSError`` and forgets its number.

    Raises ``StoreError`` at once where the disk is full or read-only.
    """
    try:
        return shutil.copyfile(source, target)
    except OSError as error:
        if error.errno in FULL | READ_ONLY:
            raise store_error(error, Path(target).parent, f"copying {Path(target).name}") from error
        raise


def sync_folder(folder: Path) -> None:
    """Make the names inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_staged(folder: Path, data: bytes, *, durable: bool = True) -> Path:
    """Write ``data`` to a new file in ``folder`` and return it; nothing stays behind on failure."""
    path = folder / f".new-{secrets.token_hex(8)}"
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def write_atomically(path: Path, data: bytes, *, staging: Path, durable: bool = True) -> None:
    """Put ``data`` at ``path``: readers see the old file or the whole new one; a kill litters ``staging`` only.

    With ``durable`` the new file survives a crash of the machine once this returns.
    """
    staged = write_staged(staging, data, durable=durable)
    try:
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def make_folder_durably(folder: Path) -> None:
    """Create one folder, if absent, so that it survives a crash. Raises ``OSError`` where something else lies there."""
    try:
        folder.mkdir()
    except FileExistsError:
        if not is_folder(folder):
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a link or no folder, and isn't followed") from None
        return
    sync_folder(folder.parent)


def remove(path: Path) -> None:
    """Remove a folder with all inside it, a file, or a link and never what it points to.

    Absent, or removed by another at the same time, is fine.
    """
    while os.path.lexists(path):
        with suppress(FileNotFoundError):
            if not is_folder(path):
                path.unlink()
                continue
            for parent, _, _ in os.walk(path):
                Path(parent).chmod(0o700)
            shutil.rmtree(path)


def is_folder(path: Path) -> bool:
    """Whether a folder lies there: a link to one is none."""
    return path.is_dir() and not path.is_symlink()


def is_file(path: Path) -> bool:
    """Whether a plain file lies there: a link to one is none."""
    return path.is_file() and not path.is_symlink()


def has_links(folder: Path) -> bool:
    """Whether a link lies anywhere below ``folder``, or in its place."""
    return folder.is_symlink() or any(path.is_symlink() for path in folder.rglob("*"))


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a plain file.

    Raises ``OSError`` for a link, a folder or a fifo: none is followed or waited for.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a plain file", str(path))


def read_plain(path: Path, most: int = -1) -> bytes:
    """Return what a plain file holds, at most this many bytes; raises as ``open_plain``."""
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read(most)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below ``folder``; files that vanish meanwhile count as nothing."""
    total = 0
    if folder.is_symlink():
        return total
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total
