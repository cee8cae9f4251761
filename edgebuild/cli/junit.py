"""Verdicts as JUnit reports, which every CI shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias
from xml.sax.saxutils import quoteattr

from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Outcome: TypeAlias = Literal["passed", "failed", "open", "error"]
#: What holds up a pipeline is a failure, what can't be told is skipped, and what couldn't be done is an error.
_ELEMENTS = {"failed": "failure", "open": "skipped", "error": "error"}
#: XML 1.0 has no other control characters, not even escaped.
_ALLOWED = "\t\n\r"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that was judged, and what there is to say of it."""

    name: str
    outcome: Outcome
    said: str


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What was judged together."""

    name: str
    classname: str
    cases: tuple[Case, ...]


def report_text(suites: Iterable[Suite]) -> str:
    """Return a JUnit report."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<testsuites>"]
    for suite in suites:
        counts = {what: sum(case.outcome == what for case in suite.cases) for what in _ELEMENTS}
        lines.append(
            f'<testsuite name={_quoted(suite.name)} tests="{len(suite.cases)}" failures="{counts["failed"]}" '
            f'errors="{counts["error"]}" skipped="{counts["open"]}">'
        )
        for case in suite.cases:
            element = _ELEMENTS.get(case.outcome)
            inner = f"<{element} message={_quoted(case.said)}/>" if element else ""
            names = f"classname={_quoted(suite.classname)} name={_quoted(case.name)}"
            lines.append(f"<testcase {names}>{inner}</testcase>")
        lines.append("</testsuite>")
    return "\n".join([*lines, "</testsuites>"]) + "\n"


def write_report(path: Path, text: str, mode: Literal["w", "a"] = "w") -> None:
    """Write a report, or append to it; raises ``UsageError`` where that can't be done."""
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror or error}.", hint="Name another file.") from error


def _quoted(text: str) -> str:
    return quoteattr("".join(c if c.isprintable() or c in _ALLOWED else "\N{REPLACEMENT CHARACTER}" for c in text))
