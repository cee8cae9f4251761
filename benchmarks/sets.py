"""Is the level of processes that take turns that of fresh processes, also where some have threads that spin?

    python benchmarks/sets.py

The anchor model in onnxruntime, round by round: one set of three arms as certify makes it, and the same arms in fresh
processes one after the other. Writes docs/results/harness-sets.md; `--rounds` shortens a trial run.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evidence import write_results
from harness import Ground, kept, one_round

from edgebuild.devices.lock import measurement_lock
from edgebuild.devices.runner.machine import UNKNOWN
from edgebuild.measuring import statistics
from edgebuild.measuring.protocols import CERTIFY, CERTIFY_APART

if TYPE_CHECKING:
    from edgebuild.core.measurement import Launch

#: One arm whose two threads spin, and neighbours that would feel it if it didn't stand still.
ARMS = {
    "two threads that spin": {"arena": True, "spinning": True, "threads": 2},
    "two threads": {"arena": True, "spinning": False, "threads": 2},
    "one thread": {"arena": True, "spinning": False, "threads": 1},
}
#: Launches carry the variance, not samples.
FRESH = CERTIFY_APART.model_copy(update={"sample_s": 1.0})
ROUNDS = 30
HEADINGS = (
    "arm", "in sets / fresh", "95 % interval", "verdict", "rounds", "waited for a core at most, in sets", "fresh"
)  # fmt: skip


def measured(rounds: int) -> dict[str, list[tuple[Launch, Launch]]]:
    """Return by arm its launch in the set of each round, and its fresh one."""
    found: dict[str, list[tuple[Launch, Launch]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as scratch, measurement_lock("benchmark: sets"):
        ground = Ground(Path(scratch))
        arms = [
            replace(ground.arm, id=name, artifact=ground.arm.artifact.with_settings(tuple(settings.items())))
            for name, settings in ARMS.items()
        ]
        for index in range(rounds):
            ways = (CERTIFY, FRESH) if index % 2 else (FRESH, CERTIFY)
            sessions = {way.bursts: one_round(ground, way, index, arms) for way in ways}
            for name, pairs in found.items():
                (turns,), (alone,) = (sessions[way.bursts].measurements[name].launches for way in (CERTIFY, FRESH))
                pairs.append((turns, alone))
            print(f"round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    return found


def waited(launch: Launch) -> float:
    """Return how long a launch's threads stood ready without a core, as a share of the time."""
    found = next(fact.value for fact in launch.environment if fact.name == "waiting_ratio")
    return 0.0 if found == UNKNOWN else float(found)


def row(name: str, pairs: list[tuple[Launch, Launch]]) -> str:
    """Return an arm's row."""
    turns, fresh = zip(*pairs, strict=True)
    comparison = statistics.compare(statistics.paired_medians(turns, fresh))
    if comparison is None:
        raise SystemExit("no two valid launches: the machine is too busy")
    ratio, low, high = (math.exp(x) for x in (comparison.effect, comparison.low, comparison.high))
    told = (f"{ratio:.4f}", f"{low:.4f} to {high:.4f}", f"**{comparison.outcome}**", str(comparison.pairs))
    most = [f"{max(map(waited, launches)):.2f}" for launches in (turns, fresh)]
    return f"| {' | '.join((name, *told, *most))} |"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    found = measured(rounds)
    lines = [
        f"Anchor model in onnxruntime, {rounds} rounds: one set of {len(ARMS)} arms as certify makes it"
        f" ({CERTIFY.bursts} bursts of {CERTIFY.burst_s:g} s each), and one fresh process after the other"
        f" ({FRESH.sample_s:g} s each), in turn. In a set who waits is stopped. *Waited*: how long the threads stood"
        " ready without a core, as a share of the launch.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|---|---|---|---|---|---|---|",
        *(row(name, pairs) for name, pairs in found.items()),
    ]
    numbers = {"arms": {name: [[kept(launch) for launch in pair] for pair in pairs] for name, pairs in found.items()}}
    title = "Taking turns against fresh processes"
    print(write_results("harness-sets", title, "python benchmarks/sets.py", "\n".join(lines), numbers))


if __name__ == "__main__":
    main()
