"""What every technique is worth on real data, row by row: docs/results/techniques.md.

    python benchmarks/techniques.py                  every row that isn't finished yet, then the page
    python benchmarks/techniques.py --row NAME …     these rows only
    python benchmarks/techniques.py --seed 0 --row NAME …   one seed, printed; exit code 1 where it contradicts a claim
    python benchmarks/techniques.py --page           the page from what is on record
    python benchmarks/techniques.py --list

Each (row, seed) is written as it ends, keyed by the code of its row and the version of its technique's step, so that a
killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import pkgutil
import sys
import time
from pathlib import Path
from typing import Any

import technique_rows
from evidence import RESULTS, write_results
from technique_rows.reasons import NOTES, REASONS
from technique_rows.rows import Finding, Row, contradicts, judge

from edgebuild.core.files import cache_home
from edgebuild.techniques.registry import TABLE

HERE = Path(__file__).resolve().parent
COMMAND = "python benchmarks/techniques.py"


def rows() -> dict[str, Row]:
    """Every row of every module, by name."""
    found: dict[str, Row] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(technique_rows.__path__)):
        for row in getattr(importlib.import_module(f"technique_rows.{module}"), "ROWS", ()):
            if row.name in found:
                raise SystemExit(f"two rows are named {row.name}")
            found[row.name] = row
    return found


def place(row: Row) -> Path:
    """Where a row's seeds are kept: another folder when the row's code changes, or what its technique gives."""
    source = Path(sys.modules[row.run.__module__].__file__ or "").read_bytes()
    key = hashlib.sha256(source + f"{row.technique} {TABLE[row.technique].version}".encode())
    return cache_home() / "techniques" / f"{row.name}-{key.hexdigest()[:12]}"


def run(row: Row, seed: int) -> dict[str, Any]:
    """The figures of one seed, from the record or run now."""
    path = place(row) / f"seed-{seed}.json"
    if path.is_file():
        return dict(json.loads(path.read_bytes()))
    scratch = place(row) / f"scratch-{seed}"
    scratch.mkdir(parents=True, exist_ok=True)
    print(f"{row.name}, seed {seed} …", file=sys.stderr, flush=True)
    start, busy = time.monotonic(), time.process_time()
    figures = {
        **row.run(seed, scratch),
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(time.process_time() - busy, 1),
    }
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(figures, sort_keys=True) + "\n", encoding="utf-8")
    temporary.rename(path)
    print(f"{row.name}, seed {seed}: {figures['seconds']} s", file=sys.stderr, flush=True)
    return figures


def _one_seed(row: Row, seed: int) -> bool:
    """Print the figures of one seed; return whether it contradicts nothing that is claimed of the row."""
    figures = run(row, seed)
    print(json.dumps({row.name: figures}, indent=1, sort_keys=True))
    missed = [claim for claim in row.claims if contradicts(claim, figures)]
    for claim in missed:
        sign = "more" if claim.at == "most" else "less"
        print(f"{row.name}, seed {seed}: {claim.what} is {sign} than {claim.bound:g}{claim.unit}", file=sys.stderr)
    return not missed


def page(table: dict[str, Row]) -> None:
    """Write the page from all rows of which every seed is on record; the others are named as not run."""
    finished, missing = {}, []
    for name, row in table.items():
        paths = [place(row) / f"seed-{seed}.json" for seed in row.seeds]
        if all(path.is_file() for path in paths):
            finished[name] = [json.loads(path.read_bytes()) for path in paths]
        else:
            missing.append(name)
    recorded = _recorded()
    lines = [
        "Each row with seeds fixed beforehand. *Met* is the mean over the seeds, *certified* the mean of the paired "
        "95 % intervals' worse bounds. A miss is shown as a miss. Accuracy is on test data that chose nothing. "
        "*CPU min* is that of all seeds; two cores take about half as long.",
        "",
        "| row | asked | published | data | figure, mean ± spread [95 % interval] | bound | met | certified "
        "| CPU min |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    numbers: dict[str, Any] = {}
    for name, row in table.items():
        results = finished.get(name) or recorded.get(name)
        if not results:
            continue
        numbers[name] = results
        minutes = _minutes(results)
        for index, claim in enumerate(row.claims):
            first = (name, row.asked, row.published, row.data) if index == 0 else ("", "", "", "")
            lines.append(f"| {' | '.join([*first, *_cells(judge(claim, results))])} | {minutes} |")
    lines += ["", *_others(table, numbers)]
    lines += ["", *_misses(table, numbers)]
    lines += [f"- {name}: {note}" for name, note in NOTES.items() if name in numbers]
    if unrun := [name for name in missing if name not in numbers]:
        lines += ["", f"Not run yet: {', '.join(unrun)}."]
    print(write_results("techniques", "What the techniques are worth", COMMAND, "\n".join(lines), {"rows": numbers}))


def _misses(table: dict[str, Row], numbers: dict[str, Any]) -> list[str]:
    """Of each row that misses something, what is known of the reason."""
    missed = [
        name
        for name, row in table.items()
        if name in numbers and not all(judge(claim, numbers[name]).met for claim in row.claims)
    ]
    return [f"- {name} misses: {REASONS.get(name, 'no reason is known yet')}" for name in missed]


def _minutes(results: list[dict[str, Any]]) -> str:
    """CPU minutes of all seeds, a dash where a seed doesn't tell."""
    told = [result["cpu_seconds"] for result in results if result.get("cpu_seconds") is not None]
    return "–" if len(told) < len(results) else f"{sum(told) / 60:.0f}"


