"""Numbers and hostile names as people read them; shared by the terminal and the page."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.core.artifact import Setting
    from edgebuild.core.measurement import Comparison, LatencySummary, Percentile, ThroughputSummary
    from edgebuild.core.record import BuildRecord, StepRecord

NONE = "–"
MINUS = "\u2212"

# A name with these could reorder or hide the text around it, on a terminal and in a browser.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SIGNIFICANT = 3


def clean(text: str) -> str:
    """Return ``text`` without what could steer a terminal or a browser: control, surrogate and direction characters.

    Tabs and line ends become blanks; each other such character becomes U+FFFD, so that it stays noticeable.
    """
    return "".join(
        " " if c in "\t\n\r" else "\ufffd" if c in _BIDI or unicodedata.category(c) in ("Cc", "Cs") else c for c in text
    )


def number(value: float, decimals: int | None = None) -> str:
    """Return ``value`` with three significant digits (or exactly ``decimals``), a true minus sign and no exponent."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else f"{MINUS if value < 0 else ''}∞"
    places = decimals if decimals is not None else _places(abs(value), _SIGNIFICANT)
    text = f"{value:,.{places}f}"
    return f"{MINUS}{text[1:]}" if text.startswith("-") and text.strip("-0.,") else text.lstrip("-")


def _places(size: float, significant: int) -> int:
    return min(9, max(0, significant - 1 - math.floor(math.log10(size)))) if size > 0 else 0


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """Return ``value [low, high]``, with the decimals that its half-width justifies."""
    if low is None or high is None:
        return number(value)
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return f"{number(value)} [{number(low)}, {number(high)}]"
    coarse, fine = _places(half, 1), _places(half, 2)
    leads_high = half * 10**coarse >= 3
    places = min(fine, max(coarse if leads_high else fine, _places(abs(value), 2)))
    if value:
        places = min(places, _places(abs(value), 4))
    return f"{number(value, places)} [{number(low, places)}, {number(high, places)}]"


def bytes_text(size: int | None) -> str:
    """Return a size in B, KiB, MiB or GiB with three significant digits, or a dash for ``None``."""
    if size is None:
        return NONE
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000 or unit == "GiB":
            break
        value /= 1024
    return f"{number(value, 0 if unit == 'B' else None)} {unit}"


def load_text(summary: LatencySummary) -> str:
    """Return how long loading takes, and how much of that is decoding a weights file."""
    text = f"{number(summary.load_ms)} ms"
    if summary.decode_ms is None:
        return text
    return f"{text}, {number(summary.decode_ms)} ms of it decoding {bytes_text(summary.decoded_bytes)} of weights"


def seconds_text(seconds: float) -> str:
    """Return a duration: ``34 ms``, ``5.2 s``, ``3 min 20 s`` or ``1 h 04 min``."""
    if seconds < 1:
        return f"{number(seconds * 1000, 0)} ms"
    if seconds < 60:
        return f"{number(seconds, 1)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def taken_text(record: BuildRecord) -> str:
    """Return what a build took, over all of its runs."""
    runs = "" if record.runs == 1 else f" in {record.runs} runs"
    return f"{seconds_text(record.seconds)}{runs}"


def why_text(step: StepRecord) -> str:
    """Return why a step ran or was reused, and of what was reused what making it took."""
    took = f"; making it took {seconds_text(step.made_s)}" if step.reused and step.made_s >= 1 else ""
    return f"{step.why}{took}"


def percent(fraction: float) -> str:
    """Return a fraction as a percentage: ``95 %``, ``97.5 %``; only the whole is ``100 %``."""
    rounded = f"{fraction * 100:.3g}"
    return f"{fraction * 100:.6g} %" if rounded == "100" else f"{rounded} %"


def percentile_name(percentile: Percentile) -> str:
    """Return ``p50`` or ``p99.9``."""
    return f"p{percentile.p:g}"


def percentile_text(percentile: Percentile) -> str:
    """Return the percentile in ms, or ``n/a, needs N`` where there were too few samples for it."""
    if percentile.value_ms is None:
        return f"n/a, needs {percentile.needs_n:,}"
    return f"{number(percentile.value_ms)} ms"


def point_name(latency: LatencySummary) -> str:
    """Return what a latency's point is: ``p50``, or ``mean`` where the artifact ends early."""
    return "mean" if latency.exits else "p50"


def exits_text(latency: LatencySummary) -> str:
    """Return where inferences ended: ``72.1 % at exit1, 27.9 % at end``; empty for what always runs whole."""
    return ", ".join(f"{percent(share)} at {clean(name)}" for name, share in latency.exits)


def settings_text(settings: Sequence[tuple[str, Setting]]) -> str:
    """Return runtime settings as ``name=value`` pairs."""
    texts = (str(value).lower() if isinstance(value, bool) else value for _, value in settings)
    return clean(", ".join(f"{name}={value}" for (name, _), value in zip(settings, texts, strict=True)))


def throughput(found: ThroughputSummary) -> str:
    """Return ``1,200 [1,180, 1,215] a second with 4 requests in flight``."""
    rate = with_interval(found.per_s, found.low_per_s, found.high_per_s)
    return f"{rate} a second with {found.requests} request{'' if found.requests == 1 else 's'} in flight"


def speed(comparison: Comparison | None) -> str:
    """Return how a candidate's latency compares with the reference artifact, with the interval of the ratio."""
    if comparison is None:
        return "not compared"
    if comparison.outcome == "equivalent":
        return "as fast (within ±2 %)"
    if comparison.outcome == "inconclusive":
        low, high = (math.exp(-v) for v in (comparison.high, comparison.low))
        return f"{number(low)} to {number(high)} times as fast, so undecided"
    sign = -1 if comparison.effect < 0 else 1
    ends = sorted(math.exp(sign * v) for v in (comparison.low, comparison.high))
    word = "faster" if sign < 0 else "slower"
    return f"{ratio_text(math.exp(sign * comparison.effect), *ends)} {word}"


def ratio_text(value: float, low: float, high: float) -> str:
    """Return ``2.31× [2.25, 2.37]``."""
    text = with_interval(value, low, high)
    head, _, tail = text.partition(" ")
    return f"{head}× {tail}"
