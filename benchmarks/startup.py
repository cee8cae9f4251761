"""How long `edgebuild --help` takes, against its budget of 0.5 s.

    python benchmarks/startup.py [--launches 21]

Each launch is a fresh process, timed from its start to its end; the first is thrown away, since it fills the page
cache. Prints one table line: median, fastest and slowest launch, and whether the median is inside the budget. A bare
`python -c pass` beside it says how much of that is the interpreter's own.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time

BUDGET_S = 0.5


def launch_s(arguments: list[str]) -> float:
    """Return how long one fresh interpreter with these arguments lives."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> int:
    """Measure, print, and return 1 when the median is over the budget."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--launches", type=int, default=21)
    launches: int = parser.parse_args().launches
    commands = {"edgebuild --help": ["-m", "edgebuild", "--help"], "python -c pass": ["-c", "pass"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(launches + 1):
        # In turn, so that both see the same load of the machine.
        for name, arguments in commands.items():
            times[name].append(launch_s(arguments))
    kept = {name: values[1:] for name, values in times.items()}
    median_s = {name: statistics.median(values) for name, values in kept.items()}
    inside = median_s["edgebuild --help"] <= BUDGET_S
    print("| command | n | median | fastest | slowest | budget | |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for name, values in kept.items():
        budget = (f"{BUDGET_S:.2f} s", "inside" if inside else "over") if name == "edgebuild --help" else ("", "")
        cells = (f"{median_s[name]:.3f} s", f"{min(values):.3f} s", f"{max(values):.3f} s", *budget)
        print(f"| `{name}` | {launches} | {' | '.join(cells)} |")
    print(f"\nPython {platform.python_version()}, {platform.machine()}, {platform.system()} {platform.release()}")
    return 0 if inside else 1


if __name__ == "__main__":
    sys.exit(main())
