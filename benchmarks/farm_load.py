"""What does the farm's server cost for each job, with how many devices, in how much memory?

    python benchmarks/farm_load.py      takes about twenty-five minutes

The server is the real one, over HTTP, in a process of its own, with SQLite in a file. Hosts, devices and people are
simulated: their names say so, and a job is a second in which nothing happens. Writes its page to docs/results/;
`--jobs` shortens a trial run, and `--only` does one row of it; neither writes a page.
"""

from __future__ import annotations

import argparse
import heapq
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evidence import machine, write_results
from sqlalchemy import func, or_, select

from edgebuild import __version__
from edgebuild.farm import desk, shelf, tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.database import Database, sqlite_url
from edgebuild.farm.schema import attempts, devices, jobs, leases
from edgebuild.farm.tokens import Identity, Scope
from edgebuild.farm.values import JobSpec, Offered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMAND = "python benchmarks/farm_load.py"
TARGET = "simulated-board"
HOSTS = 10
PEOPLE = 4
JOB_S = 1.0
#: How many jobs a host says to be over at once.
WORDS = 4
#: Nothing was measured, so that there is no result to keep.
WHY = "a simulated board measured nothing"
BODY = {"kind": "bench", "ask": {"target": TARGET, "duration_s": 600}, "name": "simulated"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A row: ``pace`` jobs a second are submitted (0: as many as the server takes) until ``jobs`` of them have ended.

    ``queued`` jobs wait before, and those that are submitted wait behind them.
    """

    devices: int
    jobs: int
    pace: float = 0.0
    job_s: float = JOB_S
    queued: int = 0


#: The few and the many are compared, the paced one is how much a job costs, and with a queue nothing may be much more.
FEW, SOME, MANY = Run(devices=100, jobs=2000), Run(devices=300, jobs=2000), Run(devices=1000, jobs=20_000)
PACED = Run(devices=1000, jobs=1000, pace=10.0)
QUEUE = 5000
#: A hundred devices end ten such jobs a second: as many as are submitted.
PACED_QUEUE = Run(devices=100, jobs=1000, pace=10.0, job_s=10.0, queued=QUEUE + 600)
FULL_QUEUE = Run(devices=1000, jobs=2000, queued=QUEUE + 2500)
RUNS = (FEW, SOME, MANY, PACED, PACED_QUEUE, FULL_QUEUE)
OVERHEAD_LIMIT_MS, MEMORY_LIMIT_MB, PAGE_LIMIT_MS = 100.0, 1000.0, 300.0


class Api:
    """One connection, with a token."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return what the server answers; the pages' own language stays text."""
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status == 429:
            time.sleep(float(answer.headers["Retry-After"]))
            return self.ask(method, path, body)
        assert answer.status < 300, text[:500]
        return json.loads(text) if answer.headers["Content-Type"].startswith("application/json") else text


@dataclass
class Seen:
    """What simulated hosts and people saw, in seconds."""

    submit_s: list[float] = field(default_factory=list)
    finish_s: list[float] = field(default_factory=list)
    page_s: list[float] = field(default_factory=list)
    memory_mb: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)


class SimulatedHost:
    """Says hello with boards that aren't there, and pretends to do what it is told."""

    def __init__(self, name: str, boards: Sequence[str], port: int, token: str, seen: Seen, job_s: float) -> None:
        self._name, self._seen, self._job_s = name, seen, job_s
        self._api = Api(port, token)
        self._running: dict[str, int] = {}
        self._due: list[tuple[float, str, int, bool]] = []
        self._changed = threading.Condition()
        offered = [{"name": board, "target": TARGET, "kind": "simulated"} for board in boards]
        self._api.ask("POST", f"/api/hosts/{name}/hello", {"version": __version__, "devices": offered})
        words = [threading.Thread(target=self._finish, args=(Api(port, token),), daemon=True) for _ in range(WORDS)]
        self.threads = [threading.Thread(target=self._poll, daemon=True), *words]
        for thread in self.threads:
            thread.start()

    def _poll(self) -> None:
        while not self._seen.over.is_set():
            with self._changed:
                running = [{"id": job, "token": token} for job, token in self._running.items()]
            work = self._api.ask("POST", f"/api/hosts/{self._name}/work", {"running": running})
            with self._changed:
                for job in work["start"]:
                    check = job["spec"]["kind"] == "check"
                    token = self._running[job["id"]] = job["attempts"][-1]["token"]
                    heapq.heappush(
                        self._due, (time.monotonic() + (0.0 if check else self._job_s), job["id"], token, check)
                    )
                self._changed.notify()

    def _finish(self, api: Api) -> None:
        while not self._seen.over.is_set():
            with self._changed:
                wait_s = self._due[0][0] - time.monotonic() if self._due else 1.0
                if wait_s > 0:
                    self._changed.wait(min(wait_s, 1.0))
                    continue
                _, job, token, check = heapq.heappop(self._due)
            start = time.monotonic()
            word = {"token": token, "how": "succeeded"} if check else {"token": token, "how": "failed", "reason": WHY}
            api.ask("POST", f"/api/hosts/{self._name}/jobs/{job}/finish", word)
            self._seen.finish_s.append(time.monotonic() - start)
            with self._changed:
                self._running.pop(job, None)


