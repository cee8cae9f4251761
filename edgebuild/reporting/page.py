"""The first half of the report: the verdict, the trade-off, the latencies, and every candidate with its reason."""

from __future__ import annotations

from string import ascii_lowercase
from typing import TYPE_CHECKING

from edgebuild.core.objective import MIB, OBJECTIVES
from edgebuild.reporting import charts, formatting, sentences
from edgebuild.reporting.markup import Html, join, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgebuild.core.measurement import LatencySummary, ThroughputSummary
    from edgebuild.core.record import BuildRecord, CandidateRecord
    from edgebuild.core.verdict import Drop

Section = tuple[str, Html | None]

_WIDE, _NARROW = 1040.0, 358.0
_BADGE = {"ok": "Accepted", "missed": "Budget missed", "inconclusive": "Inconclusive"}
_NS_PER_MS = 1e6


def anchor(name: str) -> str:
    """Return the fragment id of a section."""
    return "-".join("".join(c if c in ascii_lowercase else " " for c in name.lower()).split())


def table(head: Sequence[str], rows: Sequence[tuple[str | None, Sequence[str | Html]]], *, caption: str) -> Html:
    """Return a table whose rows become cards on a phone; each row is its id (or ``None``) and its cells.

    The roles are spelled out because a table that is shown as blocks loses them in some browsers.
    """
    heads = [tag("th", name, scope="col", role="columnheader") for name in head]
    body = [
        tag(
            "tr",
            *[_cell(i, name, cell) for i, (name, cell) in enumerate(zip(head, cells, strict=True))],
            id=key,
            role="row",
        )
        for key, cells in rows
    ]
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *heads, role="row"), role="rowgroup"),
        tag("tbody", *body, role="rowgroup"),
        role="table",
        class_="cards",
    )


def _cell(index: int, name: str, cell: str | Html) -> Html:
    if index == 0:
        return tag("th", cell, scope="row", role="rowheader", data_label=name)
    # The inner span keeps mixed content in one piece next to the label of a card.
    return tag("td", tag("span", cell), role="cell", data_label=name)


def both(draw: Callable[[charts.Frame], Html], *, height: float, caption: str | Html) -> Html:
    """Return a figure drawn twice, for wide and for narrow windows; the style sheet shows one of them."""
    wide = tag("div", draw(charts.Frame(width=_WIDE, height=height)), class_="wide")
    narrow = tag("div", draw(charts.Frame(width=_NARROW, height=max(height * 0.85, 300))), class_="narrow")
    return tag("figure", wide, narrow, tag("figcaption", caption))


def header(record: BuildRecord) -> Html:
    """Return the top of the page: what was built, the verdict in one sentence, and the figures behind it."""
    facts = f"{record.device} · {record.started_at} · took {formatting.taken_text(record)}"
    about = sentences.subject(record)
    return tag(
        "header",
        tag("p", f"edgebuild report · build {record.build_id}", class_="eyebrow"),
        tag("h1", record.project, tag("span", f" on {record.target}")),
        tag("p", facts, class_="meta"),
        tag(
            "div",
            tag("p", sentences.qualified(_BADGE[record.outcome], record), class_="badge"),
            tag("p", sentences.verdict_sentence(record), class_="verdict"),
            _tiles(record, about) if about else None,
            id="result",
            class_=f"result {record.outcome}",
        ),
    )


def _tiles(record: BuildRecord, chosen: CandidateRecord) -> Html:
    reference = sentences.find(record, record.baseline)
    itself = chosen.id == record.baseline
    drop, memory = sentences.drop_of(chosen), chosen.measured.memory
    compared = "is the reference artifact" if itself else formatting.speed(chosen.measured.versus_reference)
    whose = None if chosen.id == record.chosen else tag("p", f"The nearest: {chosen.id}", class_="quiet")
    base = reference.measured.memory if reference and not itself else None
    tiles = [
        _tile("Latency, p50", latency_text(sentences.latency_of(chosen)), join([compared, _screen_note(chosen)])),
        _tile(
            f"Drop of {drop.metric}" if drop else "Drop",
            sentences.drop_text(drop, sentences.unit_of(record)) if drop else formatting.NONE,
            f"budget {record.budget.text}; {drop.split}, n = {drop.samples:,}" if drop else "never judged",
        ),
        _tile(
            "Size",
            formatting.bytes_text(chosen.size_bytes),
            (not itself and sentences.size_ratio(chosen, reference)) or "",
        ),
        _tile(
            "Peak memory",
            formatting.bytes_text(memory.peak_bytes if memory else None),
            f"reference {formatting.bytes_text(base.peak_bytes)}" if base else "" if memory else "not measured",
        ),
    ]
    return join([whose, tag("dl", *tiles, class_="tiles")])


