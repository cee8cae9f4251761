"""The seal on the test set: an append-only record of every time it was opened, and for what.

A line per opening: which frozen artifacts (by digest, all targets at once) were scored on which test set. Scoring the
very same artifacts again is not a new opening; anything else is the k-th one, and is judged at α/k.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edgebuild.core.values import canonical_json, digest_json
from edgebuild.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Opening:
    """One opening of a test set; ``number`` counts from 1."""

    number: int
    opened_at: str
    artifacts: tuple[str, ...]

    @property
    def text(self) -> str:
        """How it is printed."""
        return f"opening {self.number} of the test set ({self.opened_at[:10]}, {len(self.artifacts)} artifacts)"


def open_seal(path: Path, *, project: str, test_digest: str, artifacts: Iterable[str]) -> Opening:
    """Record that ``artifacts`` are about to be scored on the test set, and return which opening this is.

    The record is on disk before anything is scored. Raises ``StoreError`` when it can't be written or was tampered
    with: then the test set must not be opened.
    """
    scored = tuple(sorted(set(artifacts)))
    earlier = _read(path, project, test_digest)
    for opening in earlier:
        if set(scored) <= set(opening.artifacts):
            return opening
    opening = Opening(number=len(earlier) + 1, opened_at=datetime.now(UTC).isoformat(), artifacts=scored)
    _append(path, project, test_digest, opening)
    return opening


def _read(path: Path, project: str, test_digest: str) -> list[Opening]:
    if not path.exists():
        return []
    openings, previous = [], ""
    for number, line in enumerate(_lines(path), start=1):
        try:
            entry = json.loads(line)
            chained = entry["previous"] == previous
            previous = entry["digest"]
            body = {key: value for key, value in entry.items() if key != "digest"}
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, number) from error
        if not chained or digest_json(body) != entry["digest"]:
            raise _damaged(path, number)
        if (entry["project"], entry["test"]) == (project, test_digest):
            openings.append(
                Opening(number=entry["opening"], opened_at=entry["at"], artifacts=tuple(entry["artifacts"]))
            )
    return openings


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise _damaged(path, 1) from error
    except OSError as error:
        raise StoreError(
            f"The record of test-set openings {path} can't be read: {error.strerror}.",
            hint="Make the file readable; without it the test set stays sealed.",
        ) from error


def _append(path: Path, project: str, test_digest: str, opening: Opening) -> None:
    lines = _lines(path) if path.exists() else []
    body = {
        "at": opening.opened_at,
        "artifacts": list(opening.artifacts),
        "opening": opening.number,
        "previous": json.loads(lines[-1])["digest"] if lines else "",
        "project": project,
        "test": test_digest,
    }
    size = path.stat().st_size if path.exists() else 0
    try:
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(canonical_json({**body, "digest": digest_json(body)}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # Half a line would make every later build take the record for damaged.
            if path.exists():
                os.truncate(path, size)
            raise
    except OSError as error:
        raise StoreError(
            f"The record of test-set openings {path} can't be written: {error.strerror}.",
            hint="Without it the test set stays sealed. Free some space or make the folder writable.",
        ) from error


def _damaged(path: Path, line: int) -> StoreError:
    return StoreError(
        f"The record of test-set openings {path} was changed or damaged in line {line}.",
        hint="Restore it from version control or a backup; it is what makes later results honest.",
    )
