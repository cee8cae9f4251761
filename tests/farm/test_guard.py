"""What stands before every route: names, sizes, time, pace, headers; and what the server says of itself."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from edgebuild.farm import desk, home, tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.server import farm as farms
from edgebuild.farm.server import guard, logs, serving
from edgebuild.farm.server.app import create_app
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.guard import Pace, host_of
from edgebuild.farm.server.identity import MOST_WRONG
from edgebuild.farm.server.pages.access import Access, access_at
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Ask, Problem
from tests.farm.serving import over_tls, served
from tests.farm.shelves import PI, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgebuild.farm.database import Database


class Asker:
    """Somebody with a token of each scope."""

    def __init__(self, farm: Farm, access: Access) -> None:
        self.farm = farm
        self.app = create_app(farm, access)
        self.client = TestClient(self.app, base_url="http://localhost")

    def token(self, scope: Scope, name: str = "") -> dict[str, str]:
        made = self.farm.do(lambda db, now: tokens.make(db, name or f"{scope}-token", scope, now, days=1))
        return {"Authorization": f"Bearer {made}"}


@pytest.fixture
def farm(database: Database, tmp_path: Path) -> Farm:
    return Farm(database, Blobs(tmp_path / "blobs"))


@pytest.fixture
def asker(farm: Farm) -> Iterator[Asker]:
    made = Asker(farm, access_at("127.0.0.1", names=("farm.test",)))
    with made.client:
        yield made


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("desk", "desk"),
        ("Desk.:8443", "desk"),
        ("[::1]:8443", "::1"),
        ("[::1]", "::1"),
        ("desk:8443@evil", ""),
        ("desk:", "desk"),
        ("[::1", ""),
        ("[::1]x", ""),
        ("desk:80:80", ""),
        ("", ""),
    ],
)
def test_a_host_header_is_read_strictly(header: str, name: str) -> None:
    assert host_of(header) == name


def test_the_server_answers_to_its_own_names_only(asker: Asker) -> None:
    for name in ("localhost", "farm.test:8443", "127.0.0.1:1", "[::1]:2"):
        assert asker.client.get("/healthz", headers={"Host": name}).status_code == 200
    for name in ("evil.test", "farm.test.evil.test", ""):
        said = asker.client.get("/healthz", headers={"Host": name})
        assert said.status_code == 421
        assert Problem.model_validate_json(said.content).hint


def test_a_request_holds_no_more_than_it_may(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    run = asker.token(Scope.RUN)
    much = b" " * (guard.MOST_BODY_BYTES + 1)
    for body in (much, iter([much[:-10], much[-10:]])):  # with its length said before, and without
        said = asker.client.post("/api/jobs", headers=run, content=body)
        assert said.status_code == 413
        Problem.model_validate_json(said.content)
    monkeypatch.setattr(guard, "MOST_BYTES", 1000)
    path = f"/api/blobs/{'0' * 64}"
    assert asker.client.put(path, headers=run, content=b" " * 1001).status_code == 413
    assert asker.client.put(path, headers=run, content=b" " * 1000).status_code == 422, "it isn't the file"
    assert list(asker.farm.blobs.folder.rglob(".part-*")) == []


def test_a_body_that_doesnt_come_isnt_waited_for(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.2)
    head = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345"
    with served(farm) as url, socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as slow:
        slow.sendall(head)
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


@pytest.fixture
def made_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> home.Home:
    monkeypatch.setenv(home.FOLDER, str(tmp_path / "farm"))
    return home.make_home(database="", names=("farm.test",), prepare=lambda _: None)


def test_a_head_that_doesnt_come_isnt_waited_for(
    farm: Farm, made_home: home.Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEAD_S", 0.3)
    trust = ssl.create_default_context(cafile=str(made_home.authority))
    with over_tls(farm, made_home) as port:
        for sent in (b"", b"GET /healthz HTTP/1.1\r\nHost: local"):
            with contextlib.ExitStack() as stack:
                plain = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                slow = stack.enter_context(trust.wrap_socket(plain, server_hostname="localhost"))
                slow.sendall(sent)
                assert slow.recv(100) == b"", "the connection ends without an answer"


def test_a_server_in_use_names_no_software_and_sets_every_header(farm: Farm, made_home: home.Home) -> None:
    trust = ssl.create_default_context(cafile=str(made_home.authority))
    request = b"GET /healthz HTTP/1.1\r\nHost: farm.test\r\nConnection: close\r\n\r\n"
    with over_tls(farm, made_home) as port, contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        tls = stack.enter_context(trust.wrap_socket(plain, server_hostname="farm.test"))
        tls.sendall(request)
        said = b"".join(iter(lambda: tls.recv(4096), b"")).decode().lower()
    head = said.partition("\r\n\r\n")[0]
    assert "\r\nserver:" not in head
    assert "max-age=" in head
    for name in guard.HEADERS:
        assert f"\r\n{name.decode()}:" in head


def test_every_answer_carries_the_headers(asker: Asker) -> None:
    for path in ("/healthz", "/api/devices", "/nothing", "/openapi.json"):
        said = asker.client.get(path)
        assert {name.decode() for name in guard.HEADERS} <= said.headers.keys(), path
        assert len(said.headers["x-request-id"]) == 32


def test_without_a_token_nothing_is_told_of_what_there_is(asker: Asker) -> None:
    asker.farm.do(lambda db, now: fill(db, "pi-1", now=now))
    there = asker.client.get("/api/devices/pi-1")
    missing = asker.client.get("/api/devices/pi-2")
    odd = asker.client.get("/api/devices/%00")
    assert [each.status_code for each in (there, missing, odd)] == [401, 401, 401]
    assert there.json() == missing.json() == odd.json()
    unknown = asker.client.get("/api/nothing/of/the/sort")
    assert unknown.status_code == 404
    assert Problem.model_validate_json(unknown.content).message == "Not Found"


def test_a_pace_refills() -> None:
    pace = Pace(per_s=10.0, burst=2.0)
    assert [pace.wait_s("a", 0.0) for _ in range(2)] == [0.0, 0.0]
    assert pace.wait_s("a", 0.0) == pytest.approx(0.1)
    assert pace.wait_s("b", 0.0) == 0.0, "others have their own"
    assert pace.wait_s("a", 0.1) == 0.0
    assert pace.wait_s("a", -5.0) > 0.0, "a clock that steps back gives nothing"


def test_a_token_that_asks_too_often_waits_and_others_dont(asker: Asker) -> None:
    asker.app.state.paces[False] = Pace(per_s=0.001, burst=3.0)
    ada, bob = asker.token(Scope.READ, "ada"), asker.token(Scope.READ, "bob")
    codes = [asker.client.get("/api/devices", headers=ada).status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]
    said = asker.client.get("/api/devices", headers=ada)
    assert int(said.headers["Retry-After"]) > 0
    assert asker.client.get("/api/devices", headers=bob).status_code == 200


def test_wrong_tokens_of_others_keep_no_right_one_out(asker: Asker) -> None:
    ada = asker.token(Scope.READ)
    for _ in range(MOST_WRONG + 1):
        said = asker.client.get("/api/devices", headers={"Authorization": "Bearer ebf_x_y"})
    assert said.status_code == 429
    assert asker.client.get("/api/devices", headers=ada).status_code == 200


def figures(said: str) -> dict[tuple[str, str], float]:
    """Return samples by name and the value of their only label."""
    return {
        (
            sample.name,
            "".join(sample.labels.values()) if len(sample.labels) < 2 else sample.labels["route"],
        ): sample.value
        for family in text_string_to_metric_families(said)
        for sample in family.samples
    }


def test_the_figures_are_those_of_the_tables(asker: Asker) -> None:
    run = asker.token(Scope.RUN)
    asker.farm.do(lambda db, now: fill(db, "pi-1", "pi-2", now=now))
    for _ in range(3):
        asker.client.post("/api/leases", headers=run, json=Ask(target=PI).model_dump(mode="json"))
    job = asker.client.post("/api/jobs", headers=run, json={"kind": "bench", "ask": {"target": PI}}).json()
    asker.client.post(f"/api/jobs/{job['id']}/cancel", headers=run)
    found = figures(asker.client.get("/metrics", headers=run).text)
    assert found["edgebuild_farm_devices", "good"] == 2
    assert found["edgebuild_farm_leases_held", PI] == 2
    assert found["edgebuild_farm_queue", PI] == 1
    assert found["edgebuild_farm_jobs_ended_total", "cancelled"] == 1
    assert found["edgebuild_farm_trouble", ""] == 0
    assert found["edgebuild_farm_database_bytes", ""] > 4096
    assert found["edgebuild_farm_request_seconds_count", "/api/jobs/{job}/cancel"] == 1
    assert job["id"] not in asker.client.get("/metrics", headers=run).text


def test_figures_are_for_this_machine_or_a_token(asker: Asker) -> None:
    assert asker.client.get("/metrics").status_code == 401
    assert asker.client.get("/metrics", headers=asker.token(Scope.READ)).status_code == 200
    here = TestClient(asker.app, base_url="http://localhost", client=("127.0.0.1", 1))
    assert here.get("/metrics").status_code == 200
    claims = {"X-Forwarded-For": "127.0.0.1"}
    assert asker.client.get("/metrics", headers=claims).status_code == 401


def test_trouble_is_seen_by_everybody_and_told_to_those_with_a_token(asker: Asker) -> None:
    assert asker.client.get("/healthz").json() == {"well": True}
    asker.farm.trouble = "the disk of db.internal is full"
    said = asker.client.get("/healthz")
    assert (said.status_code, said.json()) == (503, {"well": False})
    assert asker.client.get("/api/status", headers=asker.token(Scope.READ)).json()["trouble"]
    assert figures(asker.client.get("/metrics", headers=asker.token(Scope.RUN)).text)["edgebuild_farm_trouble", ""] == 1


def test_a_bug_while_the_tables_are_put_right_is_said_and_gone_on_after(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = threading.Event()
    right = desk.reconcile

    def fail(db: object, now: float) -> None:
        seen.set()
        raise ValueError("no such thing")

    monkeypatch.setattr(farms, "RECONCILE_S", 0.01)
    monkeypatch.setattr(desk, "reconcile", fail)
    with listening() as said, farm.running():
        seen.wait()
        wait_until(lambda: not farm.well)
        trouble = farm.trouble
        monkeypatch.setattr(desk, "reconcile", right)
        wait_until(lambda: farm.well)
    assert "ValueError" in trouble
    assert "no such thing" in lines(said)[0]["error"]


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.01)


@contextlib.contextmanager
def listening() -> Iterator[io.StringIO]:
    """Yield what the server logs."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setFormatter(logs.JsonLines())
    log = logging.getLogger("edgebuild.farm")
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def lines(said: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.getvalue().splitlines()]


