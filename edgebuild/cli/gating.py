"""`release gate`: measures two releases in one session a target, and prints what that came to."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.cli.console import stop_if_interrupted
from edgebuild.cli.junit import Case, Suite, report_text, write_report
from edgebuild.cli.output import make_console, plain, say
from edgebuild.errors import UsageError
from edgebuild.fleet.inventory import load_inventory
from edgebuild.releasing.accuracy import accuracy_of, accuracy_row
from edgebuild.releasing.bundle import read_bundle, require_measured_artifact
from edgebuild.releasing.fielded import fielded
from edgebuild.releasing.gate import Figures, concluded, rows_of, same_artifact
from edgebuild.releasing.override import Override, require_reason, require_unsigned, store_override
from edgebuild.releasing.unpack import part_of, unpack
from edgebuild.releasing.values import ARTIFACT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edgebuild.benching.bench import BenchResult
    from edgebuild.cli.junit import Outcome
    from edgebuild.releasing.bundle import Bundle
    from edgebuild.releasing.fielded import Fielded
    from edgebuild.releasing.gate import GateOutcome, Row

#: What the command ends with.
EXIT_CODES: Mapping[GateOutcome, int] = {"better": 0, "equivalent": 0, "worse": 3, "inconclusive": 4}
_CASES: Mapping[GateOutcome, Outcome] = {
    "better": "passed",
    "equivalent": "passed",
    "worse": "failed",
    "inconclusive": "open",
}


def run_gate(
    new: Path,
    old: Path,
    *,
    target: str | None,
    device: str | None,
    native: bool,
    as_json: bool,
    junit: Path | None,
    override: str | None = None,
) -> int:
    """Compare, print and return the exit code: 0 where no figure is worse, 3 where one is, 4 where one is open.

    ``override`` is why the release may follow all the same: where one is worse or open, the reason is stored in it, and
    the exit code is 0.
    """
    reason = None if override is None else require_reason(override)
    if reason is not None:
        require_unsigned(new)
    one, other = read_bundle(new), read_bundle(old)
    if one.project != other.project:
        raise UsageError(f"{new} is a release of {one.project}, and {old} one of {other.project}.")
    for bundle in (one, other):
        bundle.check_all()
    if junit is not None:
        write_report(junit, "", mode="a")  # before minutes of measuring: whether it can be written at all
    targets = [target] if target is not None else _common(one, other)
    if device is not None and len(targets) > 1:
        raise UsageError("--device measures one target.", hint=f"Name it with --target: {', '.join(targets)}.")
    tables = {each: _rows(one, other, each, device=device, native=native) for each in targets}
    outcome = concluded(row for rows in tables.values() for row in rows)
    known = tuple(load_inventory().values())
    there = {each: fielded(part_of(one, each).release, known) for each in targets}
    if as_json:
        told = {"new": one.version, "old": other.version, "outcome": outcome}
        figures = {each: [asdict(row) for row in rows] for each, rows in tables.items()}
        devices = {each: [asdict(row) for row in rows] for each, rows in there.items()}
        say(json.dumps({**told, "targets": figures, "devices": devices}, indent=2))
    else:
        _show(one, other, tables)
        _show_devices(there)
        say(f"{one.project} {one.version} against {other.version}: {outcome}")
    if junit is not None:
        write_report(junit, junit_text(one, tables))
    if reason is None or EXIT_CODES[outcome] == 0:
        return EXIT_CODES[outcome]
    made = Override(
        against=other.version, index=other.descriptor.digest, figures=tuple(_held_up(tables)), reason=reason
    )
    say(f"{made.text}\n  stored in {new}, which is {store_override(new, made).digest} now: sign it", error=as_json)
    return 0


def _held_up(tables: Mapping[str, tuple[Row, ...]]) -> Iterator[str]:
    for target, rows in tables.items():
        yield from (f"{row.what} on {target} is {row.outcome}" for row in rows if EXIT_CODES[row.outcome])


def run_replay(folder: Path, *, target: str | None, device: str | None, native: bool) -> int:
    """Measure a release again and say whether that agrees with its record: 0 yes, 3 no, 4 can't be told."""
    from edgebuild.benching.bench import BenchRequest
    from edgebuild.cli.progress import make_progress
    from edgebuild.pipeline import bench
    from edgebuild.releasing.replay import compared

    bundle = read_bundle(folder)
    bundle.check_all()
    part = part_of(bundle, target)
    require_measured_artifact(bundle, part)
    recorded = part.release.latency
    if recorded is None:
        raise UsageError(f"{bundle.project} {bundle.version} has no latency on record for {part.release.target}.")
    with tempfile.TemporaryDirectory(prefix="edgebuild-replay-") as scratch:
        unpack(bundle, part, Path(scratch), lambda path: path.startswith(f"{ARTIFACT}/"))
        request = BenchRequest(model=Path(scratch) / ARTIFACT, device=device, native_libraries=native)
        report = bench(request, progress=make_progress(), check=stop_if_interrupted)
    now = report.results[0].summary
    say(f"on record: {_interval(recorded.point_ms, recorded.low_ms, recorded.high_ms)} on {part.release.device}")
    say(f"now:       {_interval(now.point_ms, now.low_ms, now.high_ms)} on {report.device}, on random inputs")
    found = compared(recorded, now)
    if found is None:
        say("inconclusive: one of them has no interval")
        return 4
    say(f"{found.agreement}: {found.ratio:.3f}x [{found.low:.3f}, {found.high:.3f}]")
    return {"agrees": 0, "disagrees": 3, "inconclusive": 4}[found.agreement]


