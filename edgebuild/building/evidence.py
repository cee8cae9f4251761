"""Names folders of evidence by the digest of their files, and finds those that changed since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.record import Evidence
from edgebuild.core.values import digest_json
from edgebuild.errors import EdgebuildError
from edgebuild.execution.manifest import list_folder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Where the latencies that a report draws lie, next to the record.
SAMPLES = "samples"
#: What a session's folder holds from its end on; a later build may add figures of other kinds.
LASTING = ("session.json", "launch-", "result.json")


def evidence_of(home: Path, folder: Path) -> Evidence:
    """Return a folder of evidence as a record names it. Raises ``EdgebuildError`` for links, ``OSError``."""
    files = [file for file in list_folder(folder) if folder.name == SAMPLES or file.path.startswith(LASTING)]
    return Evidence(path=folder.relative_to(home).as_posix(), sha256=digest_json([file.to_json() for file in files]))


def changed(home: Path, evidence: Iterable[Evidence]) -> tuple[str, ...]:
    """Return the folders of evidence that are gone, or not what they were when their record was written."""
    return tuple(each.path for each in evidence if not _unchanged(home, each))


def _unchanged(home: Path, evidence: Evidence) -> bool:
    try:
        folder = home / evidence.path
        return folder.is_dir() and evidence_of(home, folder) == evidence
    except (EdgebuildError, OSError, ValueError):
        return False