def _tile(name: str, value: str, note: str) -> Html:
    main, bracket, rest = value.partition(" [")
    small = tag("small", f"{bracket}{rest}") if bracket else None
    return tag("div", tag("dt", name), tag("dd", tag("b", main), small), tag("dd", note, class_="note"))


def _screen_note(candidate: CandidateRecord) -> str:
    return " · screened only, no result" if candidate.measured.latency is None and candidate.screened.latency else ""


def latency_text(latency: LatencySummary | None) -> str:
    """Return ``0.412 [0.405, 0.420] ms``, or a dash."""
    return (
        f"{formatting.with_interval(latency.point_ms, latency.low_ms, latency.high_ms)} ms"
        if latency
        else formatting.NONE
    )


def trade_off(record: BuildRecord) -> Section:
    """Return the Pareto plot of latency (or of the objective) against the drop."""
    points = _points(record)
    name = "Trade-off"
    if not points:
        return name, tag("p", "No candidate has both a measured cost and a judged drop, so there is nothing to draw.")
    unit = sentences.unit_of(record)
    drops = [d for c in record.candidates if (d := _plotted_drop(c))]
    budget = drops[0].budget * unit.factor
    y_title = f"drop of {drops[0].metric}" + (f", {unit.name}" if unit.name else "")
    x_title = _axis_name(record)
    kinds = sorted({p.kind for p in points})
    backends = list(dict.fromkeys(c.spec.backend for c in sentences.ordered(record)))
    figure = both(
        lambda frame: charts.trade_off(points, budget=budget, frame=frame, x_title=x_title, y_title=y_title),
        height=430,
        caption=_trade_off_caption(record),
    )
    return name, join([_legend(kinds, backends), figure])


def _trade_off_caption(record: BuildRecord) -> str:
    splits = {d.split for c in record.candidates if (d := _plotted_drop(c))}
    return (
        f"Lower left is better. Drops are those of the {' and '.join(sorted(splits, reverse=True))} samples, with "
        "their intervals; the marker's area is the size of the artifact; numbers are those of the table of candidates."
    )


def _axis_name(record: BuildRecord) -> str:
    return OBJECTIVES[record.objective].axis


def _plotted_drop(candidate: CandidateRecord) -> Drop | None:
    # Validation first: every candidate has it on the same samples, and the choice was made there.
    return next((v.drop for v in (candidate.validation, candidate.test) if v and v.drop), None)


def _cost(record: BuildRecord, c: CandidateRecord) -> tuple[float, float, float] | None:
    objective = OBJECTIVES[record.objective]
    if not objective.timed:
        size = objective.figure(c.measured, c.size_bytes or 0).value
        return (size / MIB,) * 3 if 0 < size < float("inf") else None
    latency = sentences.latency_of(c)
    if latency is None or latency.point_ms <= 0:
        return None
    return latency.point_ms, latency.low_ms or latency.point_ms, latency.high_ms or latency.point_ms


def _points(record: BuildRecord) -> tuple[charts.Point, ...]:
    factor = sentences.unit_of(record).factor
    largest = max((c.size_bytes or 0 for c in record.candidates), default=0) or 1
    candidates = sentences.ordered(record)
    backends = list(dict.fromkeys(c.spec.backend for c in candidates))
    points = []
    for i, c in enumerate(candidates, 1):
        drop, cost = _plotted_drop(c), _cost(record, c)
        if drop is None or cost is None:
            continue
        lost = sentences.drop_text(drop, sentences.unit_of(record))
        title = f"{i} {c.id}: {latency_text(sentences.latency_of(c))}, drop {lost}, {c.status}"
        points.append(
            charts.Point(
                number=i,
                name=_short(c),
                role=sentences.role(record, c),
                kind=c.spec.precision.kind,
                shape=backends.index(c.spec.backend),
                x=cost[0],
                x_low=cost[1],
                x_high=cost[2],
                y=drop.drop * factor,
                y_low=drop.low * factor,
                y_high=drop.high * factor,
                area=(c.size_bytes or 0) / largest,
                solid=c.measured.latency is not None or not OBJECTIVES[record.objective].timed,
                chosen=c.id == record.chosen,
                front=c.on_front,
                title=title,
            )
        )
    return tuple(points)


