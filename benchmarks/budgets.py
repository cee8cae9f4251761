"""How long people wait where nothing is computed: `--help`, and a rebuild of fashion-mnist in which nothing changed.

    python benchmarks/budgets.py

Needs a finished build of the example; medians over fresh processes. Writes docs/results/budgets.md.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from evidence import write_results

PROJECT = Path(__file__).resolve().parent.parent / "examples" / "fashion-mnist"
TIMES = 9
HELP_BUDGET_S = 0.5
REBUILD_BUDGET_S = 2.0


def seconds(arguments: list[str]) -> list[float]:
    """Return how long each of ``TIMES`` fresh processes took."""
    found = []
    for _ in range(TIMES):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "edgebuild", *arguments], check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    """Measure and write the page."""
    rebuild = ["build", "--project", str(PROJECT)]
    subprocess.run([sys.executable, "-m", "edgebuild", *rebuild], check=True)
    rows = {
        "edgebuild --help": (seconds(["--help"]), HELP_BUDGET_S),
        "no-op rebuild": (seconds(rebuild), REBUILD_BUDGET_S),
    }
    text = "\n".join(
        [
            f"Median and slowest of {TIMES} fresh processes, in seconds.",
            "",
            "| what | median | slowest | budget | |",
            "|---|---|---|---|---|",
            *[
                f"| {name} | {statistics.median(times):.2f} | {max(times):.2f} | {budget} | "
                f"{'met' if statistics.median(times) <= budget else 'missed'} |"
                for name, (times, budget) in rows.items()
            ],
        ]
    )
    numbers = {name: times for name, (times, _) in rows.items()}
    print(write_results("budgets", "Waiting where nothing is computed", "python benchmarks/budgets.py", text, numbers))


if __name__ == "__main__":
    main()
