"""The result on a terminal: a summary, several targets side by side, and where one candidate's points and time went.

Everything fits 80 columns and reads without colour. Texts of the record are never taken for rich's markup, and
nothing in them can steer the terminal.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from edgebuild.errors import UsageError
from edgebuild.reporting import formatting, sentences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group, RenderableType
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    from edgebuild.core.measurement import Layer
    from edgebuild.core.record import BuildRecord, CandidateRecord, StepRecord

_HEADLINES = {
    "ok": ("ACCEPTED", "bold green"),
    "missed": ("BUDGET MISSED", "bold red"),
    "inconclusive": ("INCONCLUSIVE", "bold yellow"),
}
_STATUS_STYLES = {"chosen": "bold green", "refused": "red", "failed": "red", "inconclusive": "yellow"}


def summary(record: BuildRecord) -> Group:
    """Return the verdict in a sentence, a table of all candidates, and why each of them ended as it did."""
    from rich.console import Group

    word, style = _HEADLINES[record.outcome]
    word = sentences.qualified(word, record).upper()
    parts: list[RenderableType] = [
        _text(f"{record.project} on {record.target}: ", (word, style)),
        _text(sentences.verdict_sentence(record)),
        _text(""),
        _candidates(record),
        *_footnote(record),
        _text(""),
        *_reasons(record),
    ]
    if record.refused_in_planning:
        parts.append(_text(f"\nRefused in planning: {len(record.refused_in_planning)}; the report says why."))
    return Group(*parts)


def _footnote(record: BuildRecord) -> list[RichText]:
    screened = any(c.screened.latency and not c.measured.latency for c in record.candidates)
    notes = [_text(("~ screened only: the time ranks candidates, it is no result", "dim"))] if screened else []
    lines = (*sentences.emulation_lines(record), *(f"Note: {note.text}" for note in record.notes))
    return notes + [_text(line) for line in lines]


def _text(*pieces: str | tuple[str, str]) -> RichText:
    """Plain text, cleaned line by line; a pair is a text and its style."""
    from rich.text import Text

    made = Text()
    for piece in pieces:
        words, style = piece if isinstance(piece, tuple) else (piece, "")
        made.append("\n".join(formatting.clean(line) for line in words.split("\n")), style=style)
    return made


def _table(*columns: tuple[str, bool], title: str = "") -> RichTable:
    """A borderless table; a column is its head and whether it holds figures."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        title=_text(title) if title else None,
        title_justify="left",
        title_style="bold",
    )
    for head, figure in columns:
        made.add_column(head, justify="right" if figure else "left", overflow="fold", no_wrap=figure)
    return made


def _candidates(record: BuildRecord) -> RichTable:
    unit = sentences.unit_of(record)
    drop = f"drop, {unit.name}" if unit.name else "drop"
    columns = (
        ("#", True),
        ("candidate", False),
        (drop, True),
        ("p50, ms", True),
        ("size\nmemory", True),
        ("status", False),
    )
    table = _table(*columns)
    for i, c in enumerate(sentences.ordered(record), 1):
        table.add_row(*_row(record, i, c, unit))
    return table


def _row(record: BuildRecord, index: int, c: CandidateRecord, unit: sentences.Unit) -> list[RichText]:
    drop, latency = sentences.drop_of(c), sentences.latency_of(c)
    time = formatting.with_interval(latency.point_ms, latency.low_ms, latency.high_ms) if latency else formatting.NONE
    lost = sentences.drop_text(drop, sentences.Unit(factor=unit.factor, name="")) if drop else formatting.NONE
    memory = formatting.bytes_text(c.measured.memory.peak_bytes if c.measured.memory else None)
    role = "\nreference" if c.id == record.baseline else ""
    # Intervals go below their values, and ids break after the profile: side by side they need more than 80 columns.
    return [
        _text(str(index)),
        _text(c.id.replace("/", "/\n", 1)),
        _text(lost.replace(" [", "\n[")),
        _text(
            ("~" if latency and c.measured.latency is None else "") + time.replace(" [", "\n["),
            "\nmean" if latency and latency.exits else "",
        ),
        _text(f"{formatting.bytes_text(c.size_bytes)}\n{memory}"),
        _text((c.status, _STATUS_STYLES.get(c.status, "")), role, f"\n{sentences.mark(record)}".rstrip()),
    ]