def person(port: int, token: str, count: int, pace: float, seen: Seen) -> None:
    """Submit jobs, ``pace`` a second or one after the other."""
    api = Api(port, token)
    began = time.monotonic()
    for index in range(count):
        if pace:
            time.sleep(max(0.0, began + index / pace - time.monotonic()))
        start = time.monotonic()
        api.ask("POST", "/api/jobs", BODY)
        seen.submit_s.append(time.monotonic() - start)


def watch(port: int, token: str, process: int, seen: Seen) -> None:
    """Look at the page once a second, and at the server's memory."""
    api = Api(port, token)
    while not seen.over.wait(1.0):
        start = time.monotonic()
        api.ask("GET", "/")
        seen.page_s.append(time.monotonic() - start)
        status = Path(f"/proc/{process}/status").read_text()
        seen.memory_mb = max(seen.memory_mb, int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6)


def serve(folder: Path, port: int) -> None:
    """Be the server."""
    import uvicorn

    from edgebuild.farm.server.app import create_app
    from edgebuild.farm.server.farm import Farm

    farm = Farm(Database(sqlite_url(folder / "farm.db")), Blobs(folder / "blobs"))
    uvicorn.run(create_app(farm), host="127.0.0.1", port=port, log_level="error", timeout_keep_alive=600)


def fill(database: Database, boards: Sequence[Sequence[str]], hosts: Sequence[str], number: int) -> None:
    """Queue jobs for devices that are good, through the tables, while nobody serves them."""
    with database.write() as db:
        now = database.clock.now()
        for n, (mine, token) in enumerate(zip(boards, hosts, strict=True)):
            host = tokens.identify(db, token, now)
            assert host is not None
            offered = [Offered(name=board, target=TARGET, kind="simulated") for board in mine]
            shelf.register(db, f"simulated-{n}", host.id, __version__, offered, now)
            for board in mine:
                shelf.checked(db, board, True, "", {}, now)
    who = Identity(id="simulated", name="simulated-before", scope=Scope.RUN)
    for first in range(0, number, 100):
        with database.write() as db:
            for _ in range(min(100, number - first)):
                desk.submit(db, who, JobSpec.model_validate(BODY), database.clock.now())


