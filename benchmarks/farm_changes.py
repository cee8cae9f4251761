"""How often the farm's history says that something changed, in made-up series whose truth is known.

    python benchmarks/farm_changes.py

prints false alarms and power, by simulation. Nothing here is measured.
"""

from __future__ import annotations

import math
import random

from edgebuild.farm.changes import NEAR, Point, changes

#: The noise of a session's median against others of the same day on a quiet board.
NOISE = 0.01


def simulated(
    seed: int, count: int, *, noise: float, step: float = 0.0, board_step: float = 0.0, walk: float = 0.0
) -> list[Point]:
    """Return a made-up history: log-normal noise, a board that wanders, and steps in the middle of it."""
    generator = random.Random(seed)
    drift, found = 0.0, []
    for index in range(count):
        late = index >= count // 2
        drift += generator.gauss(0, walk)
        board = drift + (board_step if late else 0.0)
        ms = math.exp(board + (step if late else 0.0) + generator.gauss(0, noise))
        found.append(Point(at=float(index), ms=ms, anchor_ms=math.exp(board + generator.gauss(0, noise))))
    return found


def share(count: int, runs: int, what: str, **more: float) -> float:
    """Return in which share of the series a change of this kind is told, near the middle where there is one."""
    stepped = bool(more.get("step") or more.get("board_step"))
    hits = 0
    for seed in range(runs):
        told = changes(simulated(seed, count, noise=NOISE, **more))
        hits += any(
            change.what in what.split("|") and (not stepped or abs(change.index - count // 2) <= NEAR)
            for change in told
        )
    return hits / runs


def main() -> None:
    """Print the table."""
    runs = 300
    print(f"noise {NOISE:.0%} (log-normal), {runs} series each")
    for count in (8, 12, 20, 40):
        alarms = share(count, runs, "model|board|both")
        wandering = share(count, runs, "model|both", walk=0.01)
        print(
            f"{count:3} sessions: any change in A/A {alarms:.1%}; the model's while the board wanders {wandering:.1%}"
        )
        for step in (0.02, 0.03, 0.05):
            model = share(count, runs, "model", step=step)
            board = share(count, runs, "board", board_step=step)
            print(f"    a step of {step:.0%}: the model's found {model:.0%}, the board's {board:.0%}")


if __name__ == "__main__":
    main()
