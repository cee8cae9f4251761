"""When a model's latency changed, and when it was the board that did. Pure; the same answer for the same series.

Each session measured an anchor too, a model that never changes. What is left of a latency when the anchor's is taken
out of it (the difference of their logarithms) is the model's; the anchor's own series is the board's.

Changes are found by binary segmentation: the place whose rank sums lie furthest apart is held against random orders of
the same series (a permutation test), and both parts are searched again. The model's series and the board's share the
5 %, and parts share what is left of it, each half: of a series in which nothing ever changed, 5 % are said to have at
least one change, where its sessions are exchangeable. That is per look: whoever looks every day looks often.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Literal

from edgebuild.farm.comparing import welch
from edgebuild.farm.values import Message
from edgebuild.measuring.statistics import PRACTICAL_EFFECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

#: How often a series with no change is said to have one.
FALSE_ALARMS = 0.05
#: A stretch between changes holds as many sessions at least.
LEAST = 3
ORDERS = 999
#: More sessions aren't looked at; the newest are.
MOST = 500
#: A change of the board so close to one of the model may be all of it: the board moves models and the anchor unequally.
NEAR = 2


class Point(Message):
    """One session: when, what the model took, and what the anchor did, if it ran."""

    at: float
    ms: float
    anchor_ms: float | None = None


class Change(Message):
    """From ``at`` on something took ``ratio`` times as long, with its 95 % interval; ``index`` is that session's place.

    ``what``: the model; the board, whose anchor moved; both at once, which can't be told apart; or unknown, where
    sessions have no anchor. The interval doesn't know that the place was searched for: it is a little too narrow.
    """

    at: float
    index: int
    what: Literal["model", "board", "both", "unknown"]
    ratio: float
    low: float
    high: float
    text: str


def changes(points: Sequence[Point]) -> tuple[Change, ...]:
    """Return where a model's latency on one device changed, or the device itself, in order; ``points`` are too.

    What moved by less than 1 % isn't told.
    """
    start = max(0, len(points) - MOST)
    sound = [(n, p) for n, p in enumerate(points) if n >= start and 0 < p.ms < math.inf]
    anchored = [(n, p, p.anchor_ms) for n, p in sound if p.anchor_ms is not None and 0 < p.anchor_ms < math.inf]
    if len(anchored) < 2 * LEAST:
        raw = [math.log(point.ms) for _, point in sound]
        return tuple(_told(points, "unknown", sound[k][0], raw, k, cuts) for k, cuts in _found(raw, FALSE_ALARMS))
    own = [math.log(point.ms) - math.log(anchor) for _, point, anchor in anchored]
    board = [math.log(anchor) for *_, anchor in anchored]
    moved = dict(_found(board, FALSE_ALARMS / 2))
    told = [_told(points, "board", anchored[k][0], board, k, cuts) for k, cuts in moved.items()]
    for k, cuts in _found(own, FALSE_ALARMS / 2):
        near = any(abs(k - other) <= NEAR for other in moved)
        told.append(_told(points, "both" if near else "model", anchored[k][0], own, k, cuts))
    return tuple(sorted(told, key=lambda change: (change.index, change.what)))


def cut(series: Sequence[float], alpha: float) -> tuple[int, ...]:
    """Return where a series changes: the indexes of the first of each new stretch, but for the very first."""
    found: list[int] = []
    todo = [(0, len(series), alpha)]
    while todo:
        start, stop, level = todo.pop()
        place = _place(series[start:stop], level)
        if place is not None:
            found.append(start + place)
            todo += [(start, start + place, level / 2), (start + place, stop, level / 2)]
    return _tested_again(series, sorted(found), alpha)


def _tested_again(series: Sequence[float], places: Sequence[int], alpha: float) -> tuple[int, ...]:
    """Return those places that are changes between their neighbours, moved to where these see them.

    The first cut of a series with two steps may lie between them.
    """
    kept: list[int] = []
    for number, _ in enumerate(places):
        start = kept[-1] if kept else 0
        stop = places[number + 1] if number + 1 < len(places) else len(series)
        place = _place(series[start:stop], alpha)
        if place is not None:
            kept.append(start + place)
    return tuple(kept)


def _found(series: Sequence[float], alpha: float) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield each change that matters with the stretch before it and the one after it, as their outer ends."""
    places = (0, *cut(series, alpha), len(series))
    for before, place, after in zip(places, places[1:], places[2:], strict=False):
        effect, _ = welch(series[place:after], series[before:place], 0.95)
        if abs(effect) > PRACTICAL_EFFECT:
            yield place, (before, after)


def _place(series: Sequence[float], alpha: float) -> int | None:
    """Return where a series changes the most, where random orders of it rarely change as much; None otherwise."""
    import numpy as np

    count = len(series)
    if count < 2 * LEAST or alpha * (ORDERS + 1) < 1:
        return None
    ranks = np.array(_ranks(series))
    if ranks.std() == 0:
        return None
    splits = np.arange(LEAST, count - LEAST + 1)
    scale = np.sqrt(splits * (count - splits))

    def spread(orders: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.absolute(np.cumsum(orders, axis=1)[:, splits - 1]) / scale)

    centred = ranks - ranks.mean()
    seen = spread(centred[None, :])[0]
    # Orders drawn anew for each series: one set for all of them would make one error for all of them.
    generator = np.random.default_rng(list(hashlib.sha256(ranks.tobytes()).digest()))
    orders = generator.permuted(np.broadcast_to(centred, (ORDERS, count)), axis=1)
    # Sums of halves are exact; what is equal counts as as far apart.
    as_much = int(np.count_nonzero(spread(orders).max(axis=1) >= seen.max() * (1 - 1e-12)))
    return int(splits[int(seen.argmax())]) if (as_much + 1) / (ORDERS + 1) <= alpha else None


def _ranks(series: Sequence[float]) -> list[float]:
    """Return the rank of each value; equal ones share theirs. Differences beyond the ninth digit are none."""
    rounded = [round(value, 9) for value in series]
    order = sorted(range(len(series)), key=rounded.__getitem__)
    ranks = [0.0] * len(series)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and rounded[order[stop]] == rounded[order[start]]:
            stop += 1
        for place in order[start:stop]:
            ranks[place] = (start + stop - 1) / 2
        start = stop
    return ranks


def _told(
    points: Sequence[Point],
    what: Literal["model", "board", "both", "unknown"],
    index: int,
    series: Sequence[float],
    place: int,
    ends: tuple[int, int],
) -> Change:
    effect, half = welch(series[place : ends[1]], series[ends[0] : place], 0.95)
    ratio, low, high = (math.exp(each) for each in (effect, effect - half, effect + half))
    way = "slower" if effect > 0 else "faster"
    said = f"{abs(ratio - 1):.1%} [{low - 1:+.1%}, {high - 1:+.1%}]"
    words = {
        "model": f"the model got {way} by {said}",
        "board": f"the board drifted: its anchor got {way} by {said}",
        "both": f"the board changed too, so whether the model got {way} by {said} against the anchor can't be told",
        "unknown": f"it got {way} by {said}; without an anchor nobody can tell whether the model did or the board",
    }
    return Change(at=points[index].at, index=index, what=what, ratio=ratio, low=low, high=high, text=words[what])
