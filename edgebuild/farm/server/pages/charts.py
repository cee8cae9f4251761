"""Latencies over time as inline SVG; colours come from the style sheet, so that light and dark both work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edgebuild.farm.server.pages.rendering import utc
from edgebuild.reporting.axes import Axis, axis_for
from edgebuild.reporting.formatting import number
from edgebuild.reporting.markup import Html, join, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Row

#: Drawn for wide and for narrow windows, so that its text stays legible in both.
WIDE = (1060.0, 240.0)
NARROW = (350.0, 220.0)
_HOUR, _DAY = 3600.0, 86_400.0
_HOURS = tuple(each * _HOUR for each in (1 / 12, 1 / 4, 1, 3, 6, 12))
_STEPS = (*_HOURS, *(each * _DAY for each in (1, 2, 7, 14, 30, 90, 365)))


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A latency at a time, with its interval where it has one; ``wrong`` ones stand out by their shape too."""

    at: float
    ms: float
    low: float | None = None
    high: float | None = None
    wrong: bool = False
    title: str = ""
    href: str = ""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at a time."""

    at: float
    text: str


def anchor_chart(history: Sequence[Row[Any]]) -> Html:
    """Return what the anchor model took at each check, or nothing where it never ran."""
    dots = [
        Dot(at=row.at, ms=row.anchor_ms, wrong=not row.passed, title=_said(row.at, row.anchor_ms, row.passed))
        for row in reversed(history)
        if row.anchor_ms is not None and math.isfinite(row.anchor_ms)
    ]
    return timeline(dots, what="The anchor's latency at each check")


def timeline(dots: Sequence[Dot], *, what: str, marks: Sequence[Mark] = (), beside: Sequence[Dot] = ()) -> Html:
    """Return latencies over time, for wide and for narrow windows; nothing where there are none.

    ``beside`` is drawn as a thin line: what the others can be held against.
    """
    if not dots:
        return Html("")
    ends = f"from {number(min(dot.ms for dot in dots))} to {number(max(dot.ms for dot in dots))} ms"
    said = f"{what}: {len(dots)} between {utc(dots[0].at)} and {utc(dots[-1].at)}, {ends}."
    sizes = {"wide": WIDE, "narrow": NARROW}
    return join([_draw(dots, marks, beside, size, said, kind) for kind, size in sizes.items()])


def _draw(
    dots: Sequence[Dot],
    marks: Sequence[Mark],
    beside: Sequence[Dot],
    size: tuple[float, float],
    title: str,
    kind: str,
) -> Html:
    width, height = size
    x = Axis(low=dots[0].at, high=dots[-1].at, start=56, end=width - 14)
    ends = [v for dot in (*dots, *beside) for v in (dot.ms, dot.low, dot.high) if v is not None and math.isfinite(v)]
    y = axis_for(ends, start=height - 34, end=14, margin=0.15, log=False)
    body = [_grid(x, y, few=kind == "narrow"), *[_mark(mark, x, y) for mark in marks]]
    body += [_line(beside, x, y, "beside-trace"), _line(dots, x, y, "trace"), *[_dot(dot, x, y) for dot in dots]]
    view = f"0 0 {width:g} {height:g}"
    return tag("svg", *body, viewBox=view, role="img", aria_label=title, class_=f"chart {kind}")


def _line(dots: Sequence[Dot], x: Axis, y: Axis, kind: str) -> Html:
    steps = "L".join(f"{x.at(dot.at):.1f} {y.at(dot.ms):.1f}" for dot in dots)
    return tag("path", d=f"M{steps}", class_=kind) if dots else Html("")


def _grid(x: Axis, y: Axis, *, few: bool) -> Html:
    parts: list[Html] = []
    for value in y.ticks(4):
        at = y.at(value)
        parts.append(tag("path", d=f"M{x.start:.1f} {at:.1f}H{x.end:.1f}", class_="grid"))
        parts.append(tag("text", f"{value:g}", x=x.start - 8, y=at + 4, class_="tick", text_anchor="end"))
    for value, said in _time_ticks(x.low, x.high, 3 if few else 8):
        at = x.at(value)
        parts.append(tag("path", d=f"M{at:.1f} {y.start:.1f}v5", class_="axis"))
        parts.append(tag("text", said, x=at, y=y.start + 20, class_="tick", text_anchor="middle"))
    parts.append(tag("path", d=f"M{x.start:.1f} {y.start:.1f}H{x.end:.1f}", class_="axis"))
    parts.append(tag("text", "ms", x=x.start - 8, y=y.start + 20, class_="tick", text_anchor="end"))
    return tag("g", *parts, aria_hidden="true")


def _time_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    step = next((each for each in _STEPS if (high - low) / each <= most), None)
    if step is None or high <= low:
        return [(low, utc(low)[:10])]
    form = "%H:%M" if step < _DAY else "%-d %b" if step < _STEPS[-1] else "%Y"
    first, last = math.ceil(low / step), math.floor(high / step)
    return [(n * step, datetime.fromtimestamp(n * step, UTC).strftime(form)) for n in range(first, last + 1)]


def _mark(mark: Mark, x: Axis, y: Axis) -> Html:
    at = x.at(mark.at)
    line = tag("path", d=f"M{at:.1f} {y.start:.1f}V{y.end:.1f}", class_="change")
    side = "end" if at > (x.start + x.end) / 2 else "start"
    name = tag("text", mark.text, x=at - 5 if side == "end" else at + 5, y=y.end + 4, class_="tick", text_anchor=side)
    return tag("g", line, name)


def _dot(dot: Dot, x: Axis, y: Axis) -> Html:
    at, up = x.at(dot.at), y.at(dot.ms)
    parts: list[Html | None] = [tag("title", dot.title) if dot.title else None]
    if dot.low is not None and dot.high is not None:
        parts.append(tag("path", d=f"M{at:.1f} {y.at(dot.low):.1f}V{y.at(dot.high):.1f}", class_="whisker"))
    if dot.wrong:
        parts.append(tag("path", d=f"M{at:.1f} {up - 5.5:.1f}l5.5 9.5h-11Z", class_="dot wrong"))
    else:
        parts.append(tag("circle", cx=at, cy=up, r=3.2, class_="dot"))
    return tag("a", *parts, href=dot.href) if dot.href else tag("g", *parts)


def _said(at: float, value: float, passed: bool) -> str:
    return f"{utc(at)}: {number(value)} ms{'' if passed else ', the check failed'}"
