"""A session as it was sent: its archive is opened without trust, and what is said of it held against its samples."""

from __future__ import annotations

import contextlib
import math
import re
import statistics as stdlib
import tempfile
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from edgebuild.core.checked_json import read_with_digest
from edgebuild.core.measurement import Comparison, Energy, LatencySummary, Launch, Memory
from edgebuild.errors import DataError, DeviceError, StoreError
from edgebuild.farm.results import DIGEST, BenchResult
from edgebuild.farm.values import Message
from edgebuild.measuring import statistics
from edgebuild.measuring.protocols import Protocol
from edgebuild.measuring.samples import burst_medians, require_samples, samples_reader
from edgebuild.measuring.session import ANCHOR
from edgebuild.measuring.session_folder import SessionFolder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: What an archive, one of its texts, and one fact of an environment may hold.
MOST_BYTES = 256 << 20
MOST_ENTRIES = 2_000
MOST_TEXT_BYTES = 8 << 20
LONGEST_FACT = 1_000
#: A list of contents this long holds more than ``MOST_ENTRIES``.
_MOST_CONTENTS_BYTES = 1 << 20
_END_BYTES, _BIG_END = 22, b"PK\x06\x07"
_NAME = re.compile(r"(session|result|(memory|energy|layers)-[0-9a-f]{16}|launch-[0-9]{4})\.json|launch-[0-9]{4}\.i64")
#: Means are summed in another order on another machine.
TOLERANCE = 1e-6
#: The greatest batch that a throughput may stand for.
MOST_BATCH = 1 << 16
#: Samples of one session at a time are in memory.
_turn = threading.Lock()


class Arm(Message):
    """What is said of one model of a session. ``artifact`` is the digest of what ran, which its launches carry."""

    model: str = Field(min_length=1, max_length=200)
    artifact: str = Field(pattern=DIGEST)
    backend: str = Field(default="", max_length=64)
    settings: dict[str, bool | int | str] = Field(default_factory=dict, max_length=64)
    size_bytes: int | None = Field(default=None, ge=0)
    summary: LatencySummary
    memory: Memory | None = None
    energy: Energy | None = None


class Said(Message):
    """What is said of a session, and which archive shows it."""

    session: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    arms: tuple[Arm, ...] = Field(min_length=1, max_length=16)
    environment: dict[str, str] = Field(default_factory=dict, max_length=400)
    evidence: str = Field(pattern=DIGEST)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What an archive holds beside samples: the protocol, the launches by their label, and when it was begun."""

    protocol: Protocol
    launches: Mapping[str, tuple[Launch, ...]]
    began_at: str | None

    def compare(self, candidate: str, baseline: str) -> Comparison | None:
        """Compare two artifacts that took turns; None without two pairs of launches that count."""
        return statistics.compare_launches(
            self.launches.get(candidate, ()), self.launches.get(baseline, ()), self.protocol
        )


@dataclass(frozen=True, kw_only=True)
class Found:
    """A session that is what was said of it."""

    said: Said
    opened: Opened

    @property
    def anchor_ms(self) -> tuple[float, ...]:
        """The medians of the anchor's launches that count, in their order."""
        return tuple(launch.median_ns / 1e6 for launch in self.opened.launches.get(ANCHOR, ()) if launch.valid)


def said_of(result: BenchResult) -> Said:
    """Return what a bench job's result says of its session."""
    names = set(Arm.model_fields)
    arms = tuple(Arm(**{name: getattr(arm, name) for name in names}) for arm in result.arms)
    return Said(session=result.session, arms=arms, environment=result.environment, evidence=result.evidence)


