"""The second half of the report: what the verdict rests on, and what it doesn't prove."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.measurement import Fact
from edgebuild.reporting import charts, formatting, sentences
from edgebuild.reporting.axes import Axis, axis_for
from edgebuild.reporting.markup import Html, join, tag
from edgebuild.reporting.page import Section, name_cell, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgebuild.core.record import BuildRecord, CandidateRecord
    from edgebuild.core.verdict import Drop, SliceDrop, Verdict

_BAR = 200.0


def accuracy(record: BuildRecord) -> Section:
    """Return the drop of the chosen candidate (or of the nearest), of each of its slices, and its limits."""
    name = "Accuracy and limits"
    about = sentences.subject(record)
    verdict = sentences.verdict_of(about) if about else None
    if about is None or verdict is None:
        return name, None
    unit = sentences.unit_of(record)
    parts = [_whose(record, about)]
    if verdict.drop:
        parts.append(tag("p", _drop_words(verdict.drop, record, unit)))
    if about.closeness:
        parts.append(
            tag("p", f"Its outputs against the reference's: {sentences.closeness_text(about)}.", class_="quiet")
        )
    if about.crosscheck:
        parts.append(tag("p", f"Cross-check: {sentences.crosscheck_text(about.crosscheck)}.", class_="quiet"))
    if verdict.slices or verdict.drop:
        parts.append(_slices(verdict, unit))
    if verdict.limits:
        rows = [
            (
                None,
                [
                    c.name,
                    formatting.number(c.limit),
                    "unknown" if c.measured is None else formatting.number(c.measured),
                    str(c.outcome),
                ],
            )
            for c in verdict.limits
        ]
        parts.append(
            table(["Limit", "Allowed", "Measured", "Outcome"], rows, caption="Limits. A missing sensor never passes.")
        )
    return name, join(parts)


def _whose(record: BuildRecord, about: CandidateRecord) -> Html:
    role = sentences.role(record, about)
    return tag("p", tag("b", about.id), f", {role}" if role else "", class_="quiet")


def _drop_words(drop: Drop, record: BuildRecord, unit: sentences.Unit) -> str:
    return (
        f"{drop.metric}: reference {formatting.number(drop.reference, 4)}, "
        f"artifact {formatting.number(drop.artifact, 4)}, "
        f"a drop of {sentences.drop_text(drop, unit)} ({sentences.evidence(drop, record)}; {drop.method})."
    )


def _slices(verdict: Verdict, unit: sentences.Unit) -> Html:
    overall, f = verdict.drop, unit.factor
    worst = sorted(verdict.slices, key=lambda s: -s.drop)
    ends = [v * f for s in worst for v in (s.low, s.high)]
    ends += [v * f for v in (overall.low, overall.high, overall.budget)] if overall else []
    axis = axis_for([0.0, *ends], start=4, end=_BAR - 4, margin=0.03, log=False)
    rows: list[tuple[str | None, Sequence[str | Html]]] = []
    if overall:
        rows.append(
            (
                None,
                [
                    tag("b", "all"),
                    f"{overall.samples:,}",
                    _metric(overall.reference, overall.artifact),
                    sentences.drop_text(overall, sentences.Unit(factor=f, name="")),
                    charts.interval(
                        overall.drop * f, overall.low * f, overall.high * f, limit=overall.budget * f, axis=axis
                    ),
                ],
            )
        )
    rows += [(None, _slice_cells(s, f, axis)) for s in worst]
    head = [
        "Slice",
        "n",
        "Reference → artifact",
        f"Drop{', ' + unit.name if unit.name else ''} [interval]",
        "Zero, limit (dashed), interval",
    ]
    split = overall.split if overall else "the judged"
    return table(head, rows, caption=f"Drop of the artifact on {split} samples, worst slice first.")


def _metric(reference: float, artifact: float) -> str:
    return f"{formatting.number(reference, 4)} → {formatting.number(artifact, 4)}"


def _slice_cells(s: SliceDrop, f: float, axis: Axis) -> list[str | Html]:
    return [
        s.slice,
        f"{s.samples:,}",
        _metric(s.reference, s.artifact),
        formatting.with_interval(s.drop * f, s.low * f, s.high * f),
        charts.interval(s.drop * f, s.low * f, s.high * f, limit=None if s.limit is None else s.limit * f, axis=axis),
    ]


def layers(record: BuildRecord) -> Section:
    """Return the precision that each layer of the same artifact really ran in, as the runtime said."""
    name = "What really ran"
    about = sentences.subject(record)
    if about is None or not about.measured.layers:
        return name, None
    total = sum(layer.time_us or 0.0 for layer in about.measured.layers)
    rows = [
        (None, [p, f"{count}", formatting.percent(us / total) if total else formatting.NONE, _share(us, total)])
        for p, count, us in sentences.by_precision(about.measured.layers)
    ]
    every = [
        (None, [layer.name, layer.op, layer.precision, _us(layer.time_us), _share(layer.time_us or 0.0, total)])
        for layer in about.measured.layers
    ]
    heading = f"All {len(about.measured.layers)} layers" + ("" if total else "; this runtime gives no time per layer")
    return name, join(
        [
            _whose(record, about),
            table(
                ["Precision", "Layers", "Share of time", "Share"],
                rows,
                caption="Read back from the runtime, not assumed.",
            ),
            tag(
                "details",
                tag("summary", heading),
                table(["Layer", "Op", "Precision", "Time", "Share"], every, caption="In graph order."),
            ),
        ]
    )


def _us(time_us: float | None) -> str:
    return formatting.NONE if time_us is None else f"{formatting.number(time_us)} µs"


def _share(us: float, total: float) -> Html:
    width = _BAR * us / total if total else 0.0
    bar = tag("rect", x=0, y=4, width=max(width, 0.5) if us else 0, height=8, class_="bar")
    return tag("svg", bar, viewBox=f"0 0 {_BAR:g} 16", class_="interval", aria_hidden="true")


def memory(record: BuildRecord) -> Section:
    """Return memory, load and first inference of every candidate that has them."""
    rows: list[tuple[str | None, Sequence[str | Html]]] = []
    for i, c in enumerate(sentences.ordered(record), 1):
        m, found = c.measured.memory, c.measured.latency
        if m is None and found is None:
            continue
        times = [formatting.load_text(found) if found else formatting.NONE]
        times += [
            f"{formatting.number(v)} ms" if v is not None else formatting.NONE
            for v in ((found.first_inference_ms, found.cold_start_ms) if found else (None,) * 2)
        ]
        sizes = (m.baseline_bytes, m.load_peak_bytes, m.inference_peak_bytes, m.pss_peak_bytes) if m else (None,) * 4
        peaks = [formatting.bytes_text(b) for b in sizes]
        if m and m.decode_peak_bytes is not None:
            peaks[1] += f", {formatting.bytes_text(m.decode_peak_bytes)} while decoding"
        rows.append((None, [name_cell(i, c), *peaks, *times]))
    if not rows:
        return "Memory and start", None
    head = [
        "Candidate",
        "After import",
        "Load peak",
        "Inference peak",
        "PSS peak",
        "Load",
        "First inference",
        "Cold start",
    ]
    return "Memory and start", table(
        head, rows, caption="Resident memory of the whole process, in a launch of its own (VmHWM)."
    )


def not_proven(record: BuildRecord) -> Section:
    """Return what a reader must not conclude."""
    return "What isn't proven here", tag("ul", *[tag("li", s) for s in sentences.not_proven(record)], class_="plain")


def device(record: BuildRecord) -> Section:
    """Return the device's facts, the environment it was measured in, and every version."""
    parts = [
        _facts("Device", ((f.name, f.value) for f in record.facts)),
        _facts("Environment while measuring", ((f.name, f.value) for f in (*record.environment, *_session(record)))),
        _facts("Versions", iter(record.versions)),
    ]
    shown = [p for p in parts if p]
    return "Device and environment", tag("div", *shown, class_="columns") if shown else None


