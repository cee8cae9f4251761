"""The report as one offline HTML file."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from edgebuild.reporting import page, report_evidence
from edgebuild.reporting.markup import Html, join, tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgebuild.core.record import BuildRecord


def render(record: BuildRecord, samples: Mapping[str, Sequence[Sequence[int]]]) -> str:
    """Return one self-contained HTML document: no script, no request, nothing outside the file.

    ``samples`` holds raw latencies in nanoseconds, per candidate id one sequence per launch; candidates without any
    are left out of the latency drawing. Every text of the record is escaped.
    """
    sections = (
        page.trade_off(record),
        page.latency(record, samples),
        page.candidates(record),
        report_evidence.accuracy(record),
        report_evidence.layers(record),
        report_evidence.memory(record),
        report_evidence.not_proven(record),
        report_evidence.device(record),
        report_evidence.refused(record),
        report_evidence.steps(record),
        report_evidence.reproduce(record),
    )
    shown = [(name, section) for name, section in sections if section]
    links = [tag("li", tag("a", name, href=f"#{page.anchor(name)}")) for name, _ in shown]
    body = tag(
        "body",
        tag("a", "Skip to the result", href="#result", class_="skip"),
        page.header(record),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *[tag("section", tag("h2", name), content, id=page.anchor(name)) for name, content in shown]),
        tag("footer", f"edgebuild build {record.build_id}. This file needs no network and holds no script."),
    )
    return f"<!doctype html>\n{tag('html', _head(record), body, lang='en')}\n"


def _head(record: BuildRecord) -> Html:
    style = Html(files("edgebuild.reporting").joinpath("report.css").read_text(encoding="utf-8"))
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{record.project} on {record.target} · edgebuild"),
        join([tag("style", style)]),
    )
