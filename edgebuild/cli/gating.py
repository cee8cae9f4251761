"""`release gate`: measures two releases in one session a target, and prints what that came to."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.cli.answering import Answer
from edgebuild.cli.console import stop_if_interrupted
from edgebuild.cli.junit import Case, Suite, report_text, write_report
from edgebuild.cli.output import make_console, plain, say
from edgebuild.core.values import Value
from edgebuild.errors import UsageError
from edgebuild.fleet.inventory import load_inventory
from edgebuild.releasing.accuracy import accuracy_of, accuracy_row
from edgebuild.releasing.bundle import read_bundle, require_measured_artifact
from edgebuild.releasing.fielded import fielded
from edgebuild.releasing.gate import Figures, GateOutcome, concluded, rows_of, same_artifact
from edgebuild.releasing.override import Override, require_reason, require_unsigned, store_override
from edgebuild.releasing.replay import Agreement
from edgebuild.releasing.unpack import part_of, unpack
from edgebuild.releasing.values import ARTIFACT, Latency

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edgebuild.benching.bench import BenchResult
    from edgebuild.cli.junit import Outcome
    from edgebuild.releasing.bundle import Bundle
    from edgebuild.releasing.fielded import Fielded
    from edgebuild.releasing.gate import Row

#: What the command ends with.
EXIT_CODES: Mapping[GateOutcome, int] = {"better": 0, "equivalent": 0, "worse": 3, "inconclusive": 4}
_CASES: Mapping[GateOutcome, Outcome] = {
    "better": "passed",
    "equivalent": "passed",
    "worse": "failed",
    "inconclusive": "open",
}


class GateRow(Value):
    """A figure of both releases, as it is told, and what their difference comes to."""

    what: str
    new: str
    old: str
    outcome: GateOutcome
    why: str


class FieldedDevice(Value):
    """A device of the inventory, and whether it can load the new release: not where it has ``misfits``."""

    device: str
    runtime: str
    system: str
    misfits: tuple[str, ...]
    doubts: tuple[str, ...]


class Gated(Value):
    """Two releases compared: figures and devices by target, versions in ``new`` and ``old``.

    ``override`` is why the new one may follow all the same, where it was told so: its ``release_digest`` is new.
    """

    new: str
    old: str
    outcome: GateOutcome
    targets: dict[str, tuple[GateRow, ...]]
    devices: dict[str, tuple[FieldedDevice, ...]]
    override: str | None = None
    release_digest: str | None = None


class Replayed(Value):
    """A release measured again, on random inputs: ``ratio`` of now to its record, with its 95 % interval.

    The three figures are None where one of both has no interval.
    """

    project: str
    version: str
    target: str
    agreement: Agreement
    recorded: Latency
    recorded_on: str
    now: Latency
    device: str
    ratio: float | None
    low: float | None
    high: float | None


def run_gate(
    new: Path,
    old: Path,
    *,
    target: str | None,
    device: str | None,
    native: bool,
    junit: Path | None,
    override: str | None = None,
) -> Answer:
    """Compare; the exit code is 0 where no figure is worse, 3 where one is, 4 where one is open.

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
    if junit is not None:
        write_report(junit, junit_text(one, tables))
    gated = Gated(
        new=one.version,
        old=other.version,
        outcome=outcome,
        targets={each: tuple(GateRow(**asdict(row)) for row in rows) for each, rows in tables.items()},
        devices={each: tuple(FieldedDevice(**asdict(row)) for row in rows) for each, rows in there.items()},
    )
    made = None
    if reason is not None and EXIT_CODES[outcome]:
        made = Override(
            against=other.version, index=other.descriptor.digest, figures=tuple(_held_up(tables)), reason=reason
        )
        gated = gated.model_copy(update={"override": made.text, "release_digest": store_override(new, made).digest})

    def told() -> None:
        _show(one, other, tables)
        _show_devices(there)
        say(f"{one.project} {one.version} against {other.version}: {outcome}")
        if made is not None:
            say(f"{made.text}\n  stored in {new}, which is {gated.release_digest} now: sign it")

    return Answer(value=gated, text=told, code=0 if made is not None else EXIT_CODES[outcome])


def _held_up(tables: Mapping[str, tuple[Row, ...]]) -> Iterator[str]:
    for target, rows in tables.items():
        yield from (f"{row.what} on {target} is {row.outcome}" for row in rows if EXIT_CODES[row.outcome])


def run_replay(folder: Path, *, target: str | None, device: str | None, native: bool) -> Answer:
    """Measure a release again, and return whether that agrees with its record: 0 yes, 3 no, 4 can't be told."""
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
    found = compared(recorded, now)
    value = Replayed(
        project=bundle.project,
        version=bundle.version,
        target=part.release.target,
        agreement="inconclusive" if found is None else found.agreement,
        recorded=recorded,
        recorded_on=part.release.device,
        now=Latency(point_ms=now.point_ms, low_ms=now.low_ms, high_ms=now.high_ms, launches=now.launches),
        device=report.device,
        ratio=None if found is None else found.ratio,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
    )
    code = {"agrees": 0, "disagrees": 3, "inconclusive": 4}[value.agreement]
    return Answer(value=value, text=lambda: _show_replayed(value), code=code)


def _show_replayed(done: Replayed) -> None:
    then, now = done.recorded, done.now
    say(f"on record: {_interval(then.point_ms, then.low_ms, then.high_ms)} on {done.recorded_on}")
    say(f"now:       {_interval(now.point_ms, now.low_ms, now.high_ms)} on {done.device}, on random inputs")
    if done.ratio is None:
        say("inconclusive: one of them has no interval")
    else:
        say(f"{done.agreement}: {done.ratio:.3f}x [{done.low:.3f}, {done.high:.3f}]")


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