def one_run(run: Run, folder: Path, port: int) -> dict[str, Any]:
    """Return what a run came to."""
    database = Database(sqlite_url(folder / "farm.db"))
    database.upgrade()
    now = database.clock.now()
    with database.write() as db:
        owned = [tokens.make(db, f"simulated-host-{n}", Scope.HOST, now, days=1) for n in range(HOSTS)]
        people = [tokens.make(db, f"simulated-person-{n}", Scope.RUN, now, days=1) for n in range(PEOPLE + 1)]
    boards = [[f"simulated-{n}-{board}" for board in range(run.devices // HOSTS)] for n in range(HOSTS)]
    if run.queued:
        fill(database, boards, owned, run.queued)
    command = [sys.executable, __file__, "--serve", str(folder), "--port", str(port)]
    server = subprocess.Popen(command, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    seen = Seen()
    try:
        _wait_for(lambda: _answers(port), "the server")
        each = zip(range(HOSTS), boards, owned, strict=True)
        hosts = [SimulatedHost(f"simulated-{n}", mine, port, token, seen, run.job_s) for n, mine, token in each]
        good = select(devices.c.name).where(devices.c.health == "good")
        _wait_for(lambda: _count(database, good) == run.devices, "checks")
        watcher = threading.Thread(target=watch, args=(port, people[-1], server.pid, seen))
        watcher.start()
        seen.finish_s.clear()
        cpu, since = _cpu_s(server.pid), database.clock.now()
        share = run.jobs // PEOPLE
        submitters = [
            threading.Thread(target=person, args=(port, token, share, run.pace / PEOPLE, seen)) for token in people[:-1]
        ]
        for thread in submitters:
            thread.start()
        ended = select(jobs.c.id).where(jobs.c.state == "ended", jobs.c.kind == "bench", jobs.c.ended_at >= since)
        _wait_for(lambda: _count(database, ended) >= run.jobs, "jobs", 7200.0)
        cpu_s = _cpu_s(server.pid) - cpu
        seen.over.set()
        for thread in [watcher, *submitters, *(each for host in hosts for each in host.threads)]:
            thread.join()
        waiting = _count(database, select(leases.c.id).where(leases.c.state == "waiting", leases.c.checks.is_(False)))
    finally:
        server.terminate()
        server.wait()
    assert run.queued == 0 or waiting >= QUEUE, f"only {waiting} jobs waited"
    return _found(database, seen, {**asdict(run), "waiting": waiting}, since, cpu_s)


def _found(database: Database, seen: Seen, of: dict[str, Any], since: float, cpu_s: float) -> dict[str, Any]:
    """Return the figures of a run, after a look at the tables: every job ended once, no lease stayed."""
    bench, ended = jobs.c.kind == "bench", jobs.c.state == "ended"
    wrong = or_(jobs.c.end != "failed", jobs.c.reason != WHY)
    assert _count(database, select(jobs.c.id).where(bench, ended, wrong)) == 0, "a job ended otherwise"
    twice = select(attempts.c.job).group_by(attempts.c.job).having(func.count() > 1)
    assert _count(database, twice) == 0, "a job was tried twice"
    over = select(leases.c.id).join(jobs, jobs.c.lease == leases.c.id).where(ended, leases.c.state != "ended")
    assert _count(database, over) == 0, "a lease stayed"
    begun = select(attempts.c.began_at - leases.c.granted_at).join(leases, leases.c.id == attempts.c.lease)
    begun = begun.join(jobs, jobs.c.id == attempts.c.job)
    begun = begun.where(bench, leases.c.granted_at >= since, attempts.c.began_at.is_not(None))
    times = select(jobs.c.ended_at).where(bench, ended, jobs.c.ended_at >= since).order_by(jobs.c.ended_at)
    with database.read() as db:
        begin_s = list(db.scalars(begun))
        ended_at = list(db.scalars(times.limit(of["jobs"])))
    database.close()
    took_s = ended_at[-1] - since
    parts = {"submit": seen.submit_s, "begin": begin_s, "finish": seen.finish_s}
    medians = {f"{name}_ms": statistics.median(values) * 1000 for name, values in parts.items()}
    return {
        **of,
        **medians,
        "answers_ms": sum(medians.values()),
        "took_s": took_s,
        "per_job_ms": took_s / of["jobs"] * 1000,
        "cpu_per_job_ms": cpu_s / of["jobs"] * 1000,
        "jobs_per_s": of["jobs"] / took_s,
        "memory_mb": seen.memory_mb,
        "page_ms": statistics.median(seen.page_s) * 1000 if seen.page_s else None,
        "pages": len(seen.page_s),
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def _answers(port: int) -> bool:
    try:
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/")
    except OSError:
        return False
    return True


def _count(database: Database, rows: Any) -> int:
    with database.read() as db:
        return db.scalar(select(func.count()).select_from(rows.subquery())) or 0


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_for(done: Callable[[], bool], what: str, limit_s: float = 600.0) -> None:
    until = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < until, f"{what} took longer than {limit_s:g} s"
        time.sleep(0.5)


def page(runs: Sequence[dict[str, Any]]) -> str:
    """Return the page's text."""
    rows = [
        f"| {run['devices']:,} | {run['jobs']:,} of {run['job_s']:g} s | {run['pace'] or 'as many as it takes'} | "
        f"{run['waiting']:,} | {run['jobs_per_s']:.1f} | "
        f"{run['cpu_per_job_ms']:.0f} | {run['submit_ms']:.0f} + {run['begin_ms']:.0f} + {run['finish_ms']:.0f} | "
        f"{run['memory_mb']:.0f} | {run['page_ms']:.0f} ({run['pages']}) |"
        for run in runs
    ]
    few, _, many, paced, queue, full = runs
    said = [
        f"- Overhead of a job, at ten a second: {paced['answers_ms']:.0f} ms, from the medians of its three answers "
        f"({_kept(paced['answers_ms'], OVERHEAD_LIMIT_MS, 'ms')}).",
        f"- As many as it takes: {many['per_job_ms']:.0f} ms of the clock for a job with 1,000 devices, "
        f"{many['cpu_per_job_ms']:.0f} ms of them the server's CPU; {few['per_job_ms']:.0f} and "
        f"{few['cpu_per_job_ms']:.0f} ms with 100. Throughput with 1,000 devices is "
        f"{many['jobs_per_s'] / few['jobs_per_s']:.2f} times that with 100.",
        f"- While {QUEUE:,} jobs or more wait: {queue['answers_ms']:.0f} ms of overhead at ten a second "
        f"({_kept(queue['answers_ms'], OVERHEAD_LIMIT_MS, 'ms')}), and as many as it takes, with 1,000 devices that "
        f"are all busy, {full['per_job_ms']:.0f} ms of the clock for a job.",
        f"- Memory of the server: {max(run['memory_mb'] for run in runs):.0f} MB at most "
        f"({_kept(max(run['memory_mb'] for run in runs), MEMORY_LIMIT_MB, 'MB')}).",
        f"- The page of all devices meanwhile, asked for once a second: {many['page_ms']:.0f} ms at the median "
        f"({_kept(many['page_ms'], PAGE_LIMIT_MS, 'ms')}).",
    ]
    return (
        f"The real server over HTTP with SQLite, in a process of its own; {HOSTS} hosts, their devices and {PEOPLE} "
        "people are **simulated** on the same cores, and a job is some time in which nothing happens and nothing is "
        "measured, so that no samples are sent or kept. One run of each row; in each every job that ended did so once, "
        "at its first try, and no lease stayed. Where as many jobs as the server takes are submitted, everybody sends "
        "the next one once the last was answered: the server is the limit, and its answers wait for one another. The "
        "last two rows begin with a queue and end before it does: `waiting` is its length at the end, and so many jobs "
        "as the row says ended meanwhile.\n\n"
        "| devices | jobs | submitted a second | waiting | jobs a second | CPU ms of the server for a job | "
        "median ms of submitting + beginning + finishing | server MB | page, median ms (n) |\n"
        "|---|---|---|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n\n" + "\n".join(said)
    )


def _kept(found: float, limit: float, unit: str) -> str:
    return f"limit {limit:g} {unit}: {'kept' if found <= limit else '**missed**'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help="be the server of this folder")
    parser.add_argument("--port", type=int, help="of the server")
    parser.add_argument("--jobs", type=int, help="jobs of each run, for a trial")
    parser.add_argument("--only", type=int, help="the number of one run, for a trial")
    chosen = parser.parse_args()
    if chosen.serve is not None:
        serve(chosen.serve, chosen.port)
        return
    runs = []
    trial = chosen.jobs is not None or chosen.only is not None
    for run in RUNS if chosen.only is None else RUNS[chosen.only : chosen.only + 1]:
        with tempfile.TemporaryDirectory(prefix="farm-load-") as folder:
            number = (chosen.jobs or run.jobs) // PEOPLE * PEOPLE
            runs.append(one_run(replace(run, jobs=number), Path(folder), _free_port()))
            print(json.dumps(runs[-1]), flush=True)
    if not trial:
        print(page(runs))
        print(write_results("farm-load", "Load on the farm", COMMAND, page(runs), {"runs": runs}, where=machine()))


if __name__ == "__main__":
    main()
