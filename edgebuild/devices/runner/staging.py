"""Puts folders together from files that were sent under their digests."""

from __future__ import annotations

import hashlib
import os
import shutil

from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields


def stage(request: Fields) -> Fields:
    """Build ``<root>/cas/<digest>`` from ``<root>/blobs`` by hard links, every file verified; whole or not at all."""
    root, digest = request["root"], request["digest"]
    folder = os.path.join(root, "cas", plain(digest))
    if _complete(folder, request["files"]):
        return {"path": folder, "reused": True}
    shutil.rmtree(folder, ignore_errors=True)
    partial = "%s.%d.part" % (folder, os.getpid())
    try:
        for entry in request["files"]:
            _place(root, partial, entry)
        os.makedirs(partial, exist_ok=True)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"path": folder, "reused": False}


def _complete(folder: str, files: list[Fields]) -> bool:
    try:
        return all(os.path.getsize(os.path.join(folder, f["path"])) == f["size_bytes"] for f in files)
    except OSError:
        return False


def _place(root: str, partial: str, entry: Fields) -> None:
    path = os.path.normpath(entry["path"])
    if os.path.isabs(path) or path.startswith(".."):
        raise Problem("usage", "The file %r would leave its folder." % entry["path"])
    blob = os.path.join(root, "blobs", plain(entry["sha256"]))
    if digest_of(blob) != entry["sha256"]:
        os.unlink(blob)
        raise Problem("device", "The file %s was damaged on its way or on the disk." % entry["path"], "Try again.")
    target = os.path.join(partial, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(blob, target)
    except OSError:
        shutil.copyfile(blob, target)


def plain(name: str) -> str:
    """Return a digest that may be a part of a path; raises for anything else."""
    if not name.isalnum():
        raise Problem("usage", "%r is not a digest." % name)
    return name


def digest_of(path: str) -> str:
    """Return the SHA-256 of a file in hex, in bounded memory."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            hasher.update(chunk)
    return hasher.hexdigest()