def _interval(point: float, low: float | None, high: float | None) -> str:
    return f"{point:.4g} ms" + (f" [{low:.4g}, {high:.4g}]" if low is not None and high is not None else "")


def _common(one: Bundle, other: Bundle) -> list[str]:
    names = {part.release.target for part in other.targets}
    found = [part.release.target for part in one.targets if part.release.target in names]
    if not found:
        raise UsageError(
            "The two releases have no target in common.", hint="`--against` names one of the same targets."
        )
    return found


def _rows(one: Bundle, other: Bundle, target: str, *, device: str | None, native: bool) -> tuple[Row, ...]:
    from edgebuild.benching.bench import BenchRequest
    from edgebuild.cli.progress import make_progress
    from edgebuild.pipeline import bench

    new, old = part_of(one, target), part_of(other, target)
    for bundle, part in ((one, new), (other, old)):
        require_measured_artifact(bundle, part)
    if (new.release.artifact_digest, new.release.settings) == (old.release.artifact_digest, old.release.settings):
        return same_artifact()
    accuracy = accuracy_row(accuracy_of(one, new), accuracy_of(other, old))
    with tempfile.TemporaryDirectory(prefix="edgebuild-gate-") as scratch:
        folders = (Path(scratch) / "new", Path(scratch) / "old")
        for bundle, part, folder in ((one, new, folders[0]), (other, old, folders[1])):
            unpack(bundle, part, folder, lambda path: path.startswith(f"{ARTIFACT}/"))
        request = BenchRequest(
            model=folders[0] / ARTIFACT,
            against=folders[1] / ARTIFACT,
            device=device,
            native_libraries=native,
        )
        report = bench(request, progress=make_progress(), check=stop_if_interrupted)
    comparison = report.comparison
    if comparison is None:
        raise UsageError(f"Nothing was compared for {target}.")
    measured = rows_of(_figures(report.results[0]), _figures(report.results[1]), comparison)
    return (accuracy, *measured)


def _figures(result: BenchResult) -> Figures:
    return Figures(
        latency_ms=result.summary.point_ms,
        memory_bytes=result.memory.peak_bytes,
        size_bytes=result.size_bytes,
        load_ms=result.summary.load_ms,
    )


def _show(one: Bundle, other: Bundle, tables: Mapping[str, tuple[Row, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = make_console()
    for target, rows in tables.items():
        table = Table(target, one.version, other.version, "", "why", box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(Text, (row.what, row.new, row.old, row.outcome, row.why)))
        console.print(table)


def _show_devices(there: Mapping[str, tuple[Fielded, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = make_console()
    for target, devices in there.items():
        table = Table(f"Devices of {target}", "runtime", "system", "can load it", box=None, pad_edge=False)
        for each in devices:
            loads = "no: " + "; ".join(each.misfits) if each.misfits else "; ".join(("yes", *each.doubts))
            table.add_row(*(Text(plain(word)) for word in (each.device, each.runtime, each.system, loads)))
        if devices:
            console.print(table)


def junit_text(bundle: Bundle, tables: Mapping[str, tuple[Row, ...]]) -> str:
    """Return a JUnit report: a suite for each target, a case for each figure; one that is open counts as skipped."""
    return report_text(
        Suite(
            name=f"{bundle.project} {bundle.version} on {target}",
            classname=target,
            cases=tuple(Case(name=row.what, outcome=_CASES[row.outcome], said=_said(row)) for row in rows),
        )
        for target, rows in tables.items()
    )


def _said(row: Row) -> str:
    return f"{row.new} against {row.old}: {row.outcome}{f' ({row.why})' if row.why else ''}"
