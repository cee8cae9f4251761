"""Does a measurement agree with the one on record? A pure comparison of two sessions, of other days or devices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

Agreement: TypeAlias = Literal["agrees", "disagrees", "inconclusive"]
#: Differences up to this share are none that anybody would act on.
PRACTICAL = 0.05
#: An interval of a ratio wider than this on either side says neither.
TOO_WIDE = 0.25


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The ratio of what was measured now to what is on record, with its 95 % interval, and what that comes to."""

    ratio: float
    low: float
    high: float
    agreement: Agreement


class Interval(Protocol):
    """A latency in ms, with its 95 % interval where there is one."""

    @property
    def point_ms(self) -> float: ...  # noqa: D102

    @property
    def low_ms(self) -> float | None: ...  # noqa: D102

    @property
    def high_ms(self) -> float | None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the board moved from one session to the other by its anchor: log-ratio, and half its 95 % interval."""

    effect: float
    half: float


def compared(recorded: Interval, now: Interval, drift: Drift | None = None) -> Replay | None:
    """Compare two independent measurements, the board's ``drift`` taken out; None where one has no interval.

    What isn't known of the drift widens the interval.
    """
    if None in (recorded.low_ms, recorded.high_ms, now.low_ms, now.high_ms):
        return None
    then_low, then_high = float(recorded.low_ms or 0), float(recorded.high_ms or 0)
    now_low, now_high = float(now.low_ms or 0), float(now.high_ms or 0)
    if min(then_low, now_low) <= 0:
        return None
    board, unsure = (drift.effect, drift.half) if drift is not None else (0.0, 0.0)
    effect = math.log(now.point_ms / recorded.point_ms) - board
    below = math.hypot(math.log(now.point_ms / now_low), math.log(then_high / recorded.point_ms), unsure)
    above = math.hypot(math.log(now_high / now.point_ms), math.log(recorded.point_ms / then_low), unsure)
    low, high = effect - below, effect + above
    practical = math.log1p(PRACTICAL)
    agreement: Agreement = "inconclusive"
    if low > practical or high < -practical:
        agreement = "disagrees"
    elif max(abs(low), abs(high)) <= math.log1p(TOO_WIDE):
        agreement = "agrees"
    return Replay(ratio=math.exp(effect), low=math.exp(low), high=math.exp(high), agreement=agreement)
