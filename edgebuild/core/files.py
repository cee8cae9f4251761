"""Files that somebody else named: only plain ones are opened, and whatever the system refuses is an ``OSError``.

A pipe would be waited for without end, a device has no end, and some names can't be files at all.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from typing import BinaryIO

#: Why a file that isn't there can't be read.
ABSENT = "doesn't exist"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading, unbuffered waits excluded: what is no plain file is refused before anything is read.

    Raises ``OSError``, whose ``strerror`` says why, for a name that can't be a file's too. Links are followed.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, "its name holds characters that no file name can", str(path)) from error
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "it is a socket, not a file", str(path)) from error
        raise
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is {_kind(mode)}, not a file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_plain(path: Path, limit_bytes: int) -> bytes:
    """Return a plain file's content, or its first ``limit_bytes`` + 1 bytes; raises as ``open_plain``."""
    with open_plain(path) as file:
        return file.read(limit_bytes + 1)


def why_not_plain(path: Path) -> str | None:
    """Return why ``path`` is no plain file to read, as the end of a sentence on it; None where it is one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return ABSENT
    except OSError as error:
        return f"can't be read: {error.strerror}"
    except ValueError:
        return "can't be a file: its name holds characters that no file name can"
    return None if stat.S_ISREG(mode) else f"is {_kind(mode)}, not a file"


def _kind(mode: int) -> str:
    return next((words for holds, words in _KINDS if holds(mode)), "something else")


def home_folder() -> Path:
    """Return the user's home. Raises ``EnvironmentGap`` where there is none: no $HOME, no entry of the user's."""
    try:
        if os.environ.get("HOME") == "":  # Python would take the root of the file system for it
            return Path(pwd.getpwuid(os.getuid()).pw_dir)
        return Path.home()
    except (RuntimeError, KeyError) as error:
        raise EnvironmentGap("This user has no home folder.", hint="Set HOME to a folder.") from error


def expanded(path: str | Path) -> Path:
    """Return a path with a leading ``~`` as the home folder; raises ``EnvironmentGap`` where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise EnvironmentGap(f"{path}: there is no such home folder.", hint="Write the whole path.") from error


def resolved(path: Path) -> Path:
    """Return the absolute path with its links followed; one whose links go round in circles stays as it is."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


def cache_home() -> Path:
    """Return edgebuild's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home_folder() / ".cache") / "edgebuild"
