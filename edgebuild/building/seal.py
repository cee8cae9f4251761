"""The seal on the test set: an append-only record of every time it was opened, and for what.

A line per opening: which frozen artifacts (by digest, all targets at once) were scored on which test set. Scoring the
very same artifacts again is not a new opening; anything else is the k-th one, and is judged at α/k.

Every line carries the digest of the one before, and ``seal.head.json`` next to the record how many lines it has and the
last one's digest: so a line that was changed, moved, put in or cut off is noticed. Half a line at the end, which a
crash left before the opening was used, is put aside. What can't be noticed is that both files, or the whole folder, are
gone or older together: a record that must convince others belongs under version control.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeGuard

from edgebuild.core.values import canonical_json, digest_json
from edgebuild.core.verdict import SealedSetAccess
from edgebuild.errors import EdgebuildError, StoreError
from edgebuild.judging.intervals import level_for_opening
from edgebuild.measuring.session_folder import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

#: Opened as itself, or not at all: not what a link points to, and without waiting for whoever feeds a pipe.
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class _Record:
    """The whole lines of a record, as they were written: its first ``size`` bytes; ``torn`` is half a line after them.

    ``ended`` is false where only the last line's end is missing, ``found`` where there is no record at all.
    """

    entries: tuple[dict[str, Any], ...] = ()
    size: int = 0
    torn: bytes = b""
    ended: bool = True
    found: bool = True

    @property
    def head(self) -> str:
        return str(self.entries[-1]["digest"]) if self.entries else ""


def record_test_access(
    path: Path, *, project: str, test_digest: str, artifacts: Iterable[str], also: tuple[str, ...] = ()
) -> tuple[SealedSetAccess, tuple[str, ...]]:
    """Record that ``artifacts`` are about to be scored on the test set.

    Returns which opening this is, and what was found amiss in the record of them. That record is on disk before
    anything is scored. ``also`` are other digests that the same test set goes by in older lines. Raises ``StoreError``
    when it can't be written or was tampered with: then the test set must not be opened.
    """
    scored = tuple(sorted(set(artifacts)))
    record, notes = _settled(path)
    mine = [e for e in record.entries if e["project"] == project and e["test"] in {test_digest, *also}]
    others = sum(e["project"] == project for e in record.entries) - len(mine)
    for entry in mine:
        if set(scored) <= set(entry["artifacts"]):
            return _access(entry, others), notes
    number, now = max((entry["opening"] for entry in mine), default=0) + 1, datetime.now(UTC).isoformat()
    body = {
        "at": now,
        "artifacts": list(scored),
        "opening": number,
        "previous": record.head,
        "project": project,
        "test": test_digest,
    }
    digest = digest_json(body)
    _append(path, record.size, f"{'' if record.ended else chr(10)}{canonical_json({**body, 'digest': digest})}\n")
    _keep_head(path, len(record.entries) + 1, digest)
    return _access(body, others), notes


def _access(entry: Mapping[str, Any], others: int) -> SealedSetAccess:
    return SealedSetAccess(
        number=entry["opening"],
        opened_at=entry["at"],
        artifacts=tuple(entry["artifacts"]),
        others=others,
        level=level_for_opening(entry["opening"]),
    )


def openings_of(path: Path, *, project: str, test_digest: str, also: tuple[str, ...] = ()) -> int:
    """Return how many openings of a test set are on record, changing nothing. Raises ``StoreError`` as above."""
    entries = _read(path).entries
    mine = [e["opening"] for e in entries if e["project"] == project and e["test"] in {test_digest, *also}]
    return max(mine, default=0)


def _settled(path: Path) -> tuple[_Record, tuple[str, ...]]:
    """Return the record, compared with its head and without half a line, and what there is to say of it."""
    record, notes = _read(path), []
    head, lines = _head(path), len(record.entries)
    if head is None and record.found:
        notes.append(f"{_head_path(path).name} was missing or damaged: nothing shows whether {path.name} lost its end")
    kept, digest = head or (0, "")
    if kept > lines:
        raise _tampered(path, f"lost its end: it has {lines} whole lines, and had {kept} when it was last written")
    if kept and record.entries[kept - 1]["digest"] != digest:
        raise _tampered(path, f"was rewritten: line {kept} isn't the one that was last written")
    if record.torn:
        aside = _put_aside(path, record)
        notes.append(
            f"{path.name} ended in half a line, of an opening that was never used; it was moved to {aside.name}"
        )
    if lines and (kept, digest) != (lines, record.head):
        _keep_head(path, lines, record.head)
    return record, tuple(notes)


def _read(path: Path) -> _Record:
    content = _content(path)
    if content is None:
        return _Record(found=False)
    *whole, torn = content.split(b"\n")
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(whole, start=1):
        entry = _entry(line, entries[-1]["digest"] if entries else "")
        if entry is None:
            raise _tampered(path, f"was changed or damaged in line {number}")
        entries.append(entry)
    entry = _entry(torn, entries[-1]["digest"] if entries else "")
    if entry is not None:
        return _Record(entries=(*entries, entry), size=len(content), ended=False)
    return _Record(entries=tuple(entries), size=len(content) - len(torn), torn=torn)


def _entry(line: bytes, previous: str) -> dict[str, Any] | None:
    """Return a line that is as it was written, and follows the line whose digest is ``previous``."""
    try:
        entry = json.loads(line)
        body = {key: value for key, value in entry.items() if key != "digest"}
        sound = entry["previous"] == previous and entry["digest"] == digest_json(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    texts = all(isinstance(entry.get(name), str) for name in ("at", "project", "test"))
    return entry if sound and texts and _is_count(entry.get("opening")) and _are_texts(entry.get("artifacts")) else None


def _tampered(path: Path, what: str) -> StoreError:
    return StoreError(
        f"The record of test-set openings {path} {what}.",
        hint="Restore it from version control or a backup; it is what makes later results honest.",
    )


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _content(path: Path) -> bytes | None:
    """Return what is in a plain file; None where there is none."""
    try:
        with _opened(path, os.O_RDONLY) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(
            f"The record of test-set openings {path} can't be read: {error.strerror}.",
            hint="Make it a plain, readable file; without it the test set stays sealed.",
        ) from error


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | _PLAIN, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, "it is a link") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no plain file")
        yield descriptor
    finally:
        os.close(descriptor)


def _append(path: Path, size: int, line: str) -> None:
    """Write behind the first ``size`` bytes; what can't be written whole isn't written at all."""
    with _writing(path), _opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        try:
            os.lseek(descriptor, size, os.SEEK_SET)
            data = memoryview(line.encode())
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise


def _put_aside(path: Path, record: _Record) -> Path:
    """Move half a line out of the record, into a file of its own."""
    aside = path.with_name(f"{path.stem}.torn-{digest_json(record.torn.hex())[:8]}")
    with _writing(path):
        with _opened(aside, os.O_WRONLY | os.O_CREAT) as descriptor, os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(record.torn)
        with _opened(path, os.O_RDWR) as descriptor:
            os.ftruncate(descriptor, record.size)
            os.fsync(descriptor)
    return aside


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The record of test-set openings {path} can't be written: {error.strerror}.",
            hint="Without it the test set stays sealed. Free some space or make the folder writable.",
        ) from error


def _head_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.head.json")


def _keep_head(path: Path, lines: int, digest: str) -> None:
    body = {"head": digest, "lines": lines}
    write_atomic(_head_path(path), canonical_json({**body, "digest": digest_json(body)}) + "\n")


def _head(path: Path) -> tuple[int, str] | None:
    """Return how many lines the record had and the last one's digest; None where that isn't known."""
    try:
        found = json.loads(_content(_head_path(path)) or b"")
        body = {"head": found["head"], "lines": found["lines"]}
        sound = found["digest"] == digest_json(body) and _is_count(body["lines"]) and isinstance(body["head"], str)
    except (ValueError, KeyError, TypeError, RecursionError, EdgebuildError):
        return None
    return (body["lines"], body["head"]) if sound else None
