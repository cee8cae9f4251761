"""`build`, `plan`, `report` and `explain`."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.context import BUGS, HOME
from edgebuild.building.record import find_build, load_record, load_samples
from edgebuild.cli.console import interrupt, say_error, stop_if_interrupted
from edgebuild.cli.output import make_console
from edgebuild.core.evidence import changed
from edgebuild.core.files import ABSENT, why_not_plain
from edgebuild.core.steps import never_stop
from edgebuild.errors import BudgetMissed, Inconclusive, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.building.context import Options
    from edgebuild.catalogue.project import Project
    from edgebuild.core.record import BuildRecord

#: The exit codes of a build's outcomes; with several targets the worst one counts.
EXIT = {"ok": 0, "inconclusive": Inconclusive.exit_code, "missed": BudgetMissed.exit_code}
WORST_FIRST = ("missed", "inconclusive", "ok")


def run_build(project: Project, options: Options, farm: str | None = None) -> int:
    """Build, on the devices of a farm where one is named, print each target's result, return the exit code."""

    from edgebuild.cli.farm_devices import devices_of
    from edgebuild.cli.progress import make_progress
    from edgebuild.execution.faults import Failure, Guard
    from edgebuild.pipeline import build
    from edgebuild.reporting.terminal import comparison_table, summary

    # CI systems end jobs with SIGTERM: it gets the same clean end as Ctrl-C.
    signal.signal(signal.SIGTERM, interrupt)
    # What a report lacks is no reason to lose the outcome of its build.
    guard = Guard(
        alive=never_stop, reports=project.folder / HOME / BUGS, project=project.folder, command=options.command
    )
    progress = make_progress()
    with devices_of(farm, project, options, progress=progress, check=stop_if_interrupted) as devices:
        records = build(project, options, progress=progress, check=stop_if_interrupted, devices=devices)
    console = make_console()
    for record in records:
        console.print(summary(record))
        folder = project.folder / HOME / "builds" / record.build_id
        report = guard.attempt("the report", partial(write_report, folder, record))
        if isinstance(report, Failure):
            say_error(f"The report can't be written: {report.with_report}", "The build itself is whole.")
        else:
            console.print(f"Report: {shown(report)}", soft_wrap=True)
        artifact = folder / "artifact"
        if artifact.is_dir():
            which = "Artifact" if record.outcome == "ok" else "The nearest artifact, kept"
            console.print(f"{which}: {shown(artifact)}", soft_wrap=True)
    if len(records) > 1:
        console.print(comparison_table(records))
    return next(EXIT[outcome] for outcome in WORST_FIRST if any(r.outcome == outcome for r in records))


def run_plan(project: Project, options: Options, farm: str | None) -> None:
    """Print what a build would do, on the devices of a farm where one is named."""
    from edgebuild.cli.farm_devices import devices_of
    from edgebuild.cli.listing import show_plans
    from edgebuild.pipeline import plan

    with devices_of(farm, project, options) as devices:
        show_plans(plan(project, options, devices=devices))


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


def show_report(project: Path, build: str | None, output: Path | None) -> None:
    """Print a build's summary and write its report."""

    from edgebuild.reporting.terminal import summary

    folder = find_build(home_of(project), build)
    record = load_record(folder)
    console = make_console()
    console.print(summary(record))
    console.print(f"Report: {shown(write_report(folder, record, output))}", soft_wrap=True)


def show_explanation(project: Path, build: str | None, candidate: str) -> None:
    """Print where a candidate's points and milliseconds went."""

    from edgebuild.reporting.terminal import explain

    record = load_record(find_build(home_of(project), build))
    make_console().print(explain(record, pick_candidate(record, candidate)))


def pick_candidate(record: BuildRecord, text: str) -> str:
    """Return the id of the candidate that ``text`` names exactly or in part; raises ``UsageError`` else."""
    ids = [candidate.id for candidate in record.candidates]
    fitting = [name for name in ids if name == text] or [name for name in ids if text in name]
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
