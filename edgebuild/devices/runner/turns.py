"""The one lock of a machine: whoever measures or computes on it holds it, whichever user that is."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat

NAME = "edgebuild-measuring.lock"
#: For edgebuild's own tests, whose figures nobody reads: another lock, so that they wait for no measurement.
OVERRIDE = "EDGEBUILD_MACHINE_LOCK"
#: What is read of a holder's note, and shown of it.
NOTE_BYTES = 4096
SHOWN_CHARACTERS = 200
FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def lock_path() -> str:
    """Return the lock file, the same for all users: in /run/lock where everybody may write, else in /tmp.

    Nothing of a user's or a shell's own decides, such as TMPDIR or XDG_RUNTIME_DIR: all share the same cores.
    """
    folders = [folder for folder in ("/run/lock", "/tmp") if _for_all(folder)]  # noqa: S108  see MachineLock
    return os.environ.get(OVERRIDE) or os.path.join(folders[0] if folders else "/tmp", NAME)  # noqa: S108


def _for_all(folder: str) -> bool:
    try:
        return os.stat(folder).st_mode & 0o1777 == 0o1777
    except OSError:
        return False


class MachineLock:
    """A lock file that every user may take, opened so that nobody else's file is made, read or written in its place.

    The lock is the kernel's (flock), which needs no more than a file that can be read: one of another user serves as
    well. Raises ``OSError`` where there is something else under its name: a link, a fifo, a file with a second name.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._handle = _open(path)

    def take(self, shared: bool = False) -> bool:
        """Take it, alone or alongside others that share it; return False while somebody has it who doesn't."""
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if self._still_there():
            return True
        # Tidied away meanwhile: who comes next would take a new file.
        gone, self._handle = self._handle, _open(self.path)
        os.close(gone)
        return False

    def _still_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def holder(self) -> str:
        """Return who holds it, as he says."""
        try:
            facts = json.loads(os.pread(self._handle, NOTE_BYTES, 0).decode("utf-8", "replace"))
            text = "process %d (%s)" % (facts["pid"], facts["what"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return "another process"
        return "".join(each if each.isprintable() else "?" for each in text[:SHOWN_CHARACTERS])

    def note(self, what: str) -> None:
        """Say who holds it to those who wait; nothing where the file is another user's or the disk is full."""
        try:
            os.ftruncate(self._handle, 0)
            if what:
                os.pwrite(self._handle, json.dumps({"pid": os.getpid(), "what": what}).encode("utf-8"), 0)
        except OSError:
            return

    def close(self) -> None:
        """Give it back."""
        os.close(self._handle)


def _open(path: str) -> int:
    while True:
        try:
            handle = _opened(path)
        except FileNotFoundError:
            try:
                handle = os.open(path, FLAGS | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
            os.fchmod(handle, 0o666)  # whatever the umask says: it is everybody's
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
            return handle
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a plain file of one name", path)


def _opened(path: str) -> int:
    """Open what is there; never with O_CREAT, which a sticky folder refuses for a file of another user."""
    try:
        return os.open(path, FLAGS | os.O_RDWR)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, FLAGS | os.O_RDONLY)
