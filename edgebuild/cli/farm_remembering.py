"""`farm history | compare`: what a farm remembers of measurements."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from edgebuild.cli.farm_asking import asked, dump, table
from edgebuild.cli.output import plain, say
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.measurement import Comparison
    from edgebuild.farm.history import Story

#: What a comparison ends with, as `bench` does.
EXIT_CODES = {"better": 0, "equivalent": 0, "worse": 3, "inconclusive": 4}
SHOWN = 20


def show_history(url: str | None, model: str, device: str | None, export: Path | None, *, as_json: bool) -> None:
    """Print how a model fared, or write its records to a file."""
    query = urlencode({"model": model, **({"device": device} if device else {})})
    if export is not None:
        kind = export.suffix.removeprefix(".")
        if kind not in {"csv", "parquet"}:
            raise UsageError(f"{export} is neither .csv nor .parquet.", hint="Name such a file.")
        with asked(url) as farm:
            farm.download(f"/api/records/export?format={kind}&{query}", export)
        say(f"{export} holds the records of {model}.", error=as_json)
        if not as_json:
            return
    with asked(url) as farm:
        from edgebuild.farm.history import History

        found = farm.ask("GET", f"/api/history?{query}", History)
    if as_json:
        dump(found)
        return
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


def show_comparison(url: str | None, a: str, b: str, *, as_json: bool) -> int:
    """Print how two records compare; return the exit code, 2 where they can't be compared."""
    with asked(url) as farm:
        from edgebuild.farm.comparing import Compared

        found = farm.ask("GET", f"/api/compare?{urlencode({'a': a, 'b': b})}", Compared)
    if as_json:
        dump(found)
    else:
        say(plain(found.text))
    return _code(found.comparison)


def _code(comparison: Comparison | None) -> int:
    return 2 if comparison is None else EXIT_CODES[comparison.outcome]


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
