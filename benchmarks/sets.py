"""Is the level of processes that take turns that of fresh processes, also where some have threads that spin?

    python benchmarks/sets.py
    python benchmarks/sets.py --again   the states once more from the bursts on record, measuring nothing

The anchor model in onnxruntime, round by round: one set of three arms as certify makes it, and the same arms in fresh
processes one after the other. Writes docs/results/harness-sets.md; `--rounds` shortens a trial run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from evidence import RESULTS, write_results
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
PAGE = "harness-sets"
WAYS = ("in sets", "fresh")
#: Times the pace of the fastest tenth: between what the same code takes in the two states.
SLOW = 1.25
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


def states(name: str, pairs: list[list[dict[str, Any]]]) -> str:
    """Return how fast an arm is in either state of the machine, and how often it was in the slow one, by burst."""
    bursts = [ns for turns, _ in pairs for ns in turns["burst_ns"]]
    launches = [fresh["median_ns"] for _, fresh in pairs]
    limit = SLOW * sorted(bursts)[len(bursts) // 10]
    cells = []
    for slow in (False, True):
        for found in (bursts, launches):
            state = [ns for ns in found if (ns > limit) is slow]
            cells.append(f"{median(state) / 1e3:.1f}" if state else "–")
    shares = [f"{sum(ns > limit for ns in found) / len(found):.0%}" for found in (bursts, launches)]
    return f"| {' | '.join((name, *cells, *shares))} |"


def two_states(arms: dict[str, list[list[dict[str, Any]]]]) -> list[str]:
    """Return the table of states."""
    head = ["arm", *(f"{state}, {way}" for state in ("fast", "slow", "share slow") for way in WAYS)]
    return [
        f"Where the machine has two states, a burst or a fresh process is slow if it takes more than {SLOW} times what"
        " the fastest tenth of the bursts takes. Medians in µs, then the share that was slow:",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(states(name, pairs) for name, pairs in arms.items()),
    ]


def again() -> None:
    """Write the page again, with the states as they are told now."""
    numbers = json.loads((RESULTS / f"{PAGE}.json").read_bytes())
    text = (RESULTS / f"{PAGE}.md").read_text("utf-8").split("\n\n", 2)[2].split("\n\nWhere the machine")[0]
    where = numbers.pop("machine")
    write_page([*text.splitlines(), "", *two_states(numbers["arms"])], numbers, where)


def write_page(lines: list[str], numbers: dict[str, Any], where: dict[str, str] | None = None) -> None:
    """Write the page and say where."""
    title = "Taking turns against fresh processes"
    print(write_results(PAGE, title, "python benchmarks/sets.py", "\n".join(lines), numbers, where=where))


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    if options.again:
        again()
        return
    rounds = options.rounds
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
    write_page([*lines, "", *two_states(numbers["arms"])], numbers)


if __name__ == "__main__":
    main()
