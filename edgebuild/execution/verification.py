"""Is a stored file still what its digest says? Hash once, then trust an unchanged inode.

A file is trusted without reading it when size, modification time, change time and inode are as they were when it was
hashed. The change time can't be set back by a program, so a write that restores the modification time is noticed too.
A record taken within the clock tick of a change proves nothing, and isn't used.
"""

from __future__ import annotations

import json
import time
from stat import S_ISREG
from typing import TYPE_CHECKING, TypeAlias

from edgebuild.core.values import digest_file
from edgebuild.execution.disk import read_plain

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from edgebuild.core.artifact import FileEntry

#: Longer than the tick of the kernel's file clock (at most 10 ms at 100 Hz).
TICK_NS = 20_000_000

Record: TypeAlias = dict[str, list[int]]


def signature(stat: os.stat_result) -> list[int]:
    """Return what identifies an unchanged file: size, modification and change time, inode."""
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def settle(paths: list[Path]) -> None:
    """Wait until a change of any of ``paths`` from now on gets a later change time."""
    newest = max((path.stat().st_ctime_ns for path in paths), default=0)
    wait_ns = newest + TICK_NS - time.time_ns()
    if 0 < wait_ns <= TICK_NS:
        time.sleep(wait_ns / 1e9)


def load_record(path: Path) -> Record:
    """Return the signatures of the files hashed before; unreadable ones are none (the files are hashed again)."""
    try:
        record = json.loads(read_plain(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def trusted(record: Record, name: str, stat: os.stat_result) -> bool:
    """Whether ``record`` shows that the file ``name`` was hashed in exactly this state."""
    return record.get(name) == signature(stat)


def unharmed(path: Path, file: FileEntry, name: str, record: Record, fresh: Record) -> bool:
    """Whether ``path`` holds what ``file`` says; hashes it unless ``record`` vouches for ``name``.

    What may be trusted next time is put into ``fresh``.
    """
    try:
        stat = path.lstat()
        if stat.st_size != file.size_bytes or not S_ISREG(stat.st_mode):
            return False
        if not trusted(record, name, stat):
            if digest_file(path) != file.sha256:
                return False
            if time.time_ns() - stat.st_ctime_ns < TICK_NS:
                return True  # true now, but a write within this tick would look the same: don't vouch for it
    except FileNotFoundError:
        return False
    fresh[name] = signature(stat)
    return True