def require(archive: Path, said: Said) -> Found:
    """Return a session once it is seen to be what is said of it; raises ``DataError`` for another one."""
    long = [name for name, value in said.environment.items() if len(name) + len(value) > LONGEST_FACT]
    if long:
        raise DataError(f"The fact {long[0][:80]!r} of the environment is too long.")
    if len({arm.artifact for arm in said.arms}) < len(said.arms):
        raise DataError("Two models of the session are one artifact.")
    with _turn, _unpacked(archive) as folder:
        opened = _opened(folder.launches(), folder.extras("session"))
        _require_whole(folder, opened)
        for arm in said.arms:
            _require_arm(folder, arm, opened.launches.get(arm.artifact, ()))
    return Found(said=said, opened=opened)


def require_result(archive: Path, result: BenchResult) -> Found:
    """The same of a bench job's result, whose comparison, protocol and anchor have to be those of the samples too."""
    found = require(archive, said_of(result))
    opened = found.opened
    if opened.protocol.name != result.protocol:
        raise DataError(f"The session was one of {opened.protocol.name}, and not of {result.protocol}.")
    anchor = [launch.median_ns / 1e6 for launch in opened.launches.get(ANCHOR, ())]
    if len(anchor) != len(result.anchor_ms) or not all(map(_close, anchor, result.anchor_ms)):
        raise DataError("The anchor's times aren't those of its launches.")
    arms = result.arms
    compared = opened.compare(arms[0].artifact, arms[1].artifact) if len(arms) > 1 else None
    if not _same(compared, result.comparison):
        raise DataError("The comparison isn't that of the launches.")
    return found


def read(archive: Path) -> Opened:
    """Return what a kept archive holds beside its samples, without reading these; raises ``DataError``."""
    with _reading(archive) as opened:
        names = sorted(name for name in opened.namelist() if name.startswith("launch-") and name.endswith(".json"))
        found = [read_with_digest(opened.read(name)) for name in names]
        plan = read_with_digest(opened.read("session.json")) if "session.json" in opened.namelist() else None
    try:
        return _opened([Launch.model_validate(each) for each in found], plan)
    except ValidationError as error:
        raise DataError("The session's launches can't be read.") from error


def middle(anchor_ms: Sequence[float]) -> float | None:
    """Return what the anchor took in a session, or None where it didn't run."""
    return stdlib.median(anchor_ms) if anchor_ms else None


def _opened(launches: Sequence[Launch], plan: Any) -> Opened:
    try:
        protocol = Protocol.model_validate((plan or {}).get("protocol"))
    except ValidationError as error:
        raise DataError("The session doesn't say what protocol it followed.") from error
    if protocol.mode != "single":
        raise DataError("The session has several requests in flight: what one takes alone isn't in it.")
    by_label: dict[str, list[Launch]] = {}
    for launch in launches:
        by_label.setdefault(launch.arm, []).append(launch)
    began = (plan or {}).get("started_at")
    return Opened(
        protocol=protocol,
        launches={label: tuple(each) for label, each in by_label.items()},
        began_at=began if isinstance(began, str) else None,
    )


def _require_whole(folder: SessionFolder, opened: Opened) -> None:
    count = sum(len(each) for each in opened.launches.values())
    result = folder.extras("result")
    if result is None or result.get("launches") != count or len(list(folder.path.glob("launch-*.json"))) != count:
        raise DataError("The session isn't whole: launches are missing or damaged, or it never ended.")


def _require_arm(folder: SessionFolder, arm: Arm, launches: Sequence[Launch]) -> None:
    for launch in launches:
        path = folder.path / launch.samples
        answer = launch.model_dump(exclude_none=True)
        try:
            require_samples(path, answer, "the session's sender")
            bursts = burst_medians(path, launch.bursts) if launch.bursts else ()
        except (DeviceError, ValueError, LookupError) as error:
            raise DataError(f"A launch of {arm.model[:80]!r} isn't what its samples say.") from error
        if bursts != launch.burst_ns or sum(launch.bursts) not in {0, launch.count}:
            raise DataError(f"The bursts of {arm.model[:80]!r} aren't what their samples say.")
    try:
        found = statistics.summarise(launches, samples_reader(folder.path))
    except DeviceError as error:
        raise DataError(f"{arm.model[:80]!r} has no launch that counts: {error.message}.") from error
    except ValueError as error:
        raise DataError(f"Inferences of {arm.model[:80]!r} took no time at all.") from error
    # The samples don't say how large a batch was: a whole one is believed.
    times = arm.summary.throughput_per_s / found.throughput_per_s
    batch = round(times) if 1 <= times <= MOST_BATCH else 1
    found = found.model_copy(update={"throughput_per_s": batch * found.throughput_per_s})
    if not _same(found, arm.summary):
        raise DataError(f"What is said of {arm.model[:80]!r} isn't what its raw samples say.")


