"""The folder on this machine that stands for a device's disk: claimed once, shared while in use, tidied while not."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from edgebuild.devices.runner import room
from edgebuild.errors import UsageError

#: What a folder may take up before the next use of it makes room.
QUOTA_BYTES = 4_000_000_000
OTHER = "Name a folder that is empty, or not there yet."


def claim(root: Path) -> int:
    """Make the folder, or find it to be one of ours, and return a handle that keeps it from being tidied meanwhile.

    Raises ``UsageError`` for a link, a home, and a folder that holds anything else; ``OSError`` where it can't be made.
    """
    if root.is_symlink():
        raise UsageError(f"{root} is a link, and is not followed.", hint="Remove it: a folder is made in its place.")
    root.mkdir(parents=True, exist_ok=True)
    home = os.environ.get("HOME")
    if problem := unfit(str(root.resolve()), str(Path(home).resolve()) if home else ""):
        raise UsageError(f"{root} {problem}, and can't be a device's folder.", hint=OTHER)
    marker = root / room.MARKER
    if not room.marked(str(root)):
        names = [path.name for path in root.iterdir()]
        runners = [Path(path).name for path in room.children(str(root / "runner"))]
        if names and not room.looks_older(names, runners):
            raise UsageError(f"{root} isn't empty, and isn't a device's folder of edgebuild's.", hint=OTHER)
        with contextlib.suppress(FileExistsError), marker.open("x", encoding="utf-8") as file:
            file.write(room.MARKER_TEXT)
    handle = os.open(marker, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def unfit(root: str, home: str) -> str | None:
    """Return why an absolute path must never be a device's folder: everything in there would be edgebuild's."""
    if root == "/":
        return "is the whole disk"
    if root == home or home.startswith(f"{root}/"):
        return "is a home, or holds one"
    return None


def bytes_of(root: Path) -> int:
    """Return what the folder takes up; files that are linked twice count once."""
    return sum(room.taken(str(root)).values()) if room.marked(str(root)) else 0


def tidy(root: Path, most_bytes: int | None) -> bool:
    """Remove what killed runs left, then what was used longest ago until ``most_bytes`` are left (None: no limit).

    Returns False, and does nothing, where the folder is in use or isn't ours.
    """
    if root.is_symlink() or not room.marked(str(root)):
        return False
    handle = os.open(root / room.MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in [*room.children(str(root / "work")), *_unfinished(root)]:
            room.discard(path)
        if most_bytes is not None:
            room.make_room(str(root), most_bytes, "")
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _unfinished(root: Path) -> list[str]:
    places = [path for part in (*room.COPIES, "runner") for path in room.children(str(root / part))]
    return [path for path in places if path.endswith(".part") or Path(path).name.startswith(".put-")]


def clear(root: Path) -> tuple[str, ...]:
    """Remove what edgebuild put into a folder, and the folder; return what isn't ours. One that isn't there is fine."""
    if not root.exists():
        return ()
    os.close(claim(root))
    return tuple(room.clear(str(root)))
