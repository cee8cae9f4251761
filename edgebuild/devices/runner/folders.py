"""Folders on this device that lie under the digest of everything in them, and the bounds of what may be touched.

A file is hashed by name and then opened by the runtime by name. Nothing keeps a program with this user's rights from
changing it in between; a fault of the disk that comes later is found by the next operation.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat

from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict

    from .protocol import Fields

    #: What lies in a folder: path to {path, sha256, size_bytes}.
    Listing = Dict[str, Fields]

CHUNK_BYTES = 1 << 20
MAX_PATH_CHARACTERS = 1024
#: Fields of requests that name files and folders of ours.
PLACES = ("artifact", "inputs", "model", "out", "outputs")
AGAIN = "Run the command again: what is damaged is sent again."


def require_inside(request: Fields) -> None:
    """Raise unless all that a request reads and writes lies under the root, reached without a link."""
    for field in PLACES:
        if field in request:
            inside(request["root"], request[field])


def inside(root: str, name: str) -> str:
    """Return the path of ``name`` under ``root``; raises where it leaves it, or where a part of it is a link."""
    path = os.path.join(root, name)
    if os.path.normpath(path) != path or not path.startswith(root + "/") or "\0" in path:
        raise Problem("usage", "%r lies outside of the device's folder %s." % (name, root))
    part = root
    for each in os.path.relpath(path, root).split("/"):
        part = os.path.join(part, each)
        if os.path.islink(part):
            raise Problem("device", "%s is a link, and is not followed." % part, "Remove it.")
    return path


def plain_path(path: object) -> bool:
    """Whether ``path`` is a relative one, in its one POSIX form, that stays in its folder."""
    if not isinstance(path, str) or len(path) > MAX_PATH_CHARACTERS or "\\" in path:
        return False
    return all(part not in ("", ".", "..") for part in path.split("/")) and all(ord(c) >= 32 for c in path)


def is_digest(text: object) -> bool:
    """Whether ``text`` is a SHA-256 in lower-case hex."""
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def listing(folder: str, tell: Callable[[], None] = lambda: None) -> Listing:
    """Read every file below ``folder`` and return what lies there; raises for links and special files.

    ``tell`` is called often meanwhile: a large folder takes minutes on a slow disk.
    """
    found: Listing = {}
    try:
        for parent, folders, names in os.walk(folder, onerror=_raise):
            for name in folders + names:
                path = os.path.join(parent, name)
                mode = os.lstat(path).st_mode
                if stat.S_ISDIR(mode):
                    continue
                if not stat.S_ISREG(mode):
                    raise Problem("device", "%s is a link or no plain file." % path, "Remove it.")
                relative = os.path.relpath(path, folder)
                found[relative] = {
                    "path": relative,
                    "sha256": digest_of(path, tell),
                    "size_bytes": os.lstat(path).st_size,
                }
    except (OSError, RecursionError) as error:
        raise Problem("device", "Can't read %s: %s." % (folder, error), AGAIN) from error
    return found


def digest_of_listing(found: Listing) -> str:
    """Return the digest under which a folder lies: that of the canonical JSON of its files, sorted by path."""
    entries = [found[path] for path in sorted(found)]
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def checked(folder: str, tell: Callable[[], None] = lambda: None) -> Listing:
    """Return what lies in a folder that is named by its digest; raises unless every byte of it is what was sent."""
    found = listing(folder, tell)
    if digest_of_listing(found) != os.path.basename(folder):
        raise Problem("device", "%s isn't what was sent: a file there was changed or damaged." % folder, AGAIN)
    return found


def digest_of(path: str, tell: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 of a plain file in hex, in bounded memory; raises ``OSError`` for a link."""
    hasher = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            hasher.update(chunk)
            tell()
    return hasher.hexdigest()


def _raise(error: OSError) -> None:
    raise error