def _short(c: CandidateRecord) -> str:
    return _cut(formatting.clean("/".join(filter(None, (c.spec.recipe, c.spec.precision.label)))), 28)


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _legend(kinds: Sequence[str], backends: Sequence[str]) -> Html:
    def key(drawing: Html, name: str) -> Html:
        return tag("li", tag("svg", drawing, viewBox="0 0 16 16", aria_hidden="true"), name)

    items = [
        tag("li", "colour: precision"),
        *[key(charts.marker(0, 8, 8, 5, class_=f"mark k-{kind} solid"), kind) for kind in kinds],
    ]
    if len(backends) > 1:
        items.append(tag("li", "shape: runtime"))
        items += [key(charts.marker(i, 8, 8, 5, class_="mark k-none solid"), name) for i, name in enumerate(backends)]
    items.append(key(charts.marker(0, 8, 8, 5, class_="mark k-none hollow"), "screened only: ranks, no result"))
    items.append(key(tag("circle", cx=8, cy=8, r=6.5, class_="ring"), "chosen"))
    items.append(key(tag("path", d="M0 8H16", class_="front"), "front"))
    return tag("ul", *items, class_="legend")


def latency(record: BuildRecord, samples: Mapping[str, Sequence[Sequence[int]]]) -> Section:
    """Return every raw launch of the candidates that have samples, and the percentiles."""
    rows: list[charts.Strip] = []
    for i, c in enumerate(sentences.ordered(record), 1):
        launches = tuple(tuple(ns / _NS_PER_MS for ns in launch) for launch in samples.get(c.id, ()) if launch)
        found = sentences.latency_of(c)
        if launches:
            rows.append(
                charts.Strip(
                    number=i,
                    name=" · ".join(
                        part for part in (_cut(formatting.clean(c.id), 42), sentences.role(record, c)) if part
                    ),
                    kind=c.spec.precision.kind,
                    launches=launches,
                    chosen=c.id == record.chosen,
                    point=found.point_ms if found else None,
                    low=found.low_ms if found else None,
                    high=found.high_ms if found else None,
                )
            )
    parts = [_strips(rows)] if rows else []
    measured = [(i, c) for i, c in enumerate(sentences.ordered(record), 1) if c.measured.latency]
    if measured:
        parts.append(_percentiles(measured))
    flights = [
        (i, c, c.measured.throughput) for i, c in enumerate(sentences.ordered(record), 1) if c.measured.throughput
    ]
    if flights:
        parts.append(_throughput(flights))
    return "Latency", join(parts) if parts else None


def _strips(rows: Sequence[charts.Strip]) -> Html:
    caption = (
        "Each lane is one launch, a fresh process, in the order they ran; dots are single inferences (thinned evenly "
        "in rank; those beyond the right end are counted there), the upright tick is the launch's median, the line and "
        "band are the point and its 95 % interval over "
        "launch medians. Launches, not inferences, carry the variance."
    )
    return both(lambda frame: charts.strips(rows, frame=frame), height=0, caption=caption)


def _percentiles(measured: Sequence[tuple[int, CandidateRecord]]) -> Html:
    found = [(i, c, c.measured.latency) for i, c in measured if c.measured.latency]
    names = list(dict.fromkeys(formatting.percentile_name(p) for _, _, latency in found for p in latency.percentiles))
    rows = [(None, [name_cell(i, c), *_latency_cells(latency, names)]) for i, c, latency in found]
    exits = [f"{c.id} ends early: {formatting.exits_text(latency)}." for _, c, latency in found if latency.exits]
    head = ["Certified candidate", "Point [95 %]", *names, "Per second, one at a time", "Launches", "Spread", "Far out"]
    caption = "Latency in ms over all valid launches. Far out: beyond the 3 IQR fences, counted and kept."
    if exits:
        caption = " ".join([caption, "The point of what ends early is the mean of its inferences.", *exits])
    return table(head, rows, caption=caption)


