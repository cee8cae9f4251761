"""Which measurements can be held against each other, and what that says. Pure."""

from __future__ import annotations

import math
import statistics as stdlib
from typing import TYPE_CHECKING, Literal

from edgebuild.core.measurement import Comparison
from edgebuild.farm.values import Message
from edgebuild.measuring.distributions import t_quantile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgebuild.farm.memory import WholeRecord

#: Boards whose anchors take the same time within this are alike.
ALIKE = 0.05
#: Of fewer anchors nothing is said.
LEAST_ANCHORS = 3
#: So many differences are told.
SHOWN = 5
#: Readings of a device's configuration that don't change what a model takes.
_NAMES = frozenset({"hostname", "machine_id", "boot_id"})


class Alike(Message):
    """Whether two boards are alike by their anchors: ``ratio`` of the first's times to the second's, 90 % interval."""

    outcome: Literal["alike", "different", "unknown"]
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    text: str


class Compared(Message):
    """Two records held against each other; ``comparison`` holds the first against the second.

    Where they can't be compared, ``reasons`` say why not, and ``anchors`` what the anchors say of it.
    """

    a: str
    b: str
    comparison: Comparison | None = None
    reasons: tuple[str, ...] = ()
    anchors: str = ""
    text: str


def alike(one: Sequence[float], other: Sequence[float]) -> Alike:
    """Return whether the anchor takes the same time on two boards; each history holds its times in ms, one a check.

    Alike: the 90 % interval of the ratio of geometric means lies within 5 % (two one-sided tests, Schuirmann 1987;
    Welch's t). Different: it lies outside altogether. Unknown otherwise, and of fewer than three anchors of each.
    """
    logs = [[math.log(ms) for ms in each if ms > 0 and math.isfinite(ms)] for each in (one, other)]
    if min(map(len, logs)) < LEAST_ANCHORS:
        few = f"there are fewer than {LEAST_ANCHORS} anchors of one of them"
        return Alike(outcome="unknown", text=f"whether the boards are alike isn't known: {few}")
    effect, half = welch(logs[0], logs[1], 0.90)
    low, high, bound = effect - half, effect + half, math.log1p(ALIKE)
    outcome: Literal["alike", "different", "unknown"] = "unknown"
    if -bound <= low and high <= bound:
        outcome = "alike"
    elif low > bound or high < -bound:
        outcome = "different"
    ratio, least, most = math.exp(effect), math.exp(low), math.exp(high)
    words = {
        "alike": "the boards are alike",
        "different": "the boards differ",
        "unknown": "whether the boards are alike can't be told yet",
    }
    text = f"{words[outcome]}: the anchor takes {ratio:.3f}x [{least:.3f}, {most:.3f}] on the first"
    return Alike(outcome=outcome, ratio=ratio, low=least, high=most, text=text)


def welch(one: Sequence[float], other: Sequence[float], level: float) -> tuple[float, float]:
    """Return the difference of two means, the first's less the second's, and half its interval (Welch 1947).

    Degrees of freedom are rounded down, which makes the interval wider. Each has to hold two numbers.
    """
    parts = [stdlib.variance(each) / len(each) for each in (one, other)]
    effect, variance = stdlib.fmean(one) - stdlib.fmean(other), sum(parts)
    if variance == 0:
        return effect, 0.0
    least = min(len(one), len(other)) - 1
    spread = sum(part**2 / (len(each) - 1) for part, each in zip(parts, (one, other), strict=True))
    degrees = max(least, math.floor(variance**2 / spread)) if spread else least
    return effect, t_quantile((1 + level) / 2, degrees) * math.sqrt(variance)


def compare(a: WholeRecord, b: WholeRecord, comparison: Comparison | None, boards: Alike | None) -> Compared:
    """Return how two records compare. ``comparison`` is that of their session's launches, where they shared one.

    ``boards`` says whether their devices are alike, where these are two. Nothing is compared across sessions.
    """
    reasons = list(_reasons(a, b))
    if not reasons and comparison is None:
        reasons = ["fewer than two launches of both count"]
    if reasons or comparison is None:
        anchors = _anchors(a, b, boards)
        text = f"not comparable: {'; '.join(reasons)}" + (f". The anchors: {anchors}" if anchors else "")
        return Compared(a=a.id, b=b.id, reasons=tuple(reasons), anchors=anchors, text=text)
    words = {
        "better": "is faster than",
        "worse": "is slower than",
        "equivalent": "is as fast as",
        "inconclusive": "is statistically tied with",
    }
    ratio, low, high = (math.exp(each) for each in (comparison.effect, comparison.low, comparison.high))
    text = (
        f"A {words[comparison.outcome]} B: {ratio:.3f}x its latency [{low:.3f}, {high:.3f}], {comparison.pairs} pairs"
    )
    return Compared(a=a.id, b=b.id, comparison=comparison, text=text)


def changed(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, ...]:
    """Return what differs between two environments, in words."""
    names = sorted(name for name in {*one, *other} - _NAMES if one.get(name) != other.get(name))
    return tuple(f"{name}: {one.get(name, 'unknown')[:80]} and {other.get(name, 'unknown')[:80]}" for name in names)


def another(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, ...]:
    """Return why two sessions of a device can't be compared by what it was then; empty where it was the same."""
    differs = changed(one, other)
    shown = [*differs[:SHOWN], *([f"{len(differs) - SHOWN} more"] if len(differs) > SHOWN else [])]
    return (f"the device was another ({', '.join(shown)})",) if differs else ()


def _reasons(a: WholeRecord, b: WholeRecord) -> Sequence[str]:
    if a.id == b.id:
        return ("they are the same record",)
    if (a.session, a.device, a.evidence) == (b.session, b.device, b.evidence):
        return ()
    found = [] if a.device == b.device else [f"they are of two devices, {a.device} and {b.device}"]
    found += [] if a.protocol == b.protocol else [f"one was measured by {a.protocol}, the other by {b.protocol}"]
    if a.device == b.device:
        found += another(a.environment, b.environment)
    return (*found, "they weren't measured in one session, in turns")


def _anchors(a: WholeRecord, b: WholeRecord, boards: Alike | None) -> str:
    if a.id == b.id:
        return ""
    if boards is not None:
        return boards.text
    if not a.anchor_ms or not b.anchor_ms:
        return "one of the sessions has none"
    ratio = a.anchor_ms / b.anchor_ms
    drift = "the board was the same" if abs(math.log(ratio)) <= math.log1p(ALIKE) else "the board itself drifted"
    return f"{drift}: its anchor took {ratio:.3f}x as long in A's session as in B's"