def _reasons(record: BuildRecord) -> list[RichText]:
    """Why each candidate ended as it did; what is the same of several is said once."""
    said: dict[tuple[str, ...], list[int]] = {}
    for index, c in enumerate(sentences.ordered(record), 1):
        notes = (note for note in (*(n.text for n in c.notes), sentences.decoding_text(c)) if note)
        said.setdefault((c.status, sentences.reasons_of(c)[0], *notes), []).append(index)
    return [
        _text(
            (f"{', '.join(map(str, numbers)):>2} {status}: ", _STATUS_STYLES.get(status, "dim")),
            reason,
            *((f"\n   {note}", "dim") for note in notes),
        )
        for (status, reason, *notes), numbers in said.items()
    ]


def comparison_table(records: Sequence[BuildRecord]) -> RichTable:
    """Return one row for each target: what was chosen and what it costs there. Times differ by device, not by merit."""
    table = _table(
        ("target", False),
        ("result", False),
        ("chosen", False),
        ("p50 ms", True),
        ("against reference", False),
        ("drop", True),
        ("size", True),
    )
    for record in records:
        chosen = sentences.find(record, record.chosen)
        drop, latency = (sentences.drop_of(chosen), sentences.latency_of(chosen)) if chosen else (None, None)
        word, style = _HEADLINES[record.outcome]
        own = chosen is not None and chosen.id == record.baseline
        table.add_row(
            _text(record.target),
            _text((sentences.qualified(word.lower(), record), style)),
            _text(chosen.id.replace("/", "/\n", 1) if chosen else formatting.NONE),
            _text(formatting.number(latency.point_ms) if latency else formatting.NONE),
            _text(
                "is it" if own else formatting.speed(chosen.measured.versus_reference) if chosen else formatting.NONE
            ),
            _text(
                sentences.drop_text(drop, sentences.unit_of(record)).replace(" [", "\n[") if drop else formatting.NONE
            ),
            _text(formatting.bytes_text(chosen.size_bytes if chosen else None)),
        )
    return table


def explain(record: BuildRecord, candidate_id: str) -> Group:
    """Return where a candidate's accuracy and time went against the reference artifact, and why its steps ran.

    Raises ``UsageError`` when the build has no such candidate.
    """
    from rich.console import Group

    c = sentences.find(record, candidate_id)
    if c is None:
        raise UsageError(
            f"Build {record.build_id} has no candidate {candidate_id!r}.",
            hint=f"It has: {', '.join(x.id for x in record.candidates) or 'none'}.",
        )
    reference = sentences.find(record, record.baseline)
    parts = [
        _text((c.id, "bold"), ": ", (c.status, _STATUS_STYLES.get(c.status, ""))),
        *[_text(f"  {reason}") for reason in sentences.reasons_of(c)],
        *_points(record, c),
        *_time(c, reference),
        *_steps(record, c),
    ]
    return Group(*parts)


def _points(record: BuildRecord, c: CandidateRecord) -> list[RenderableType]:
    unit = sentences.unit_of(record)
    parts: list[RenderableType] = [_text(("\nAccuracy", "bold"))]
    for verdict in (c.test, c.validation):
        if verdict and verdict.drop:
            d = verdict.drop
            change = f"{formatting.number(d.reference, 4)} → {formatting.number(d.artifact, 4)}"
            loss = sentences.drop_text(d, unit)
            parts.append(_text(f"{d.metric}: {change}, loses {loss} ({sentences.evidence(d, record)})"))
    parts.append(_text(f"outputs against the reference's: {sentences.closeness_text(c)}"))
    if c.crosscheck:
        parts.append(_text(f"cross-check: {sentences.crosscheck_text(c.crosscheck)}"))
    best = sentences.verdict_of(c)
    if best and best.slices:
        table = _table(
            ("slice", False),
            ("n", True),
            ("drop" + (f", {unit.name}" if unit.name else ""), True),
            ("limit", True),
            title="worst slices",
        )
        for s in sorted(best.slices, key=lambda s: -s.drop)[:5]:
            limit = formatting.number(s.limit * unit.factor) if s.limit is not None else formatting.NONE
            text = formatting.with_interval(s.drop * unit.factor, s.low * unit.factor, s.high * unit.factor)
            table.add_row(_text(s.slice), _text(f"{s.samples:,}"), _text(text), _text(limit))
        parts.append(table)
    return parts


