"""The drawings, as inline SVG. Colours and fonts come from the page's style sheet, so that light and dark both work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from edgebuild.reporting import formatting
from edgebuild.reporting.axes import Axis, Box, Label, axis_for, place
from edgebuild.reporting.markup import Html, join, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

FONT = 12.0
DOTS_PER_LAUNCH = 90
_CLIP_QUANTILE = 0.97
_CLIP_MEDIANS = 3.0
_SHAPES = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The size of a drawing. Each chart is drawn for wide and for narrow windows, so that its text stays legible."""

    width: float
    height: float

    @property
    def narrow(self) -> bool:
        """Whether this is the drawing for a phone."""
        return self.width < 500


@dataclass(frozen=True, kw_only=True)
class Point:
    """One candidate in the trade-off plot, with its intervals."""

    number: int
    name: str
    role: str
    kind: str
    shape: int
    x: float
    x_low: float
    x_high: float
    y: float
    y_low: float
    y_high: float
    area: float
    solid: bool
    chosen: bool
    front: bool
    title: str


def marker(shape: int, x: float, y: float, r: float, **attributes: str | None) -> Html:
    """Return a marker of equal area for each shape: circle, square, diamond or triangle."""
    kind = _SHAPES[shape % len(_SHAPES)]
    if kind == "circle":
        return tag("circle", cx=x, cy=y, r=r, **attributes)
    side = r * math.sqrt(math.pi)
    if kind == "square":
        return tag("rect", x=x - side / 2, y=y - side / 2, width=side, height=side, **attributes)
    reach = side / math.sqrt(2)
    corners = [(0, -reach), (reach, 0), (0, reach), (-reach, 0)]
    if kind == "triangle":
        edge = side * 1.52
        corners = [(0, -edge * 0.577), (edge / 2, edge * 0.289), (-edge / 2, edge * 0.289)]
    return tag("path", d="M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners) + "Z", **attributes)


def trade_off(points: Sequence[Point], *, budget: float | None, frame: Frame, x_title: str, y_title: str) -> Html:
    """Return the Pareto plot: cost to the right, drop upward, so that the lower left is better.

    Points far over the budget would flatten the rest; they are held at the upper edge with an arrow and their value.
    """
    left, right, top, bottom = 50.0, frame.width - 14, 14.0, frame.height - 44
    x = axis_for([v for p in points for v in (p.x_low, p.x_high)], start=left, end=right, margin=0.12)
    y = _drop_axis(points, budget, start=bottom, end=top)
    body = [_grid(x, y, frame, x_title, y_title), _budget_line(budget, x, y), _front(points, x, y)]
    spots = [_spot(p, x, y) for p in points]
    body += [_whiskers(p, x, y) for p in points if p.y <= y.high]
    # The chosen one is drawn last, over the others.
    body += [_mark(p, *spot) for p, spot in sorted(zip(points, spots, strict=True), key=lambda pair: pair[0].chosen)]
    body.append(_labels(points, spots, x, y))
    title = f"{y_title} against {x_title} of {len(points)} candidates; every value is in the candidates table"
    return tag(
        "svg", *body, viewBox=f"0 0 {frame.width:g} {frame.height:g}", role="img", aria_label=title, class_="chart"
    )


def _drop_axis(points: Sequence[Point], budget: float | None, *, start: float, end: float) -> Axis:
    limit = budget if budget and budget > 0 else max((abs(p.y) for p in points), default=1.0) or 1.0
    cap = 3 * limit
    shown = [v for p in points if p.y <= cap for v in (p.y, p.y_low, min(p.y_high, cap))]
    over = [limit * 1.9] if any(p.y > cap for p in points) else []
    return axis_for([0.0, limit * 1.15, *shown, *over], start=start, end=end, margin=0.09, log=False)


def _grid(x: Axis, y: Axis, frame: Frame, x_title: str, y_title: str) -> Html:
    parts: list[Html] = []
    for value in x.ticks(4 if frame.narrow else 8):
        at = x.at(value)
        parts.append(tag("path", d=f"M{at:.1f} {y.start:.1f}V{y.end:.1f}", class_="grid"))
        parts.append(tag("text", f"{value:g}", x=at, y=y.start + 16, class_="tick", text_anchor="middle"))
    for value in y.ticks(5):
        at = y.at(value)
        parts.append(tag("path", d=f"M{x.start:.1f} {at:.1f}H{x.end:.1f}", class_="axis" if value == 0 else "grid"))
        label = (
            formatting.number(value, None if value else 0)
            if abs(value) < 1
            else f"{value:g}".replace("-", formatting.MINUS)
        )
        parts.append(tag("text", label, x=x.start - 7, y=at + 4, class_="tick", text_anchor="end"))
    middle = (y.start + y.end) / 2
    parts.append(
        tag(
            "text",
            x_title + (" · log scale" if x.log else ""),
            x=(x.start + x.end) / 2,
            y=y.start + 36,
            class_="name",
            text_anchor="middle",
        )
    )
    parts.append(
        tag(
            "text",
            y_title,
            x=0,
            y=0,
            class_="name",
            text_anchor="middle",
            transform=f"translate(12 {middle:.0f}) rotate(-90)",
        )
    )
    return tag("g", *parts, aria_hidden="true")


def _budget_line(budget: float | None, x: Axis, y: Axis) -> Html | None:
    if budget is None or not y.low < budget < y.high:
        return None
    at = y.at(budget)
    return tag(
        "g",
        tag("rect", x=x.start, y=y.end, width=x.end - x.start, height=at - y.end, class_="over"),
        tag("path", d=f"M{x.start:.1f} {at:.1f}H{x.end:.1f}", class_="budget"),
        tag("text", f"budget {budget:g}", x=x.end - 4, y=at - 6, class_="budget-name", text_anchor="end"),
    )


def _edge(points: Sequence[Point], x: Axis, y: Axis) -> list[tuple[float, float]]:
    # The front may have been chosen over more than these two dimensions; only its lower-left edge here is a line.
    edge: list[Point] = []
    for p in sorted((p for p in points if p.front and p.y <= y.high), key=lambda p: (p.x, p.y)):
        if not edge or p.y < edge[-1].y:
            edge.append(p)
    return [(x.at(p.x), y.at(p.y)) for p in edge]


def _front(points: Sequence[Point], x: Axis, y: Axis) -> Html | None:
    edge = _edge(points, x, y)
    return tag("path", d="M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in edge), class_="front") if edge[1:] else None


def _spot(p: Point, x: Axis, y: Axis) -> tuple[float, float]:
    return x.at(p.x), y.at(p.y) if p.y <= y.high else y.end + 12


def _whiskers(p: Point, x: Axis, y: Axis) -> Html:
    px, py = x.at(p.x), y.at(p.y)
    d = f"M{px:.1f} {y.at(p.y_low):.1f}V{y.at(p.y_high):.1f}M{x.at(p.x_low):.1f} {py:.1f}H{x.at(p.x_high):.1f}"
    return tag("path", d=d, class_=f"whisker k-{p.kind}")


def _radius(p: Point) -> float:
    return 4.0 + 6.0 * math.sqrt(p.area)


def _mark(p: Point, px: float, py: float) -> Html:
    ring = tag("circle", cx=px, cy=py, r=_radius(p) + 5, class_="ring") if p.chosen else None
    shape = marker(p.shape, px, py, _radius(p), class_=f"mark k-{p.kind} {'solid' if p.solid else 'hollow'}")
    return tag("a", tag("title", p.title), ring, shape, href=f"#c{p.number}")


def _labels(points: Sequence[Point], spots: Sequence[tuple[float, float]], x: Axis, y: Axis) -> Html:
    order = sorted(range(len(points)), key=lambda i: (not points[i].chosen, not points[i].front, points[i].number))
    wanted: list[Label] = []
    for i in order:
        p, (px, py) = points[i], spots[i]
        off = f" ↑{formatting.number(p.y)}" if p.y > y.high else ""
        texts = [f"{p.number} {p.name}{off}"] * p.front + [f"{p.number}{off}"]
        if p.role:
            # Whom the page is about is never only a number.
            texts = [f"{p.number} {p.name} · {p.role}{off}", f"{p.number} {p.role}{off}"]
        wanted.append(Label(x=px, y=py, gap=_radius(p) + (5 if p.chosen else 1), texts=tuple(texts)))
    blocked = [_around(px, py, _radius(p)) for p, (px, py) in zip(points, spots, strict=True)]
    blocked += [
        box for p, spot in zip(points, spots, strict=True) if p.y <= y.high for box in _whisker_boxes(p, spot, x, y)
    ]
    blocked += [box for a, b in pairwise(_edge(points, x, y)) for box in _along(a, b)]
    blocked.append(Box(left=x.start, right=x.end, top=y.at(0) - 1, bottom=y.at(0) + 1))
    bounds = Box(left=x.start, right=x.end, top=y.end, bottom=y.start)
    parts: list[Html] = []
    for i, spot in zip(order, place(wanted, obstacles=blocked, bounds=bounds, font=FONT), strict=True):
        (px, py), box = spots[i], spot.box
        if spot.leader:
            tx, ty = min(max(px, box.left), box.right), min(max(py, box.top), box.bottom)
            parts.append(tag("path", d=f"M{px:.1f} {py:.1f}L{tx:.1f} {ty:.1f}", class_="leader"))
        parts.append(tag("text", spot.text, x=spot.x, y=spot.y, class_="label strong" if points[i].chosen else "label"))
    return tag("g", *parts)


def _whisker_boxes(p: Point, spot: tuple[float, float], x: Axis, y: Axis) -> tuple[Box, Box]:
    px, py = spot
    return (
        Box(left=px - 1, right=px + 1, top=y.at(p.y_high), bottom=y.at(p.y_low)),
        Box(left=x.at(p.x_low), right=x.at(p.x_high), top=py - 1, bottom=py + 1),
    )


def _along(a: tuple[float, float], b: tuple[float, float]) -> list[Box]:
    count = max(1, round(math.dist(a, b) / 6))
    shares = [i / count for i in range(count + 1)]
    return [_around(a[0] + (b[0] - a[0]) * s, a[1] + (b[1] - a[1]) * s, 1.5) for s in shares]


def _around(px: float, py: float, r: float) -> Box:
    return Box(left=px - r, right=px + r, top=py - r, bottom=py + r)


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One candidate's launches: raw latencies in ms per launch, and the certified point with its interval."""

    number: int
    name: str
    kind: str
    launches: tuple[tuple[float, ...], ...]
    point: float | None
    low: float | None
    high: float | None
    chosen: bool


def strips(rows: Sequence[Strip], *, frame: Frame) -> Html:
    """Return every launch as a lane of its raw latencies with a tick at its median; lanes lie in launch order.

    A long tail would flatten what differs between launches: the axis ends where 97 % of a candidate's latencies do,
    or at three times the slowest launch's median. What lies beyond is counted at the right edge.
    """
    ends = [end for row in rows for end in _ends(row)]
    lane = 6.0 if frame.narrow else 7.0
    height = 30 + sum(_strip_height(row, lane) for row in rows) + 26
    x = axis_for(ends, start=8, end=frame.width - (62 if frame.narrow else 80), margin=0.03)
    ticks = [_strip_tick(x, value, height) for value in x.ticks(4 if frame.narrow else 8)]
    name = tag(
        "text",
        "latency of one inference, ms" + (" · log scale" if x.log else ""),
        x=(x.start + x.end) / 2,
        y=height - 4,
        class_="name",
        text_anchor="middle",
    )
    body, top = [tag("g", *ticks, name, aria_hidden="true")], 8.0
    for row in rows:
        body.append(_strip(row, x, top, lane))
        top += _strip_height(row, lane)
    title = f"Raw latencies per launch of {len(rows)} candidates, with launch medians; summarised in the table below"
    return tag("svg", *body, viewBox=f"0 0 {frame.width:g} {height:g}", role="img", aria_label=title, class_="chart")


def _ends(row: Strip) -> tuple[float, float]:
    ranked = sorted(v for launch in row.launches for v in launch)
    slowest = max(median(launch) for launch in row.launches)
    most = ranked[min(len(ranked) - 1, math.floor(_CLIP_QUANTILE * len(ranked)))]
    return ranked[0], min(most, _CLIP_MEDIANS * slowest)


def _strip_height(row: Strip, lane: float) -> float:
    return 20 + lane * len(row.launches) + 14


def _strip_tick(x: Axis, value: float, height: float) -> Html:
    at = x.at(value)
    line = tag("path", d=f"M{at:.1f} 6V{height - 36:.1f}", class_="grid")
    return join([line, tag("text", f"{value:g}", x=at, y=height - 22, class_="tick", text_anchor="middle")])


def _strip(row: Strip, x: Axis, top: float, lane: float) -> Html:
    first, last = top + 20, top + 20 + lane * len(row.launches)
    parts = [
        tag("text", f"{row.number} {row.name}", x=x.start, y=top + 12, class_="label strong" if row.chosen else "label")
    ]
    if row.low is not None and row.high is not None:
        at, wide = x.at(row.low), max(1.0, x.at(row.high) - x.at(row.low))
        parts.append(tag("rect", x=at, y=first - 2, width=wide, height=last - first + 4, class_=f"band k-{row.kind}"))
    if row.point is not None:
        at = x.at(row.point)
        parts.append(tag("path", d=f"M{at:.1f} {first - 2:.1f}V{last + 2:.1f}", class_=f"centre k-{row.kind}"))
    dots, medians = [], []
    for i, launch in enumerate(row.launches):
        y = first + lane * (i + 0.5)
        dots += [f"M{x.at(v):.1f} {y:.1f}h0" for v in thin(launch) if v <= x.high]
        if launch:
            medians.append(f"M{x.at(median(launch)):.1f} {y - lane * 0.5:.1f}v{lane:.1f}")
    parts.append(tag("path", d="".join(dots) or "M0 0", class_=f"dots k-{row.kind}"))
    parts.append(tag("path", d="".join(medians) or "M0 0", class_="median"))
    every = [v for launch in row.launches for v in launch]
    beyond = [v for v in every if v > x.high]
    if beyond:
        share = f"▸ {formatting.percent(len(beyond) / len(every))}"
        parts.append(tag("text", share, x=x.end + 6, y=first + 8, class_="tick"))
        parts.append(tag("text", f"to {formatting.number(max(beyond))}", x=x.end + 6, y=first + 22, class_="tick"))
    return tag("g", *parts)


def thin(launch: Sequence[float], count: int = DOTS_PER_LAUNCH) -> tuple[float, ...]:
    """Return at most ``count`` latencies, evenly spaced in rank, so that the shape, the least and the greatest stay."""
    ranked = sorted(launch)
    if len(ranked) <= count:
        return tuple(ranked)
    return tuple(ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count))


def interval(drop: float, low: float, high: float, *, limit: float | None, axis: Axis) -> Html:
    """Return one row of a forest plot: the interval, its point, zero, and the limit where there is one."""
    zero = tag("path", d=f"M{axis.at(0):.1f} 0V18", class_="axis")
    bound = None if limit is None else tag("path", d=f"M{axis.at(limit):.1f} 0V18", class_="budget")
    late = limit is not None and high > limit
    line = tag("path", d=f"M{axis.at(low):.1f} 9H{axis.at(high):.1f}", class_=f"range{' late' if late else ''}")
    dot = tag("circle", cx=axis.at(drop), cy=9, r=3.5, class_=f"range-point{' late' if late else ''}")
    return tag("svg", zero, bound, line, dot, viewBox=f"0 0 {axis.end + 4:g} 18", class_="interval", aria_hidden="true")