def _throughput(flights: Sequence[tuple[int, CandidateRecord, ThroughputSummary]]) -> Html:
    names = list(dict.fromkeys(formatting.percentile_name(p) for _, _, found in flights for p in found.latencies))
    rows = []
    for i, c, found in flights:
        texts = {
            formatting.percentile_name(p): formatting.percentile_text(p).removesuffix(" ms") for p in found.latencies
        }
        invalid = f" + {found.invalid_launches} invalid" if found.invalid_launches else ""
        rows.append(
            (
                None,
                [
                    name_cell(i, c),
                    formatting.with_interval(found.per_s, found.low_per_s, found.high_per_s),
                    f"{found.requests}" if found.concurrent else "1 (no more possible)",
                    *[texts.get(name, formatting.NONE) for name in names],
                    f"{found.launches}{invalid}",
                ],
            )
        )
    head = ["Certified candidate", "Per second [95 %]", "In flight", *[f"{name}, ms" for name in names], "Launches"]
    caption = (
        "Throughput: samples completed a second with several requests in flight, measured in launches of its own. "
        "These latencies are those of a request alongside the others, not of one alone."
    )
    return table(head, rows, caption=caption)


def _latency_cells(latency: LatencySummary, names: Sequence[str]) -> list[str]:
    texts = {
        formatting.percentile_name(p): formatting.percentile_text(p).removesuffix(" ms") for p in latency.percentiles
    }
    invalid = f" + {latency.invalid_launches} invalid" if latency.invalid_launches else ""
    return [
        formatting.with_interval(latency.point_ms, latency.low_ms, latency.high_ms),
        *[texts.get(name, formatting.NONE) for name in names],
        formatting.number(latency.throughput_per_s),
        f"{latency.launches}{invalid}",
        formatting.percent(latency.spread) if latency.spread is not None else formatting.NONE,
        f"{latency.outliers:,}",
    ]


def name_cell(index: int, c: CandidateRecord) -> Html:
    """Return a candidate's number and id, linked to its row."""
    return tag("a", tag("span", str(index), class_="num"), " ", c.id, href=f"#c{index}")


def candidates(record: BuildRecord) -> Section:
    """Return every candidate with its status and the reason it was chosen or lost."""
    if not record.candidates:
        return "Candidates", tag("p", "This build has no candidates.")
    rows = [(f"c{i}", _candidate_cells(record, i, c)) for i, c in enumerate(sentences.ordered(record), 1)]
    head = ["Candidate", "Status", "Drop [interval]", "p50 ms [95 %]", "Size", "Peak memory", "Reason"]
    unit = sentences.unit_of(record).name
    caption = f"Drops{' in ' + unit if unit else ''} are those of the test set where it was opened, else of validation."
    return "Candidates", table(head, rows, caption=caption)


def _candidate_cells(record: BuildRecord, index: int, c: CandidateRecord) -> list[str | Html]:
    drop, latency = sentences.drop_of(c), sentences.latency_of(c)
    extra = [
        "reference artifact" if c.id == record.baseline else "",
        c.spec.backend,
        formatting.settings_text(c.settings),
    ]
    detail = " · ".join(part for part in extra if part)
    text = formatting.with_interval(latency.point_ms, latency.low_ms, latency.high_ms) if latency else formatting.NONE
    bare = sentences.Unit(factor=sentences.unit_of(record).factor, name="")
    lost = join([sentences.drop_text(drop, bare), tag("small", drop.split)]) if drop else formatting.NONE
    reasons = sentences.reasons_of(c)
    return [
        join([tag("span", str(index), class_="num"), " ", tag("b", c.id), tag("small", detail)]),
        tag("span", c.status, class_=f"status s-{c.status}"),
        lost,
        _timed(text, c, latency),
        formatting.bytes_text(c.size_bytes),
        formatting.bytes_text(c.measured.memory.peak_bytes if c.measured.memory else None),
        join([reasons[0], _more(reasons[1:])]),
    ]


def _timed(text: str, c: CandidateRecord, latency: LatencySummary | None) -> str | Html:
    """Return a latency with what is to be known of it."""
    if latency is None:
        return text
    early = f"mean; {formatting.exits_text(latency)}" if latency.exits else ""
    small = [tag("small", text) for text in ("" if c.measured.latency else "screened only", early) if text]
    return join([text, *small]) if small else text


def _more(notes: Sequence[str]) -> Html | None:
    if len(notes) < 2:
        return tag("small", notes[0]) if notes else None
    return tag("details", tag("summary", f"{len(notes)} notes"), *[tag("small", note) for note in notes])