def _time(c: CandidateRecord, reference: CandidateRecord | None) -> list[RenderableType]:
    parts: list[RenderableType] = [_text(("\nTime", "bold"))]
    flight = c.measured.throughput or c.screened.throughput
    if flight is not None:
        ranks = "" if c.measured.throughput else ", screened only: it ranks, it is no result"
        parts.append(_text(f"throughput {formatting.throughput(flight)} in {flight.launches} launches{ranks}"))
    latency = sentences.latency_of(c)
    if latency is None:
        emulated = f"never measured: {sentences.emulation_text(c)}" if c.measured.emulation else "never measured"
        return parts if flight else [*parts, _text(emulated)]
    note = "" if c.measured.latency else ", screened only: it ranks, it is no result"
    interval = formatting.with_interval(latency.point_ms, latency.low_ms, latency.high_ms)
    parts.append(_text(f"{formatting.point_name(latency)} {interval} ms in {latency.launches} launches{note}"))
    if latency.exits:
        p99 = next((formatting.percentile_text(p) for p in latency.percentiles if p.p == 99), formatting.NONE)
        parts.append(_text(f"p99 {p99}; inferences end: {formatting.exits_text(latency)}"))
    if decoding := sentences.decoding_text(c):
        parts.append(_text(decoding))
    if c.measured.versus_reference:
        parts.append(_text(f"against the reference artifact: {formatting.speed(c.measured.versus_reference)}"))
    if c.settings:
        parts.append(_text(f"settings: {formatting.settings_text(c.settings)}"))
    if c.measured.layers:
        parts.append(
            _layers(c.measured.layers, reference.measured.layers if reference and reference.id != c.id else ())
        )
    return parts


def _layers(own: Sequence[Layer], reference: Sequence[Layer]) -> RichTable:
    times, counts = _by_op(own)
    others, other_counts = _by_op(reference)
    timed = any(times.values()) or any(others.values())
    table = _table(
        ("op", False),
        ("precision", False),
        ("layers", True),
        ("µs", True),
        ("reference layers", True),
        ("reference µs", True),
        title="layers as the runtime ran them" + ("" if timed else "; it gives no times"),
    )
    keys = sorted({*counts, *other_counts}, key=lambda k: (-times[k], -others[k], k))
    for op, precision in keys:
        k = (op, precision)
        figure = [_figure(counts[k]), _figure(times[k]), _figure(other_counts[k]), _figure(others[k])]
        table.add_row(_text(op), _text(precision), *map(_text, figure))
    return table


def _figure(value: float) -> str:
    return formatting.NONE if not value else f"{value}" if isinstance(value, int) else formatting.number(value)


def _by_op(layers: Sequence[Layer]) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    times: Counter[tuple[str, str]] = Counter()
    for layer in layers:
        if layer.time_us is not None:
            # mypy types a Counter's values as int; they are microseconds here, and only added.
            times[layer.op, layer.precision] += layer.time_us  # type: ignore[assignment]
    return times, Counter((layer.op, layer.precision) for layer in layers)


def steps_of(record: BuildRecord, c: CandidateRecord) -> tuple[StepRecord, ...]:
    """Return the steps of a build that made this candidate, or served all of them."""
    return tuple(s for s in record.steps if not _of_another(s, c))


def _steps(record: BuildRecord, c: CandidateRecord) -> list[RenderableType]:
    steps = steps_of(record, c)
    if not steps:
        return []
    table = _table(("step", False), ("time", True), ("why", False))
    for s in steps:
        table.add_row(
            _text(s.label),
            _text(formatting.seconds_text(s.seconds)),
            _text(("reused: " if s.reused else "ran: ") + formatting.why_text(s)),
        )
    return [_text(("\nSteps", "bold")), table]


def _of_another(step: StepRecord, c: CandidateRecord) -> bool:
    """Whether the step was another candidate's or recipe's work; one that was nobody's own served all of them."""
    return step.candidate not in {"", c.spec.id} or step.recipe not in {"", c.spec.recipe}
