"""In which order things were begun, and how long ago, where neither clocks nor file names can be trusted to say so.

``<folder>/journal.jsonl`` is only ever appended to. Each line numbers one thing and carries its own digest: a damaged
line is none, and what it named has no age. The order of lines is the order of time. A host's clock may have been ahead
when a line was written: a later line that is earlier by the clock, or a clock that is earlier now, shows it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edgebuild.core.values import Value, canonical_json, digest_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAME = "journal.jsonl"
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Moment(Value):
    """A reading of both clocks: the one that people set, and the one that only runs since this machine started."""

    at: datetime
    boot: str
    uptime_s: float


class Line(Moment):
    """One thing that was begun."""

    number: int
    name: str


def now() -> Moment:
    """Read the clocks."""
    try:
        boot = BOOT.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        boot = ""
    return Moment(at=datetime.now(UTC), boot=boot, uptime_s=time.clock_gettime(time.CLOCK_BOOTTIME))


def begin(folder: Path, name_of: Callable[[int], str]) -> Line:
    """Append a line for what is begun now, durably, and return it; ``name_of`` gets its number. Raises ``OSError``."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(folder / NAME, flags, 0o644), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        data = file.read()
        number = max((line.number for line in _lines(data)), default=0) + 1
        line = Line(**dict(now()), number=number, name=name_of(number))
        body = line.model_dump(mode="json")
        torn = b"\n" if data and not data.endswith(b"\n") else b""
        file.write(torn + canonical_json({"line": body, "sha256": digest_json(body)}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return line


def read(folder: Path) -> tuple[Line, ...]:
    """Return the undamaged lines, in order; none where there is no journal that can be read."""
    try:
        with os.fdopen(
            os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb"
        ) as file:
            return _lines(file.read())
    except OSError:
        return ()


def _lines(data: bytes) -> tuple[Line, ...]:
    found: list[Line] = []
    for text in data.split(b"\n"):
        try:
            outer = json.loads(text)
            line = Line.model_validate(outer["line"])
            if digest_json(outer["line"]) == outer["sha256"] and (not found or line.number > found[-1].number):
                found.append(line)
        except (ValueError, TypeError, KeyError, RecursionError, ValidationError):
            continue
    return tuple(found)


def age(lines: Sequence[Line], name: str) -> timedelta | None:
    """Return how long ago ``name`` was begun; None where the clocks can't say, or no line names it."""
    present = now()
    positions = [index for index, line in enumerate(lines) if line.name == name]
    if not positions:
        return None
    line = lines[positions[-1]]
    if line.boot and line.boot == present.boot:
        seconds = present.uptime_s - line.uptime_s
        return timedelta(seconds=seconds) if seconds >= 0 else None
    since = lines[positions[-1] :]
    if since[-1].number - line.number >= len(since):
        return None  # a line that is lost may have shown that the clock was ahead
    return present.at - line.at if min(each.at for each in (*since, present)) >= line.at else None
