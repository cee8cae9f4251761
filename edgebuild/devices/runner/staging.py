"""Puts folders together from files that were sent under their digests."""

from __future__ import annotations

import os
import shutil

from .folders import digest_of, digest_of_listing, inside, is_digest, listing, plain_path
from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields


def stage(request: Fields) -> Fields:
    """Build ``<root>/cas/<digest>`` from ``<root>/blobs`` by hard links, every file verified; whole or not at all.

    Returns ``{"path", "reused"}``, or ``{"missing": digests}`` of what has to be sent first. A folder that is there is
    read again: one that was damaged is removed, with the files that it was made of.
    """
    root, digest, entries = request["root"], request["digest"], request["files"]
    for entry in entries:
        if not plain_path(entry["path"]) or not is_digest(entry["sha256"]):
            raise Problem("usage", "The file %r would leave its folder." % (entry["path"],))
    if digest_of_listing({entry["path"]: entry for entry in entries}) != digest:
        raise Problem("usage", "%r is not the digest of these files." % (digest,))
    folder = inside(root, os.path.join("cas", digest))
    if _whole(folder, digest):
        os.utime(folder)  # what was used longest ago makes room first
        return {"path": folder, "reused": True}
    _discard(folder)
    blobs = {entry["sha256"]: inside(root, os.path.join("blobs", entry["sha256"])) for entry in entries}
    missing = [sha256 for sha256, blob in blobs.items() if not _intact(blob, sha256)]
    if missing:
        return {"missing": missing}
    partial = "%s.%d.part" % (folder, os.getpid())
    _discard(partial)
    os.makedirs(partial)
    try:
        for entry in entries:
            _place(blobs[entry["sha256"]], os.path.join(partial, entry["path"]))
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"path": folder, "reused": False}


def _whole(folder: str, digest: str) -> bool:
    try:
        return digest_of_listing(listing(folder)) == digest
    except Problem:
        return False


def _intact(blob: str, sha256: str) -> bool:
    """Whether a file is what its name says; what isn't, is removed."""
    try:
        if digest_of(blob) == sha256:
            return True
    except OSError:
        pass
    _discard(blob)
    return False


def _place(blob: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(blob, target)
    except OSError:
        shutil.copyfile(blob, target)


def _discard(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