def _recorded() -> dict[str, Any]:
    """What an earlier page holds: a row that isn't run anew keeps its figures."""
    path = RESULTS / "techniques.json"
    return dict(json.loads(path.read_bytes())["rows"]) if path.is_file() else {}


def _cells(finding: Finding) -> list[str]:
    claim = finding.claim
    interval = "" if finding.low is None else f" [{finding.low:.2f}, {finding.high:.2f}]"
    sign = "≤" if claim.at == "most" else "≥"
    certified = {None: "–", True: "yes", False: "no"}[finding.certified]
    return [
        f"{claim.what}: {finding.mean:.2f} ± {finding.spread:.2f}{interval}{claim.unit}",
        f"{sign} {claim.bound:g}{claim.unit}",
        "yes" if finding.met else "**no**",
        certified,
    ]


def _others(table: dict[str, Row], numbers: dict[str, Any]) -> list[str]:
    """The figures that nothing is claimed of, a line per row."""
    lines = []
    for name, results in numbers.items():
        claimed = {claim.key for claim in table[name].claims} | {"seconds", "cpu_seconds"}
        shown = []
        for key in sorted(set.intersection(*map(set, results)) - claimed):
            values = [result[key]["value"] if isinstance(result[key], dict) else result[key] for result in results]
            if all(isinstance(value, int | float) for value in values):
                shown.append(f"{key} {', '.join(f'{value:.4g}' for value in values)}")
        if shown:
            lines.append(f"- {name}, by seed: {'; '.join(shown)}")
    return lines


def main() -> None:
    """Run rows, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", nargs="+", metavar="NAME")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    table = rows()
    if unknown := [name for name in arguments.row or () if name not in table]:
        raise SystemExit(f"no row {', '.join(unknown)}; there are {', '.join(table)}")
    chosen = [table[name] for name in arguments.row or table]
    if arguments.list:
        for row in chosen:
            print(f"{row.name}: {row.asked}")
        return
    if arguments.seed is not None:
        met = [_one_seed(row, arguments.seed) for row in chosen]
        raise SystemExit(0 if all(met) else 1)
    if not arguments.page:
        for row in chosen:
            for seed in row.seeds:
                run(row, seed)
    page(table)


if __name__ == "__main__":
    main()
