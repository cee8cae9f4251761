"""A host's agent: it offers its devices, does jobs on them, and loses none whatever dies."""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild import __version__
from edgebuild.errors import EnvironmentGap
from edgebuild.farm import tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.client import FarmAddress, FarmClient
from edgebuild.farm.database import Database, sqlite_url
from edgebuild.farm.host import agent
from edgebuild.farm.host.orders import Parcel
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.routes import hosting as routes
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Ask, Finished, Health, Job, JobEnd, JobSpec, Shelved
from tests.farm.hosting import Host, begun, ended, job_of, wait_for
from tests.farm.serving import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


DEVICES = (
    "back",
    "buggy",
    "cycled",
    "dead",
    "late",
    "leaver",
    "let-go",
    "orphan",
    "plain",
    "posted",
    "roomy",
    "survivor",
)


class Ground:
    """A server, a user of it, and a host with a device for each test."""

    def __init__(self, database: Database, folder: Path, stack: ExitStack) -> None:
        self.farm = Farm(database, Blobs(folder / "blobs"))
        url = stack.enter_context(served(self.farm))
        self.client = FarmClient(FarmAddress(url=url, token=self.token("ada", Scope.RUN)))
        stack.callback(self.client.close)
        self.host = Host(folder / "host", url, self.token("desk", Scope.HOST))
        stack.callback(self.host.close)
        for name in DEVICES:
            self.host.own(name)
        for name in ("cycled", "dead"):
            self.broken(name).parent.mkdir(parents=True, exist_ok=True)
            self.broken(name).touch()
        self.host.own("cycled", power_cycle=["rm", str(self.broken("cycled"))])
        self.host.start()

    def broken(self, name: str) -> Path:
        """What keeps a pretend device from answering."""
        return self.host.disk(f"{name}.broken")

    def token(self, name: str, scope: Scope) -> str:
        return self.farm.do(lambda db, now: tokens.make(db, name, scope, now, days=1))

    def device(self, name: str) -> Shelved | None:
        found = {each.name: each for each in self.client.ask("GET", "/api/devices", tuple[Shelved, ...])}
        return found.get(name)

    def good(self, name: str, health: Health = Health.GOOD) -> Shelved:
        """Return a device once its checks found that."""

        def there() -> Shelved | None:
            found = self.device(name)
            return found if found is not None and found.health is health else None

        found: Shelved = wait_for(there, 60.0, self.host.log)
        return found

    def submit(self, device: str, kind: str = "turn", seconds: float = 0.1, **ask: Any) -> str:
        spec = JobSpec(kind=kind, ask=Ask(device=device, **ask), arguments={"seconds": seconds})
        return self.client.ask("POST", "/api/jobs", Job, spec).id

    def said(self, job: str) -> list[str]:
        return [line["text"] for line in self.client.ask("GET", f"/api/jobs/{job}/log", list[dict[str, Any]])]

    def checks(self, name: str) -> list[dict[str, Any]]:
        return self.client.ask("GET", f"/api/devices/{name}/checks", list[dict[str, Any]])

    def notes(self, name: str) -> list[list[str]]:
        """What the board itself wrote down."""
        return [line.split() for line in (self.host.disk(name) / "turns.log").read_text().splitlines()]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One for all tests, since a process and the check of a device take seconds; each has devices of its own."""
    folder = tmp_path_factory.mktemp("host")
    database = Database(sqlite_url(folder / "farm.db"))
    database.upgrade()
    with ExitStack() as stack:
        stack.callback(database.close)
        yield Ground(database, folder, stack)


def test_a_job_runs_on_a_device_of_the_host_and_its_result_and_log_arrive(ground: Ground) -> None:
    ground.good("plain")
    job = ended(ground.client, ground.submit("plain"))
    assert (job.end, job.result) == (JobEnd.SUCCEEDED, {"token": job.attempts[-1].token, "device": "plain"})
    assert [words[0] for words in ground.notes("plain")] == ["begin", "end"]
    assert ground.said(job.id) == ["begun on plain"]
    wait_for(lambda: not list((ground.host.folder / "agent" / "turns").iterdir()))


def test_a_bug_is_a_failed_job_whose_log_has_the_last_line(ground: Ground) -> None:
    ground.good("buggy")
    job = ended(ground.client, ground.submit("buggy", "burst_out"))
    assert (job.end, "bug" in job.reason) == (JobEnd.FAILED, True)
    assert ground.said(job.id) == [f"ValueError: nobody foresaw {job.id}"]
    job = ended(ground.client, ground.submit("buggy", "juggle"))
    known = "There is no kind of job 'juggle'. Known: bench, burst_out, check, hog, turn."
    assert (job.end, job.reason) == (JobEnd.FAILED, known)


def test_a_cancelled_job_lets_its_device_go(ground: Ground) -> None:
    ground.good("let-go")
    job = begun(ground.client, ground.submit("let-go", seconds=600))
    ground.client.ask("POST", f"/api/jobs/{job.id}/cancel", Job)
    assert ended(ground.client, job.id).end is JobEnd.CANCELLED
    assert ended(ground.client, ground.submit("let-go")).end is JobEnd.SUCCEEDED
    assert [words[0] for words in ground.notes("let-go")] == ["begin", "begin", "end"]


def test_a_job_ends_when_its_time_is_over(ground: Ground) -> None:
    ground.good("late")
    job = ended(ground.client, ground.submit("late", seconds=600, duration_s=3.0))
    assert job.end is JobEnd.TIMED_OUT
    wait_for(lambda: not ground.host.workers(job.id))


def test_a_job_that_makes_room_is_done_later(ground: Ground) -> None:
    ground.good("roomy")
    screening = begun(ground.client, ground.submit("roomy", seconds=2, preemptible=True, priority=1))
    assert ended(ground.client, ground.submit("roomy", priority=9)).end is JobEnd.SUCCEEDED
    job = ended(ground.client, screening.id)
    assert [attempt.how for attempt in job.attempts] == ["preempted", "succeeded"]


def test_a_worker_that_is_killed_costs_an_attempt_and_the_device_is_looked_at(ground: Ground) -> None:
    ground.good("orphan")
    job = begun(ground.client, ground.submit("orphan", seconds=1.5))
    (worker,) = ground.host.workers(job.id)
    os.kill(worker, signal.SIGKILL)
    done = ended(ground.client, job.id)
    assert [attempt.how for attempt in done.attempts] == ["device lost", "succeeded"]
    checks = ground.checks("orphan")
    assert [check["passed"] for check in checks] == [True, False, True]
    assert "SIGKILL" in checks[1]["reason"]


def test_nothing_outlives_an_agent_that_is_killed_and_its_job_is_done_again(ground: Ground) -> None:
    ground.good("survivor")
    job = begun(ground.client, ground.submit("survivor", seconds=2))
    ground.host.kill()
    wait_for(lambda: not ground.host.workers())
    ground.host.start()
    done = ended(ground.client, job.id)
    assert [attempt.how for attempt in done.attempts] == ["device lost", "succeeded"]
    assert "CLASH" not in [words[0] for words in ground.notes("survivor")]


def test_an_agent_that_is_told_to_end_gives_its_jobs_back(ground: Ground) -> None:
    ground.good("back")
    job = begun(ground.client, ground.submit("back", seconds=2))
    assert ground.host.end() == 0
    assert [attempt.how for attempt in job_of(ground.client, job.id).attempts] == ["preempted", ""]
    assert not ground.host.workers()
    ground.host.start()
    assert ended(ground.client, job.id).end is JobEnd.SUCCEEDED


def test_a_result_of_an_agent_that_died_before_it_was_heard_is_sent_by_the_next(ground: Ground) -> None:
    """Its parcel lies on disk; the job isn't done again."""
    ground.good("posted")
    job = begun(ground.client, ground.submit("posted", seconds=600))
    token = job.attempts[-1].token
    ground.host.kill()
    finished = Finished(token=token, how=JobEnd.SUCCEEDED, result={"kept": True})
    parcel = Parcel(job=job.id, token=token, finished=finished)
    folder = ground.host.folder / "agent" / "turns" / f"{job.id}-{token}"
    (folder / "parcel.json").write_text(parcel.model_dump_json())
    ground.host.start()
    done = ended(ground.client, job.id)
    assert (done.result, len(done.attempts)) == ({"kept": True}, 1)


