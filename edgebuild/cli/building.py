"""`build`, `plan`, `report` and `explain`."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.context import BUGS, HOME
from edgebuild.building.record import find_build, load_record, load_samples
from edgebuild.cli.answering import Answer
from edgebuild.cli.builds import built, explained
from edgebuild.cli.console import interrupt, say_error, stop_if_interrupted
from edgebuild.cli.output import make_console
from edgebuild.core.evidence import changed
from edgebuild.core.files import ABSENT, why_not_plain
from edgebuild.core.steps import never_stop
from edgebuild.errors import BudgetMissed, Inconclusive, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgebuild.building.context import Options
    from edgebuild.catalogue.project import Project
    from edgebuild.core.record import BuildRecord

#: The exit codes of a build's outcomes; with several targets the worst one counts.
EXIT = {"ok": 0, "inconclusive": Inconclusive.exit_code, "missed": BudgetMissed.exit_code}
WORST_FIRST = ("missed", "inconclusive", "ok")


def run_build(project: Project, options: Options, farm: str | None = None) -> Answer:
    """Build, on the devices of a farm where one is named, write the reports, and return each target's result."""
    from edgebuild.cli.farm_devices import devices_of
    from edgebuild.cli.progress import make_progress
    from edgebuild.execution.faults import Failure, Guard
    from edgebuild.pipeline import build

    # CI systems end jobs with SIGTERM: it gets the same clean end as Ctrl-C.
    signal.signal(signal.SIGTERM, interrupt)
    # What a report lacks is no reason to lose the outcome of its build.
    guard = Guard(
        alive=never_stop, reports=project.folder / HOME / BUGS, project=project.folder, command=options.command
    )
    progress = make_progress()
    with devices_of(farm, project, options, progress=progress, check=stop_if_interrupted) as devices:
        records = build(project, options, progress=progress, check=stop_if_interrupted, devices=devices)
    reports: list[Path | None] = []
    for record in records:
        report = guard.attempt("the report", partial(write_report, _folder(project, record), record))
        if isinstance(report, Failure):
            say_error(f"The report can't be written: {report.with_report}", "The build itself is whole.")
        reports.append(None if isinstance(report, Failure) else report)
    return Answer(
        value=tuple(
            built(record, _folder(project, record), report) for record, report in zip(records, reports, strict=True)
        ),
        text=lambda: _show_builds(project, records, reports),
        code=next(EXIT[outcome] for outcome in WORST_FIRST if any(r.outcome == outcome for r in records)),
    )


def _folder(project: Project, record: BuildRecord) -> Path:
    return project.folder / HOME / "builds" / record.build_id


def _show_builds(project: Project, records: Sequence[BuildRecord], reports: Sequence[Path | None]) -> None:
    from edgebuild.reporting.terminal import comparison_table, summary

    console = make_console()
    for record, report in zip(records, reports, strict=True):
        console.print(summary(record))
        if report is not None:
            console.print(f"Report: {shown(report)}", soft_wrap=True)
        artifact = _folder(project, record) / "artifact"
        if artifact.is_dir():
            which = "Artifact" if record.outcome == "ok" else "The nearest artifact, kept"
            console.print(f"{which}: {shown(artifact)}", soft_wrap=True)
    if len(records) > 1:
        console.print(comparison_table(records))


def run_plan(project: Project, options: Options, farm: str | None) -> Answer:
    """Return what a build would do, on the devices of a farm where one is named."""
    from edgebuild.cli.farm_devices import devices_of
    from edgebuild.cli.listing import plans
    from edgebuild.pipeline import plan

    with devices_of(farm, project, options) as devices:
        return plans(plan(project, options, devices=devices))


def write_report(folder: Path, record: BuildRecord, output: Path | None = None) -> Path:
    """Write the HTML report; return its path."""
    from edgebuild.errors import StoreError
    from edgebuild.reporting.html import render

    path = output or folder / "report.html"
    if why_not_plain(path) not in {None, ABSENT}:
        raise UsageError(f"{path} {why_not_plain(path)}.", hint="Name another place with -o.")
    samples, damaged = load_samples(folder)
    for each in damaged:
        say_error(f"{shown(each)} is damaged: its latencies aren't drawn.", "")
    home = folder.parents[1]
    for name in changed(home, record.evidence):
        say_error(f"{shown(home / name)} is gone, or isn't what it was when the build was recorded.", "")
    try:
        path.write_text(render(record, samples), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror}.", hint="Name another place with -o.") from error
    return path


def shown(path: Path) -> str:
    """A path as people like it: relative where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def report(project: Path, build: str | None, output: Path | None) -> Answer:
    """Write a build's report and return what the build came to."""
    folder = find_build(home_of(project), build)
    record = load_record(folder)
    path = write_report(folder, record, output)

    def told() -> None:
        from edgebuild.reporting.terminal import summary

        console = make_console()
        console.print(summary(record))
        console.print(f"Report: {shown(path)}", soft_wrap=True)

    return Answer(value=built(record, folder, path), text=told)


def explanation(project: Path, build: str | None, candidate: str) -> Answer:
    """Return where a candidate's points and milliseconds went."""
    record = load_record(find_build(home_of(project), build))
    name = pick_candidate(record, candidate)

    def told() -> None:
        from edgebuild.reporting.terminal import explain

        make_console().print(explain(record, name))

    return Answer(value=explained(record, next(each for each in record.candidates if each.id == name)), text=told)


def pick_candidate(record: BuildRecord, text: str) -> str:
    """Return the id of the candidate that ``text`` names, by its number in the tables, its id or a part of that.

    Raises ``UsageError`` where none is named, or several.
    """
    from edgebuild.reporting.sentences import ordered

    ids = [candidate.id for candidate in ordered(record)]
    numbers = {str(number): name for number, name in enumerate(ids, 1)}
    fitting = [numbers[text]] if text in numbers else [name for name in ids if name == text]
    fitting = fitting or [name for name in ids if text in name]
    if len(fitting) == 1:
        return fitting[0]
    what = f"{text!r} fits {len(fitting)} candidates" if fitting else f"there is no candidate {text!r}"
    raise UsageError(f"{what} in build {record.build_id}.", hint=f"They are: {', '.join(fitting or ids)}.")


def home_of(project: Path) -> Path:
    """Return where a project keeps its builds; the project itself need not be loadable any more."""
    folder = project if project.is_dir() else project.parent
    home = folder / HOME
    if not home.is_dir():
        raise UsageError(f"{folder} has no builds yet.", hint="`edgebuild build` makes one.")
    return home
