"""Two targets on two boards: how long does one build take, against one board after the other?

    python benchmarks/two_boards.py    needs root: the boards are network namespaces of this machine, each with an sshd

A small network in three precisions with four settings, so that measuring dominates; the protocols are a build's own.
Both ways take turns, each on a project of its own. Takes about half an hour; `--rounds` shortens it. Writes its page to
docs/results/.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evidence import write_results

from edgebuild.building import target_build
from edgebuild.building.context import HOME, Options
from edgebuild.catalogue.project import load_project
from edgebuild.devices.runner.turns import OVERRIDE
from edgebuild.execution import turns
from edgebuild.fleet.inventory import save_entry
from edgebuild.measuring.session_folder import SessionFolder
from edgebuild.pipeline import build

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.boards.rig import Board, missing, rig
from tests.cli.example import write_project, write_quick
from tests.integration.conftest import PROFILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMAND = "python benchmarks/two_boards.py"
#: What one build for both boards may take of the time that one after the other takes.
LIMIT = 0.7
TARGETS = ("first", "second")
#: As the profiles that ship do, several settings are raced.
SETTINGS = "".join(
    f"\n[[settings]]\nthreads = 1\nspinning = {spinning}\narena = {arena}\n"
    for spinning, arena in (("false", "false"), ("true", "true"), ("true", "false"))
)


def one_by_one(work: Sequence[Callable[[], Any]], turn: object, stopping: object) -> list[Any]:
    """What ``side_by_side`` is held against."""
    del turn, stopping
    return [each() for each in work]


def built(folder: Path, boards: list[Board], way: Callable[..., list[Any]]) -> tuple[float, int]:
    """Build a fresh project for both boards, nothing on them yet; return the seconds and launches that it took.

    A certification ends when its question is settled, so builds measure more where the machine is noisier.
    """
    project = write_project(folder, {"build": f'targets = ["{TARGETS[0]}", "{TARGETS[1]}"]\nthreads = 1'})
    write_quick(project, profile=PROFILE + SETTINGS)
    os.environ["EDGEBUILD_DEVICES"] = str(folder / "devices.toml")
    for target, board in zip(TARGETS, boards, strict=True):
        board.tidy()
        (project / "targets" / f"{target}.toml").write_text(f'title = "{target}"\nprofiles = ["quick"]\n')
        # Machines have a lock each; these boards share a kernel.
        lock = board.root / "machine.lock"
        python = board.program("own-lock", f'#!/bin/sh\nexec env {OVERRIDE}={lock} {board.python} "$@"\n')
        save_entry(board.entry(target, python=python))
    target_build.side_by_side = way  # type: ignore[attr-defined] # it is imported there
    start = time.monotonic()
    records = build(load_project(project), Options(targets=TARGETS))
    took = time.monotonic() - start
    if [record.outcome for record in records] != ["ok", "ok"]:
        raise SystemExit(f"a build wasn't ok: {[record.summary for record in records]}")
    folders = (project / HOME).glob("measurements/*")
    return took, sum(len(SessionFolder(path=path, whole=True).launches()) for path in folders)


def main() -> None:
    """Measure, judge, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if reason := missing():
        raise SystemExit(reason)
    ways = {"one after the other": one_by_one, "side by side": turns.side_by_side}
    took: dict[str, list[float]] = {name: [] for name in ways}
    launches: dict[str, list[int]] = {name: [] for name in ways}
    with (
        tempfile.TemporaryDirectory() as scratch,
        rig(Path(scratch), count=3) as (*boards, _),
    ):  # the last has an old Python
        for number in range(rounds):
            for name in sorted(took, reverse=bool(number % 2)):
                second, count = built(Path(scratch) / f"{number}-{name[:3]}", boards, ways[name])
                took[name].append(second)
                launches[name].append(count)
                print(f"{name}: {second:.0f} s, {count} launches", file=sys.stderr, flush=True)
    ratios = [each / other for each, other in zip(took["side by side"], took["one after the other"], strict=True)]
    ratio = statistics.median(ratios)
    kept = "kept" if ratio <= LIMIT else "broken"
    text = (
        "Two targets on two boards (network namespaces with an sshd each, sharing this machine's cores), a small "
        f"network in three precisions with four settings, {rounds} builds each way, taking turns, "
        "each on a fresh project.\n\n"
        "| way | median, s | all, s | launches |\n|---|---|---|---|\n"
        + "".join(
            f"| {name} | {statistics.median(each):.1f} | {', '.join(f'{s:.1f}' for s in each)} "
            f"| {', '.join(map(str, launches[name]))} |\n"
            for name, each in took.items()
        )
        + f"\nSide by side takes {ratio:.2f}x of one after the other "
        f"(each round {', '.join(f'{r:.2f}' for r in ratios)}); the bound of {LIMIT} is {kept}. "
        "A certification ends when its question is settled: builds that made more launches measured longer.\n"
    )
    write_results(
        "two-boards",
        "Two boards in one build",
        COMMAND,
        text,
        {"seconds": took, "launches": launches, "ratios": ratios},
    )


if __name__ == "__main__":
    main()