def test_a_device_that_leaves_the_inventory_is_away(ground: Ground) -> None:
    ground.good("leaver")
    ground.host.disown("leaver")
    ended(ground.client, ground.submit("plain"))  # the inventory is read before the farm is asked again
    wait_for(lambda: (found := ground.device("leaver")) is not None and not found.there, 30.0, ground.host.log)


def test_a_host_of_another_version_is_refused_in_a_sentence(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "__version__", "7.4.1")
    other = Host(tmp_path / "other", str(ground.host.config["url"]), ground.token("other", Scope.HOST), "other")
    other.start()
    assert other.wait() == 2
    assert f"The host runs edgebuild {__version__}, and this farm 7.4.1." in other.log()


def test_a_second_agent_of_one_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "LOCK_S", 0.2)
    address = FarmAddress(url="http://127.0.0.1:1", token="none")
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentGap, match="Another agent is the host desk"):
            agent.run(address, "desk", folder=tmp_path)


def test_a_device_that_turns_bad_is_switched_off_and_on(ground: Ground) -> None:
    ground.good("cycled")
    assert [check["passed"] for check in ground.checks("cycled")] == [True, False]
    jobs = ground.client.ask("GET", "/api/jobs", tuple[Job, ...])
    (job,) = (job for job in jobs if job.spec.ask.device == "cycled" and job.end is JobEnd.SUCCEEDED)
    assert "cycled is broken.: switching it off and on" in ground.said(job.id)
    assert "rm ended with status 0" in ground.said(job.id)


def test_a_device_that_stays_broken_is_bad_and_says_why(ground: Ground) -> None:
    found = ground.good("dead", Health.BAD)
    assert (found.reason, found.failures) == ("dead is broken.", 2)
