"""Whatever dies at whatever moment: every job ends exactly once, no lease stays, and no board has two jobs."""

from __future__ import annotations

import contextlib
import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from edgebuild.farm.values import JobEnd, JobState
from tests import needs
from tests.boards.rig import missing, rig
from tests.farm import postgres
from tests.farm.chaos import Arena, Faults
from tests.farm.hosting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "nothing is lacking")
#: Of the whole proof; a failure says which seed it was.
FAULTS = int(os.environ.get("EDGEBUILD_FAULTS", "110"))


def test_the_deaths_of_worker_server_agent_and_runner_lose_no_job(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        boards = stack.enter_context(rig(tmp_path, count=2))
        arena = Arena(tmp_path, boards, stack)
        faults = Faults(arena, random.Random(15))
        arena.all_good()
        jobs = [arena.submit(0.3) for _ in range(3)]
        for kind in (faults.worker, faults.server, faults.agent, faults.runner):
            wait_for(lambda: any(arena.job(job).state is JobState.RUNNING for job in jobs), 60.0, arena.said)
            faults.strike(kind)
            jobs.append(arena.submit(0.3))
        ended = arena.settle(jobs, 120.0)
        arena.require_order(ended)
        assert sum(job.end is JobEnd.SUCCEEDED for job in ended) >= len(ended) - 1


@pytest.mark.proof
def test_a_hundred_faults_in_one_run(tmp_path: Path) -> None:
    """Six boards, one with Python 3.8, and the table in PostgreSQL, which fails too."""
    needs.skip_without(postgres.need())
    seed = int(os.environ.get("EDGEBUILD_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    with contextlib.ExitStack() as stack:
        server = postgres.Postgres()
        stack.callback(server.close)
        boards = stack.enter_context(rig(tmp_path, count=6))
        arena = Arena(tmp_path, boards, stack, server.database("chaos"))
        coin = random.Random(seed)
        faults = Faults(arena, coin, server)
        arena.all_good()
        began, jobs = time.monotonic(), []
        while sum(faults.done.values()) < FAULTS:
            jobs += [arena.submit(coin.uniform(0.2, 4.0)) for _ in range(coin.randrange(3))]
            faults.strike()
        arena.all_good(300.0)
        ended = arena.settle([*jobs, *faults.attended], 300.0)
        ends = {end: sum(job.end is end for job in ended) for end in JobEnd}
        print(f"seed {seed}: {faults.done} in {time.monotonic() - began:.0f} s; {len(ended)} jobs: {ends}")
        arena.require_order(ended)
        assert not [job for job in faults.attended if arena.job(job).end is JobEnd.SUCCEEDED], "nobody waited for them"
        assert ends[JobEnd.SUCCEEDED] > len(jobs) / 2
