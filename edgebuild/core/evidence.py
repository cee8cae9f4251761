"""Names folders of evidence by the digest of their files, and finds those that changed since."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from edgebuild.core.golden import FALLBACK, GOLDEN
from edgebuild.core.record import Evidence
from edgebuild.core.scores import SCORES
from edgebuild.core.values import digest_file, digest_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

#: Where the latencies that a report draws lie, next to the record.
SAMPLES = "samples"
#: What lies next to a record, and is kept whole.
KEPT = (SAMPLES, GOLDEN, FALLBACK, SCORES)
#: What a session's folder never loses or changes; a later build may add launches and figures of other kinds.
LAUNCH = "launch-"


def evidence_of(home: Path, folder: Path) -> Evidence:
    """Return a folder of evidence as a record names it. Raises ``OSError``, ``ValueError`` for another folder."""
    names = _names(folder)
    path = folder.relative_to(home).as_posix()
    return Evidence(path=path, files=len(names), sha256=_digest(folder, names))


def changed(home: Path, evidence: Iterable[Evidence], digest: Callable[[Path], str] = digest_file) -> tuple[str, ...]:
    """Return the folders of evidence that are gone, or not what they were when their record was written.

    ``digest`` returns the SHA-256 of a file, for those who have read some already.
    """
    return tuple(each.path for each in evidence if not _unchanged(home, each, digest))


def _unchanged(home: Path, evidence: Evidence, digest: Callable[[Path], str]) -> bool:
    folder = home / evidence.path
    try:
        names = _names(folder)[: evidence.files]
        return len(names) == evidence.files and _digest(folder, names, digest) == evidence.sha256
    except OSError:
        return False


def _names(folder: Path) -> list[str]:
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise NotADirectoryError(folder)
    if folder.name in KEPT:
        return sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if not each.is_dir())
    return sorted(each.name for each in folder.iterdir() if each.name.startswith(LAUNCH))


def _digest(folder: Path, names: Iterable[str], digest: Callable[[Path], str] = digest_file) -> str:
    return digest_json([[name, digest(folder / name)] for name in names])
