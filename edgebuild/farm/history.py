"""What the farm's memory says: two records held against each other, and how a model fared over time."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeVar

from sqlalchemy import select

from edgebuild.errors import UsageError
from edgebuild.farm import comparing, memory, sessions
from edgebuild.farm.changes import MOST, Change, Point, changes
from edgebuild.farm.comparing import Alike, Compared
from edgebuild.farm.memory import Record
from edgebuild.farm.schema import checks, records
from edgebuild.farm.values import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from edgebuild.farm.blobs import Blobs

#: Older anchors say how a board was once.
ANCHORS = 30
#: What one answer tells of.
MOST_DEVICES = 20
MOST_ALSO = 8


class Measurement(Protocol):
    """What of a record tells how a model fares: a ``Record``, or a row of that table."""

    @property
    def measured_at(self) -> float:
        """The farm's time."""
        ...

    @property
    def protocol(self) -> str:
        """How it was measured."""
        ...

    @property
    def point_ms(self) -> float:
        """The latency."""
        ...

    @property
    def anchor_ms(self) -> float | None:
        """What the anchor took in that session."""
        ...


R = TypeVar("R", bound=Measurement)


def compare(db: Connection, blobs: Blobs, a: str, b: str) -> Compared:
    """Hold a record against another; raises ``UsageError`` where there is none, ``DataError`` without its evidence."""
    one, other = memory.get(db, a), memory.get(db, b)
    found = None
    if one.id != other.id and memory.together(one, other):
        found = sessions.read(blobs.path(one.evidence)).compare(one.artifact, other.artifact)
    return comparing.compare(
        one, other, found, None if one.device == other.device else boards(db, one.device, other.device)
    )


class Changed(Change):
    """A change with what else changed at that session: the artifact of that name, and the device's configuration."""

    also: tuple[str, ...] = ()


class Story(Message):
    """How one model fared on one device, oldest first. ``cut`` says that older records aren't among these.

    Changes are those of the records of the protocol that most of them followed; an ``index`` counts these.
    """

    model: str
    device: str
    target: str
    records: tuple[Record, ...]
    changes: tuple[Changed, ...]
    cut: bool = False


class History(Message):
    """How one model fared on each device, never pooled. ``boards`` says which of the others are like the first."""

    model: str
    devices: tuple[Story, ...]
    boards: dict[str, Alike]


def of_model(db: Connection, model: str, device: str = "") -> History:
    """Return a model's history on a device, or on all; raises ``UsageError`` where it was never measured there."""
    rows = select(records.c.device).where(records.c.model == model).distinct().order_by(records.c.device)
    devices = list(db.scalars(rows.where(records.c.device == device) if device else rows.limit(MOST_DEVICES)))
    if not devices:
        where = f" on {device}" if device else ""
        raise UsageError(f"There is no record of {model[:80]!r}{where}.", hint="`edgebuild farm list` shows devices.")
    told = tuple(_story(db, model, each) for each in devices)
    return History(model=model, devices=told, boards={each: boards(db, devices[0], each) for each in devices[1:]})


def _story(db: Connection, model: str, device: str) -> Story:
    found = memory.find(db, model=model, device=device, most=MOST + 1)
    newest = found[:MOST][::-1]
    told = []
    alike, found_changes = changed(newest)
    for change in found_changes:
        before, after = alike[change.index - 1], alike[change.index]
        also = [] if before.artifact == after.artifact else ["the artifact of that name is another one"]
        differs = comparing.changed(_environment(db, before), _environment(db, after))
        told.append(Changed(**change.model_dump(), also=(*also, *differs[:MOST_ALSO])))
    return Story(
        model=model,
        device=device,
        target=newest[-1].target,
        records=newest,
        changes=tuple(told),
        cut=len(found) > MOST,
    )


def changed(newest: Sequence[R]) -> tuple[list[R], tuple[Change, ...]]:
    """Return the records of the protocol that most of them followed, and the changes among these; oldest first."""
    names = [each.protocol for each in newest]
    usual = max(sorted(set(names)), key=names.count)
    alike = [each for each in newest if each.protocol == usual]  # protocols don't measure the same
    points = tuple(Point(at=each.measured_at, ms=each.point_ms, anchor_ms=each.anchor_ms) for each in alike)
    return alike, _changes(points)


@lru_cache(maxsize=256)
def _changes(points: tuple[Point, ...]) -> tuple[Change, ...]:
    """The same answer as ``changes``: pages ask for it often, records arrive rarely, and 500 of them take 0.3 s."""
    return changes(points)


def _environment(db: Connection, record: Record) -> dict[str, str]:
    return memory.get(db, record.id).environment


def boards(db: Connection, one: str, other: str) -> Alike:
    """Say whether two devices are alike by the anchors of their health checks."""
    return comparing.alike(anchors(db, one), anchors(db, other))


def anchors(db: Connection, device: str) -> list[float]:
    """Return what the anchor took in a device's last checks that passed, in ms."""
    rows = select(checks.c.anchor_ms).where(checks.c.device == device, checks.c.passed, checks.c.anchor_ms.is_not(None))
    return [ms for ms in db.scalars(rows.order_by(checks.c.number.desc()).limit(ANCHORS)) if ms]
