"""`farm history | compare`: what a farm remembers of measurements."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from edgebuild.cli.answering import Answer
from edgebuild.cli.farm_asking import asked, table
from edgebuild.cli.output import plain, say
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.measurement import Comparison
    from edgebuild.farm.history import History, Story

#: What a comparison ends with, as `bench` does.
EXIT_CODES = {"better": 0, "equivalent": 0, "worse": 3, "inconclusive": 4}
SHOWN = 20


def history(url: str | None, model: str, device: str | None, export: Path | None) -> Answer:
    """Return how a model fared; write its records to a file where one is named, of which alone people are told then."""
    query = urlencode({"model": model, **({"device": device} if device else {})})
    if export is not None:
        kind = export.suffix.removeprefix(".")
        if kind not in {"csv", "parquet"}:
            raise UsageError(f"{export} is neither .csv nor .parquet.", hint="Name such a file.")
        with asked(url) as farm:
            farm.download(f"/api/records/export?format={kind}&{query}", export)
    with asked(url) as farm:
        from edgebuild.farm.history import History

        found = farm.ask("GET", f"/api/history?{query}", History)
    if export is not None:
        return Answer(value=found, text=lambda: say(f"{export} holds the records of {model}."))
    return Answer(value=found, text=lambda: _show_history(found))


def _show_history(found: History) -> None:
    for story in found.devices:
        _show(story)
        alike = found.boards.get(story.device)
        if alike is not None:
            say(f"  against {found.devices[0].device}: {alike.text}")


def _show(story: Story) -> None:
    from edgebuild.reporting.formatting import with_interval

    say(f"{plain(story.model)} on {story.device} ({story.target}), {len(story.records)} records")
    rows = [
        (
            each.id,
            _date(each.measured_at),
            with_interval(each.point_ms, each.low_ms, each.high_ms),
            f"{each.anchor_ms:.4g}" if each.anchor_ms is not None else "unknown",
            "host" if each.origin == "host" else f"reported by {each.owner}",
        )
        for each in story.records[-SHOWN:]
    ]
    table(("Record", "Measured", "Latency, ms", "Anchor, ms", "By"), rows, "No records.")
    for change in story.changes:
        also = f" ({'; '.join(change.also)})" if change.also else ""
        say(plain(f"  {_date(change.at)}: {change.text}{also}"))


def comparison(url: str | None, a: str, b: str) -> Answer:
    """Return how two records compare; the exit code is 2 where they can't be compared."""
    with asked(url) as farm:
        from edgebuild.farm.comparing import Compared

        found = farm.ask("GET", f"/api/compare?{urlencode({'a': a, 'b': b})}", Compared)
    return Answer(value=found, text=lambda: say(plain(found.text)), code=_code(found.comparison))


def _code(comparison: Comparison | None) -> int:
    return 2 if comparison is None else EXIT_CODES[comparison.outcome]


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