def _same(one: LatencySummary | Comparison | None, other: LatencySummary | Comparison | None) -> bool:
    """Whether two values are equal but for the last digits of their floats."""

    def same(left: Any, right: Any) -> bool:
        if isinstance(left, float) and isinstance(right, float | int):
            return _close(left, right)
        if isinstance(left, dict) and isinstance(right, dict):
            return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
        if isinstance(left, tuple) and isinstance(right, tuple):
            return len(left) == len(right) and all(map(same, left, right))
        return bool(left == right)

    if one is None or other is None:
        return one is other
    return same(one.model_dump(), other.model_dump())


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-9)


@contextlib.contextmanager
def _unpacked(archive: Path) -> Iterator[SessionFolder]:
    with _reading(archive) as opened, tempfile.TemporaryDirectory(prefix="edgebuild-session-") as scratch:
        for name in opened.namelist():
            try:
                (Path(scratch) / name).write_bytes(opened.read(name))
            except OSError as error:
                raise StoreError(f"The session can't be looked at: {error.strerror}.", hint="Make room.") from error
        yield SessionFolder(path=Path(scratch), whole=False)


@contextlib.contextmanager
def _reading(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Yield an archive whose names are a session's and whose entries are neither packed, nor links, nor too long."""
    try:
        _require_small(archive)
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                _require_entry(entry)
            names = opened.namelist()
            if len(set(names)) < len(names) or len(names) > MOST_ENTRIES:
                raise DataError(f"The evidence holds two files of one name, or more than {MOST_ENTRIES:,}.")
            if sum(entry.file_size for entry in opened.infolist()) > archive.stat().st_size:
                raise DataError("Files of the evidence lie in each other.")
            yield opened
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DataError("The evidence is no archive of a session.") from error
    except OSError as error:
        raise StoreError(f"The evidence can't be read: {error.strerror}.") from error


def _require_small(archive: Path) -> None:
    """Raise ``DataError`` before an archive's contents are listed, which takes as much memory as it wants."""
    size = archive.stat().st_size
    if size > MOST_BYTES:
        raise DataError(f"The evidence holds more than {MOST_BYTES:,} bytes.")
    with archive.open("rb") as file:
        file.seek(max(0, size - _END_BYTES - 20))
        end = file.read()
    contents = int.from_bytes(end[-10:-6], "little")
    if len(end) < _END_BYTES or end[-_END_BYTES:][:4] != b"PK\x05\x06" or end.startswith(_BIG_END):
        raise DataError("The evidence is no archive of a session.")
    if contents > _MOST_CONTENTS_BYTES:
        raise DataError(f"The evidence holds more than {MOST_ENTRIES:,} files.")


def _require_entry(entry: zipfile.ZipInfo) -> None:
    kind = entry.external_attr >> 16 & 0o170000
    if not _NAME.fullmatch(entry.filename) or kind not in {0, 0o100000}:
        raise DataError(f"{entry.filename[:80]!r} is no file of a session.")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
        raise DataError(f"{entry.filename} is packed, and a session's files aren't.")
    if entry.filename.endswith(".json") and entry.file_size > MOST_TEXT_BYTES:
        raise DataError(f"{entry.filename} holds more than {MOST_TEXT_BYTES:,} bytes.")