def _session(record: BuildRecord) -> tuple[Fact, ...]:
    found = []
    if record.anchor_ms:
        low, high = min(record.anchor_ms), max(record.anchor_ms)
        drift = f", drifted by {formatting.percent(high / low - 1)}" if low > 0 else ""
        found.append(
            Fact(
                name="anchor model",
                value=f"{formatting.number(low)} to {formatting.number(high)} ms in {len(record.anchor_ms)} runs"
                f"{drift}",
            )
        )
    if record.resolution is not None:
        found.append(Fact(name="resolution here", value=formatting.percent(record.resolution)))
    if record.host_peak_bytes is not None:
        found.append(Fact(name="peak memory of the build itself", value=formatting.bytes_text(record.host_peak_bytes)))
    return tuple(found)


def _facts(name: str, pairs: Iterable[tuple[str, str]]) -> Html | None:
    rows = [tag("div", tag("dt", key), tag("dd", value)) for key, value in pairs]
    return tag("div", tag("h3", name), tag("dl", *rows, class_="facts")) if rows else None


def refused(record: BuildRecord) -> Section:
    """Return what was refused before any work, and why."""
    if not record.refused_in_planning:
        return "Refused in planning", None
    rows = [(None, [each.what, each.reason]) for each in record.refused_in_planning]
    return "Refused in planning", table(
        ["Combination", "Why"], rows, caption="Never built: it can't work here, or there was no time for it."
    )


def steps(record: BuildRecord) -> Section:
    """Return every step with its time and why it ran or didn't."""
    if not record.steps:
        return "Steps", None
    rows = [
        (
            None,
            [
                s.label,
                s.kind,
                "reused" if s.reused else "ran",
                formatting.seconds_text(s.seconds),
                formatting.why_text(s),
                s.key[:12],
            ],
        )
        for s in record.steps
    ]
    ran = [s for s in record.steps if not s.reused]
    took = formatting.seconds_text(sum(s.seconds for s in ran))
    heading = f"{len(rows)} steps: {len(ran)} ran in {took}, {len(rows) - len(ran)} reused"
    every = table(["Step", "Kind", "State", "Time", "Why", "Key"], rows, caption="In the order they were asked for.")
    return "Steps", tag("details", tag("summary", heading), every)


def reproduce(record: BuildRecord) -> Section:
    """Return the command, and what must be the same for it to give this result."""
    digests = [
        (c.id, c.artifact_digest)
        for c in (sentences.find(record, record.chosen), sentences.find(record, record.baseline))
        if c and c.artifact_digest
    ]
    pairs = [
        ("build", record.build_id),
        ("target", record.target),
        ("objective", record.objective),
        ("budget", record.budget.text),
        ("sealed test set", record.test_set.text if record.test_set else "not opened"),
        *(("note", note.text) for note in record.notes),
        *[(f"artifact of {name}", digest) for name, digest in dict(digests).items()],
    ]
    command = tag("pre", tag("code", record.command), tabindex="0") if record.command else None
    check = tag(
        "p", "Then ", tag("code", "edgebuild doctor --against BUILD"), " says what differs from the versions above."
    )
    return "How to reproduce", join(
        [command, check, tag("dl", *[tag("div", tag("dt", k), tag("dd", v)) for k, v in pairs], class_="facts")]
    )
