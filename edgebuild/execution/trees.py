"""Folders that hand out stored files under their names: hard links to blobs, read-only as far as permissions reach."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.execution.disk import is_folder, remove
from edgebuild.execution.verification import Record, unharmed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgebuild.core.artifact import FileEntry
    from edgebuild.execution.layout import Layout

#: The disk can't link (any more); a copy serves as well.
NO_LINK = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP})


def is_whole(tree: Path, layout: Layout, files: Iterable[FileEntry], record: Record, fresh: Record) -> bool:
    """Whether ``tree`` holds exactly ``files``, each the (already verified) blob itself or an equal copy."""
    found = _names(tree)
    if found is None:
        return False
    for file in files:
        if file.path not in found:
            return False
        found.remove(file.path)
        path = tree / file.path
        if not os.path.samestat(path.lstat(), layout.blob(file.sha256).lstat()) and not unharmed(
            path, file, f"tree/{file.path}", record, fresh
        ):
            return False
    return not found


def _names(tree: Path) -> set[str] | None:
    if not is_folder(tree):
        return None
    names: set[str] = set()
    for parent, folders, files in os.walk(tree):
        if any((Path(parent) / folder).is_symlink() for folder in folders):
            return None
        names.update((Path(parent) / file).relative_to(tree).as_posix() for file in files)
    return names


def build(tree: Path, layout: Layout, files: Iterable[FileEntry], staging: Path) -> None:
    """Put ``files`` at ``tree``, replacing what was there. Needs the exclusive guard, and an empty ``staging``."""
    staged = staging / "tree"
    staged.mkdir()
    for file in files:
        path = staged / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        _link(layout.blob(file.sha256), path)
    remove(tree)
    staged.replace(tree)
    for parent, _, _ in os.walk(tree, topdown=False):
        Path(parent).chmod(0o555)


def _link(blob: Path, path: Path) -> None:
    try:
        path.hardlink_to(blob)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        shutil.copyfile(blob, path)
        path.chmod(0o444)
