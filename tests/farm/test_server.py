"""The API: who may do what, and what goes on between a person, the farm and a host."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from edgebuild import __version__
from edgebuild.farm import desk, tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.server.app import create_app
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.identity import MOST_WRONG
from edgebuild.farm.tokens import Scope
from tests.farm.shelves import PI

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from edgebuild.farm.database import Database

BENCH = {"kind": "bench", "ask": {"target": PI}}


def _token(scope: Scope, db: Connection, now: float) -> str:
    return tokens.make(db, f"{scope}-token", scope, now, days=1)


class People:
    """One client for each scope."""

    def __init__(self, farm: Farm, client: TestClient) -> None:
        self.farm = farm
        self.client = client
        self.tokens = {scope: farm.do(partial(_token, scope)) for scope in Scope}

    def ask(self, scope: Scope, method: str, path: str, body: Any = None, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens[scope]}"}
        return self.client.request(method, path, headers=headers, json=body, **more)

    def join(self, *names: str) -> None:
        offered = [{"name": name, "target": PI} for name in names]
        hello = {"version": __version__, "devices": offered}
        assert self.ask(Scope.HOST, "POST", "/api/hosts/desk/hello", hello).status_code == 200

    def work(self, *running: dict[str, Any], wait: bool = False) -> Any:
        body = {"running": list(running), "wait": wait}
        return self.ask(Scope.HOST, "POST", "/api/hosts/desk/work", body).json()

    def check_all(self) -> None:
        """Do the checks that new devices wait for."""
        self.farm.do(lambda db, now: desk.reconcile(db, now + 1))
        for job in self.work()["start"]:
            finished = {"token": job["attempts"][-1]["token"], "how": "succeeded", "readings": {}}
            said = self.ask(Scope.HOST, "POST", f"/api/hosts/desk/jobs/{job['id']}/finish", finished)
            assert said.json() == {"counted": True}


@pytest.fixture
def people(database: Database, tmp_path: Path) -> Iterator[People]:
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    with TestClient(create_app(farm)) as client:
        yield People(farm, client)


def test_a_job_goes_from_a_person_to_a_host_and_its_result_back(people: People) -> None:
    people.join("pi-1")
    people.check_all()
    job = people.ask(Scope.RUN, "POST", "/api/jobs", {**BENCH, "kind": "turn"}).json()
    (begun,) = people.work()["start"]
    assert begun["id"] == job["id"]
    token = begun["attempts"][-1]["token"]
    path = f"/api/hosts/desk/jobs/{job['id']}"
    assert people.ask(Scope.HOST, "POST", f"{path}/log", {"token": token, "lines": ["hello"]}).json()["counted"]
    finished = {"token": token, "how": "succeeded", "result": {"ms": 3.0}}
    assert people.ask(Scope.HOST, "POST", f"{path}/finish", finished).json()["counted"]
    assert not people.ask(Scope.HOST, "POST", f"{path}/finish", finished).json()["counted"]
    ended = people.ask(Scope.READ, "GET", f"/api/jobs/{job['id']}").json()
    assert (ended["end"], ended["result"]) == ("succeeded", {"ms": 3.0})
    (line,) = people.ask(Scope.READ, "GET", f"/api/jobs/{job['id']}/log").json()
    assert line["text"] == "hello"


def test_a_job_that_its_host_forgot_is_queued_again(people: People) -> None:
    people.join("pi-1")
    people.check_all()
    job = people.ask(Scope.RUN, "POST", "/api/jobs", BENCH).json()
    assert [each["id"] for each in people.work()["start"]] == [job["id"]]
    (again,) = people.work()["start"]
    assert again["id"] == job["id"]
    assert [attempt["how"] for attempt in again["attempts"]] == ["device lost", ""]


def test_a_host_that_asks_again_is_answered_once_and_loses_nothing(people: People) -> None:
    """The first question's connection was cut, and its answer would go to nobody."""
    people.join("pi-1")
    people.check_all()
    with ThreadPoolExecutor(2) as pool:
        cut = pool.submit(people.work, wait=True)
        while not people.farm.bell._waiting.get("desk", ()):
            time.sleep(0.005)
        asked = pool.submit(people.work, wait=True)
        while len(people.farm.bell._waiting.get("desk", ())) < 2:
            time.sleep(0.005)
        job = people.ask(Scope.RUN, "POST", "/api/jobs", BENCH).json()
        assert cut.result()["start"] == []
        assert [each["id"] for each in asked.result()["start"]] == [job["id"]]
    tries = people.ask(Scope.READ, "GET", f"/api/jobs/{job['id']}").json()["attempts"]
    assert [attempt["how"] for attempt in tries] == [""]


def test_a_cancelled_job_is_stopped_on_its_host(people: People) -> None:
    people.join("pi-1")
    people.check_all()
    job = people.ask(Scope.RUN, "POST", "/api/jobs", BENCH).json()
    (begun,) = people.work()["start"]
    people.ask(Scope.RUN, "POST", f"/api/jobs/{job['id']}/cancel")
    turn = {"id": job["id"], "token": begun["attempts"][-1]["token"]}
    (stop,) = people.work(turn)["stop"]
    assert (stop["id"], stop["why"]) == (job["id"], "cancelled")


