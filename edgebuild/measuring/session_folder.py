"""Where measurements lie: append-only folders with the raw samples, one per session, resumable launch by launch.

``<root>/journal.jsonl`` says in which order sessions were begun (see ``journal``).
``<root>/<protocol>-<key>-<number>-<time>/``: ``session.json`` (what is measured and in which order),
``launch-0007.json`` with ``launch-0007.i64`` (raw latencies), and ``result.json``, which is written last and makes the
session whole.
Every one of these JSON files carries the digest of all that it says: a damaged one counts as never written.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edgebuild.core.checked_json import read_with_digest, with_digest
from edgebuild.core.measurement import Launch
from edgebuild.core.values import digest_file
from edgebuild.errors import StoreError
from edgebuild.measuring import journal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from edgebuild.core.values import Json

#: A finished session is reused for this long; an unfinished one is resumed for a shorter time, since its launches
#: are only comparable while the machine is in the same state.
REUSE_AGE = timedelta(days=7)
RESUME_AGE = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class SessionFolder:
    """One session's folder. ``note`` says which earlier evidence was passed over and why, if any was.

    One that is ``whole`` is taken as it is. One that was ``cut_short`` ended before its question was settled, because
    time was over.
    """

    path: Path
    whole: bool
    cut_short: bool = False
    note: str = field(default="", compare=False)

    def launches(self) -> tuple[Launch, ...]:
        """Return the launches recorded so far, in order, up to the first that is missing or damaged.

        What comes after a damaged launch counts as never made either: it would stand in another round than its own.
        """
        found: list[Launch] = []
        while (launch := self._launch(len(found))) is not None:
            found.append(launch)
        return tuple(found)

    def _launch(self, index: int) -> Launch | None:
        name = f"launch-{index:04d}"
        try:
            launch = Launch.model_validate(self.extras(name))
            sound = launch.index == index and launch.samples == f"{name}.i64"
            return launch if sound and digest_file(self.path / launch.samples) == launch.samples_sha256 else None
        except (ValidationError, OSError):
            return None

    def record(self, launch: Launch) -> None:
        """Write one launch; its samples lie next to it already."""
        write_atomic(self.path / f"launch-{launch.index:04d}.json", with_digest(launch.model_dump(mode="json")))

    def extras(self, name: str) -> Any:
        """Return a recorded extra (memory, energy, layers …), or None where there is none or it is damaged."""
        try:
            return read_with_digest((self.path / f"{name}.json").read_bytes())
        except OSError:
            return None

    def record_extra(self, name: str, value: Mapping[str, Json]) -> None:
        """Write an extra next to the launches."""
        write_atomic(self.path / f"{name}.json", with_digest(value))

    def finish(self, result: Mapping[str, Json]) -> None:
        """Make the session whole."""
        write_atomic(self.path / "result.json", with_digest(result))


def open_session(
    root: Path, protocol: str, key: str, plan: Mapping[str, Json], *, remeasure: bool, as_it_was: bool = False
) -> SessionFolder:
    """Return the newest session with this key that may be reused or resumed, else a new one.

    One in which an arm to keep was disturbed throughout is neither. One that was cut short is gone on with, but for
    ``as_it_was``: then it is taken as the build that cut it short took it.

    The newest is the one that the journal names last. One whose age isn't known is never taken: the clock was ahead
    when it was begun.
    """
    prefix, note = f"{protocol}-{key[:16]}", ""
    lines = journal.read(root)
    for line in reversed(lines) if not remeasure else ():
        path = root / line.name
        if not line.name.startswith(f"{prefix}-") or not path.is_dir():
            continue
        found, age = _found(path, as_it_was), journal.age(lines, line.name)
        if (found.extras("result") or {}).get("disturbed"):
            continue  # nothing can be held against an arm of which no launch counts: perhaps it is quieter now
        if age is None:
            note = note or f"{line.name} isn't used again: the clock was set back since it was begun"
        elif age < (REUSE_AGE if found.whole else RESUME_AGE) and found.extras("session") is not None:
            return replace(found, note=note or found.note)
        note = note or found.note
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        line = journal.begin(root, lambda number: f"{prefix}-{number:05d}-{_stamp()}")
        path = root / line.name
        path.mkdir()
    write_atomic(path / "session.json", with_digest({**plan, "started_at": line.at.isoformat()}))
    return SessionFolder(path=path, whole=False, note=note)


def reusable(root: Path, name: str) -> bool:
    """Whether a session came to its end and isn't too old to be taken again; what it holds isn't looked at."""
    age = journal.age(journal.read(root), name)
    return age is not None and age < REUSE_AGE and (root / name / "result.json").is_file()


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")


def _found(path: Path, as_it_was: bool) -> SessionFolder:
    """Return an earlier session: whole where it was finished and every launch that it counted is still there.

    A result that doesn't say whether the session was cut short is of an edgebuild that didn't tell.
    """
    folder = SessionFolder(path=path, whole=False)
    count = len(folder.launches())
    result = folder.extras("result")
    unread = [file.name for file in sorted(path.glob("*.json")) if folder.extras(file.stem) is None]
    unread += [file.name for file in sorted(path.glob("launch-*.json"))[count : count + 1]]
    note = f"{path.name}/{unread[0]} is damaged or of another version: measured again" if unread else ""
    ended = result is not None and result.get("launches") == count
    cut = ended and bool(result.get("cut_short", True))
    if cut and not as_it_was:
        note = note or f"{path.name} was cut short: not used as a whole one"
    return replace(folder, whole=ended and (not cut or as_it_was), cut_short=cut, note=note)


def write_atomic(path: Path, text: str) -> None:
    """Write a small file whole or not at all, also across a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    with writing(path):
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of what is written at ``path`` into a ``StoreError``."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path} can't be written: {error.strerror}.", hint="Free some space, or make the folder writable."
        ) from error