def test_every_request_is_a_line_that_says_who_and_never_the_token(asker: Asker) -> None:
    ada = asker.token(Scope.READ, "ada")
    with listening() as said:
        answer = asker.client.get("/api/devices/pi-1?token=ebf_in_the_query", headers=ada)
        asker.client.get("/a%0Ab/ebf_in_the_path")
    first, second = lines(said)
    assert (first["event"], first["who"], first["method"], first["path"]) == (
        "request",
        "ada",
        "GET",
        "/api/devices/{name}",
    )
    assert (first["status"], first["request"]) == (answer.status_code, answer.headers["x-request-id"])
    assert first["ms"] > 0
    assert (second["path"], second["who"], second["status"]) == ("none", "", 404)
    assert "ebf_" not in said.getvalue()


def test_a_bug_is_answered_in_a_sentence_and_logged_whole(asker: Asker) -> None:
    def fail() -> None:
        raise ValueError("secret of the server")

    asker.app.add_api_route("/bug", fail)
    with listening() as said:
        answer = asker.client.get("/bug")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    (line,) = lines(said)
    assert line["level"] == "error"
    assert "secret of the server" in line["error"]
    assert line["request"] in Problem.model_validate_json(answer.content).hint


def test_a_line_of_the_log_is_one_line_whatever_is_in_it() -> None:
    with listening() as said:
        logs.event("x", path="a\nb\x1b[2J" + "c" * 10_000)
    (line,) = said.getvalue().splitlines()
    assert "\x1b" not in line
    assert len(json.loads(line)["path"]) == logs.LONGEST


def test_the_api_has_no_way_to_change_the_audit(asker: Asker) -> None:
    for method in ("PUT", "PATCH", "DELETE", "POST"):
        assert asker.client.request(method, "/api/audit", headers=asker.token(Scope.ADMIN, method)).status_code == 405
