"""May a release follow another? A pure comparison, figure by figure, of what one session on one device said of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from edgebuild.core.measurement import Comparison

#: ``worse`` blocks, ``inconclusive`` leaves open, the others pass.
GateOutcome: TypeAlias = Literal["better", "equivalent", "worse", "inconclusive"]
MIB = 2**20
#: By how much figures may differ that were taken of a few processes each, as a share and in their own unit.
MEMORY_NOISE, LOAD_NOISE, SIZE_NOISE = (0.05, 1.0), (0.2, 10.0), (0.05, 0.0)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of two releases: ``new`` and ``old`` in words, and what is concluded."""

    what: str
    new: str
    old: str
    outcome: GateOutcome
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one session says of a release: memory in bytes, size in bytes, loading in ms."""

    latency_ms: float
    memory_bytes: int
    size_bytes: int
    load_ms: float


def concluded(rows: Iterable[Row]) -> GateOutcome:
    """Return what all figures come to: worse where one is, inconclusive where one is open, better where one is."""
    outcomes = {row.outcome for row in rows}
    order: tuple[GateOutcome, ...] = ("worse", "inconclusive", "better")
    return next((each for each in order if each in outcomes), "equivalent")


def rows_of(new: Figures, old: Figures, comparison: Comparison) -> tuple[Row, ...]:
    """Return the table of what was measured."""
    return tuple(_rows(new, old, comparison))


def _rows(new: Figures, old: Figures, comparison: Comparison) -> Iterator[Row]:
    ratio, low, high = (math.exp(value) for value in (comparison.effect, comparison.low, comparison.high))
    yield Row(
        what="latency, ms",
        new=f"{new.latency_ms:.4g}",
        old=f"{old.latency_ms:.4g}",
        outcome=comparison.outcome,
        why=f"{ratio:.3f}x [{low:.3f}, {high:.3f}], {comparison.pairs} pairs in one session",
    )
    yield _by_noise("peak memory, MiB", new.memory_bytes / MIB, old.memory_bytes / MIB, MEMORY_NOISE)
    yield _by_noise("size, MiB", new.size_bytes / MIB, old.size_bytes / MIB, SIZE_NOISE)
    yield _by_noise("load, ms", new.load_ms, old.load_ms, LOAD_NOISE)


def _by_noise(what: str, new: float, old: float, noise: tuple[float, float]) -> Row:
    """Compare figures that have no interval: only a difference beyond their noise counts."""
    share, least = noise
    allowed = max(share * old, least)
    outcome: GateOutcome = "equivalent"
    if abs(new - old) > allowed:
        outcome = "worse" if new > old else "better"
    return Row(
        what=what, new=f"{new:.4g}", old=f"{old:.4g}", outcome=outcome, why=f"a difference counts beyond {allowed:.3g}"
    )


def same_artifact() -> tuple[Row, ...]:
    """Return the table where both ship the very same artifact with the same settings: no figure of it can differ."""
    same = Row(what="artifact", new="the same", old="the same", outcome="equivalent", why="equal digests: not measured")
    return (same,)