def test_a_lease_is_relayed_by_the_host_of_its_device(people: People) -> None:
    people.join("pi-1")
    people.check_all()
    lease = people.ask(Scope.RUN, "POST", "/api/leases", {"target": PI}).json()
    (relay,) = people.work()["relays"]
    assert (relay["id"], relay["device"], relay["token"]) == (lease["id"], "pi-1", lease["token"])
    people.ask(Scope.RUN, "POST", f"/api/leases/{lease['id']}/release", {})
    assert people.work()["relays"] == []


def test_a_lease_that_waits_says_why(people: People) -> None:
    people.join("pi-1")
    people.check_all()
    people.ask(Scope.RUN, "POST", "/api/leases", {"target": PI})
    second = people.ask(Scope.RUN, "POST", "/api/leases", {"target": PI}).json()
    assert (second["state"], second["why"]) == ("waiting", "pi-1: in use")


@pytest.mark.parametrize(
    ("scope", "method", "path", "body"),
    [
        (Scope.READ, "POST", "/api/jobs", BENCH),
        (Scope.READ, "POST", "/api/leases", {"target": PI}),
        (Scope.RUN, "POST", "/api/devices/pi-1/health", {"health": "retired"}),
        (Scope.ADMIN, "POST", "/api/hosts/desk/hello", {"version": __version__}),
        (Scope.HOST, "POST", "/api/jobs", BENCH),
        (Scope.READ, "PUT", f"/api/blobs/{'0' * 64}", None),
    ],
)
def test_a_token_allows_its_scope_and_no_more(people: People, scope: Scope, method: str, path: str, body: Any) -> None:
    said = people.ask(scope, method, path, body)
    assert said.status_code == 403
    assert "doesn't allow that" in said.json()["message"]


def test_without_a_right_token_there_is_nothing_and_soon_not_even_an_answer(people: People) -> None:
    for headers in ({}, {"Authorization": "Bearer ebf_x_y"}, {"Authorization": "Basic YTpi"}):
        assert people.client.get("/api/devices", headers=headers).status_code == 401
    for _ in range(MOST_WRONG):
        people.client.get("/api/devices")
    said = people.client.get("/api/devices")
    assert (said.status_code, said.headers["Retry-After"]) == (429, "60")


def test_a_revoked_token_and_an_expired_one_are_none(people: People) -> None:
    people.farm.do(lambda db, now: tokens.revoke(db, "read-token", now))
    assert people.ask(Scope.READ, "GET", "/api/devices").status_code == 401
    old = people.farm.do(lambda db, now: tokens.make(db, "old", Scope.READ, now - 2 * 86400, days=1))
    assert people.client.get("/api/devices", headers={"Authorization": f"Bearer {old}"}).status_code == 401


def test_one_host_has_no_word_in_anothers_jobs(people: People) -> None:
    people.join("pi-1")
    people.check_all()
    job = people.ask(Scope.RUN, "POST", "/api/jobs", BENCH).json()
    (begun,) = people.work()["start"]
    other = people.farm.do(lambda db, now: tokens.make(db, "other", Scope.HOST, now, days=1))
    said = people.client.post(
        f"/api/hosts/desk/jobs/{job['id']}/finish",
        headers={"Authorization": f"Bearer {other}"},
        json={"token": begun["attempts"][-1]["token"], "how": "succeeded"},
    )
    assert said.status_code == 409


def test_a_file_is_kept_when_it_is_the_one_of_its_digest(people: People) -> None:
    data = b"a model"
    digest = hashlib.sha256(data).hexdigest()
    assert people.ask(Scope.RUN, "HEAD", f"/api/blobs/{digest}").status_code == 404
    assert people.ask(Scope.RUN, "PUT", f"/api/blobs/{digest}", content=b"another").status_code == 422
    assert people.ask(Scope.RUN, "HEAD", f"/api/blobs/{digest}").status_code == 404
    assert people.ask(Scope.RUN, "PUT", f"/api/blobs/{digest}", content=data).status_code == 204
    assert people.ask(Scope.READ, "GET", f"/api/blobs/{digest}").content == data


def test_what_makes_no_sense_is_said_in_a_sentence(people: People) -> None:
    said = people.ask(Scope.RUN, "POST", "/api/jobs", {"kind": "bench", "ask": {"target": PI, "priority": 99}})
    assert said.status_code == 422
    assert "priority" in said.json()["message"]
    said = people.ask(Scope.RUN, "POST", "/api/jobs", {"kind": "bench", "ask": {"target": "intel-n100"}})
    assert said.status_code == 409
    assert said.json()["hint"]
    assert people.ask(Scope.READ, "GET", f"/api/jobs/j{'0' * 15}").status_code == 404


def test_what_certifies_makes_no_room(people: People) -> None:
    people.join("pi-1")
    certify = {"kind": "bench", "ask": {"target": PI, "preemptible": True}}
    assert "makes room for nobody" in people.ask(Scope.RUN, "POST", "/api/jobs", certify).json()["message"]
    quick = {**certify, "arguments": {"quick": True}}
    assert people.ask(Scope.RUN, "POST", "/api/jobs", quick).status_code == 201
