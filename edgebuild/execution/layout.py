"""Where things lie in a store, and the format marker that keeps an older edgebuild out of a newer store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.files import expanded
from edgebuild.errors import StoreError
from edgebuild.execution.disk import (
    disk_errors,
    is_folder,
    make_folder_durably,
    open_plain,
    read_plain,
    write_atomically,
)

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
VERSION_NAME = "VERSION"
STAGED_PREFIX = ".new-"
MAX_VERSION_BYTES = 1024
FOLDERS = ("blobs", "entries", "trees", "verified", "scratch", "labels", "locks", "tmp")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The folders of a local store. ``writable`` is False on a read-only disk or without permission."""

    root: Path
    writable: bool

    @property
    def guard(self) -> Path:
        """The file that look-ups share, and publishing and ``gc`` take alone."""
        return self.root / "guard"

    @property
    def tmp(self) -> Path:
        """Where living processes stage."""
        return self.root / "tmp"

    def blob(self, sha256: str) -> Path:
        """The place of one content."""
        return self.root / "blobs" / sha256[:2] / sha256

    def entry(self, key: str) -> Path:
        """The manifest of one key."""
        return self.root / "entries" / key

    def tree(self, digest: str) -> Path:
        """The folder that holds the files of a content digest under their names."""
        return self.root / "trees" / digest

    def verified(self, key: str) -> Path:
        """The record of when the blobs of a key were hashed."""
        return self.root / "verified" / key

    def scratch(self, key: str) -> Path:
        """The unfinished work of a key."""
        return self.root / "scratch" / key

    def label(self, digest: str) -> Path:
        """What a label was last made from."""
        return self.root / "labels" / digest

    def lock(self, key: str) -> Path:
        """The lock of the process that makes a key."""
        return self.root / "locks" / key


def version_text() -> bytes:
    """Return the content of a format marker."""
    return f"edgebuild-store {FORMAT}\n".encode()


def check_version(text: bytes, where: str) -> None:
    """Raise ``StoreError`` unless ``text`` is the marker of a format that this edgebuild reads."""
    name, _, number = text.decode(errors="replace").strip().partition(" ")
    if name != "edgebuild-store" or not number.isdecimal():
        raise StoreError(
            f"{where} is no edgebuild store, or its {VERSION_NAME} file is damaged",
            hint=f"choose another place, or if it is one, write {version_text().decode().strip()!r} to {VERSION_NAME}",
        )
    if int(number) > FORMAT:
        raise StoreError(
            f"the store {where} has format {number}, written by a newer edgebuild; this one reads up to {FORMAT}",
            hint="upgrade edgebuild, or choose another store",
        )


def open_layout(root: Path) -> Layout:
    """Return the layout of the store at ``root``, created if absent.

    Raises ``StoreError`` when it can't be created, holds something else, or has a newer format.
    """
    root = expanded(root).absolute()
    with disk_errors(root, "opening it"):
        if not root.is_dir():
            root.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in root.iterdir()}
        if VERSION_NAME in names:
            check_version(read_plain(root / VERSION_NAME, MAX_VERSION_BYTES), str(root))
        elif any(not name.startswith(STAGED_PREFIX) for name in names):
            raise StoreError(
                f"{root} isn't empty and isn't an edgebuild store", hint="choose an empty folder for the store"
            )
        else:
            write_atomically(root / VERSION_NAME, version_text(), staging=root)
        _refuse_links(root)
        writable = _complete(root) and all(os.access(root / name, os.W_OK) for name in FOLDERS)
        return Layout(root=root, writable=writable)


def _refuse_links(root: Path) -> None:
    """Raise ``StoreError`` where a link would lead writing or removing out of the store; the root may be one."""
    inside = [root / name for name in (*FOLDERS, "guard")]
    inside += list((root / "blobs").iterdir()) if is_folder(root / "blobs") else []
    for path in inside:
        if path.is_symlink() or (path.name in FOLDERS and path.exists() and not is_folder(path)):
            raise StoreError(
                f"{path} is a link, or no folder: nothing outside a store is written or removed",
                hint="remove it; to keep a store on another disk, link the whole store, or name it in [store]",
            )


def _complete(root: Path) -> bool:
    """Make what is missing inside; False where the root can't be written."""
    if not os.access(root, os.W_OK):
        return False
    for name in FOLDERS:
        make_folder_durably(root / name)
    os.close(open_plain(root / "guard", os.O_RDONLY | os.O_CREAT))
    return True
