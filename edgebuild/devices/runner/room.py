"""A device's folder: marked as edgebuild's, kept under a quota, and emptied again. Runs here and on boards.

Nothing is removed from, or put into, a folder without the marker; no link is followed. On a board this file itself is
the script, with a call behind it; it imports nothing of edgebuild.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys

TYPE_CHECKING = False

#: Written when the folder is made.
MARKER = ".edgebuild-device"
MARKER_TEXT = "edgebuild-device 1\n"
#: Everything that edgebuild puts there.
PARTS = ("attempt", "blobs", "cas", "counts-", "runner", "site", "work")
#: What holds copies, which are put there again where they are needed.
COPIES = ("blobs", "cas", "site")


def marked(root: str) -> bool:
    """Whether a folder is one of edgebuild's."""
    try:
        return stat.S_ISREG(os.lstat(os.path.join(root, MARKER)).st_mode)
    except OSError:
        return False


def looks_older(names: list[str], runners: list[str]) -> bool:
    """Whether a folder that holds ``names``, and ``runners`` in "runner", was made before there was a marker."""
    ours = all(name.split(".")[0] in PARTS or name.startswith("counts-") for name in names)
    return ours and bool(runners) and all(len(name) == 68 and name.endswith(".pyz") for name in runners)


def require_marked(root: str) -> None:
    """End the process unless the folder is one of edgebuild's."""
    if not marked(root):
        sys.exit("%s is no folder of edgebuild's (it has no file %s): nothing was removed." % (root, MARKER))


def taken(path: str) -> dict[int, int]:
    """Return the sizes of the files at and below ``path`` by inode."""
    found = {}
    paths = [path] + [os.path.join(d, name) for d, folders, files in os.walk(path) for name in folders + files]
    for each in paths:
        entry = os.lstat(each)
        if stat.S_ISREG(entry.st_mode):
            found[entry.st_ino] = entry.st_size
    return found


def make_room(root: str, most: int, site: str) -> int:
    """Remove what was used longest ago until no more than ``most`` bytes are left; return how many are.

    A file that is linked twice counts once. The packages that are in use (``site``) stay, and so do the runner and what
    is being put there.
    """
    sizes: dict[int, tuple[int, int]] = {}
    items = []
    for part in (*COPIES, "runner"):
        for path in children(os.path.join(root, part)):
            inodes = taken(path)
            for inode, size in inodes.items():
                sizes[inode] = (size, sizes.get(inode, (0, 0))[1] + 1)
            if part != "runner" and path != site and not path.endswith(".part"):
                items.append((last_use(path), path, list(inodes)))
    used = sum(size for size, _ in sizes.values())
    for _, path, inodes_of in sorted(items):
        if used <= most:
            break
        discard(path)
        for inode in inodes_of:
            size, links = sizes[inode]
            sizes[inode] = (size, links - 1)
            used -= size if links == 1 else 0
    return used


def clear(root: str) -> list[str]:
    """Remove what edgebuild put into the folder, then the folder; return what isn't ours, which stays."""
    for path in children(root):
        name = os.path.basename(path)
        if name.split(".")[0] in PARTS or name.startswith("counts-"):
            discard(path)
    os.unlink(os.path.join(root, MARKER))
    left = sorted(os.listdir(root))
    if not left:
        os.rmdir(root)
    return left


def children(folder: str) -> list[str]:
    """Return what lies in a folder, sorted; nothing of one that is a link or isn't there."""
    if os.path.islink(folder) or not os.path.isdir(folder):
        return []
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]


def last_use(path: str) -> float:
    """Return when anything at or below ``path`` was last read or written, as far as the disk notes it."""
    paths = [path] + [os.path.join(d, name) for d, _, files in os.walk(path) for name in files]
    return max(max(entry.st_atime, entry.st_mtime) for entry in map(os.lstat, paths))


def discard(path: str) -> None:
    """Remove a file, a link or a whole folder."""
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
    else:
        shutil.rmtree(path)
