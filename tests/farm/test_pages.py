"""What the farm's pages show, and that what boards, hosts and people said stays text."""

from __future__ import annotations

import re
from functools import partial
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert

from edgebuild.farm import jobs, leases, memory, sessions
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.database import Database, sqlite_url
from edgebuild.farm.memory import Origin
from edgebuild.farm.schema import audit
from edgebuild.farm.server.app import create_app
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.pages import rendering
from edgebuild.farm.server.pages.looks import TURNS
from edgebuild.farm.values import Ask, JobSpec, LeaseState
from tests.farm import example_farm, hostile_farm
from tests.farm.pretend_sessions import NAME, PretendSession
from tests.farm.shelves import PI, fill
from tests.farm.visitors import visitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from tests.farm.visitors import Visitor

MODEL = example_farm.MODELS[0]


@pytest.fixture
def farm(database: Database, tmp_path: Path) -> Farm:
    return Farm(database, Blobs(tmp_path / "blobs"))


@pytest.fixture
def anybody(farm: Farm) -> Visitor:
    return visitor(create_app(farm))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Farm, Visitor]]:
    """A farm with everything in it, to look at only."""
    folder = tmp_path_factory.mktemp("example")
    database = Database(sqlite_url(folder / "farm.db"))
    database.upgrade()
    farm = Farm(database, Blobs(folder / "blobs"))
    farm.do(example_farm.fill)
    yield farm, visitor(create_app(farm))
    database.close()


class Text(HTMLParser):
    """The text of a page, its links, and its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def __str__(self) -> str:
        return " ".join(" ".join(self.words).split())

    def links(self) -> set[str]:
        return {href for tag, attrs in self.tags if tag == "a" and (href := attrs.get("href")) is not None}


def read(visit: Visitor, path: str, status: int = 200) -> Text:
    answer = visit.get(path)
    assert answer.status_code == status, answer.text
    return Text(answer.text)


def row(page: str, number: str) -> str:
    found = re.search(rf'<tr id="{re.escape(number)}">(.*?)</tr>', page, re.DOTALL)
    assert found is not None
    return str(Text(found[1]))


def test_an_empty_farm_says_what_to_do(anybody: Visitor) -> None:
    assert "The shelf is empty" in str(read(anybody, "/"))
    assert "Nobody waits" in str(read(anybody, "/queue"))
    assert "Nothing has been measured yet" in str(read(anybody, "/history"))
    assert "There is nothing yet" in str(read(anybody, "/audit"))


def test_the_shelf_shows_health_in_words_and_who_has_what(example: tuple[Farm, Visitor]) -> None:
    _, anybody = example
    page = anybody.get("/").text
    assert row(page, "device-pi-5").startswith("pi-5 Bad throttled: under-voltage")
    assert "Unknown the anchor took 22.9 ms, 7 % more than in its own history" in row(page, "device-pi-3")
    assert "shelf-detector, certify ada, since" in row(page, "device-pi-1")
    assert "build shelf-detector on nano-2 grace" in row(page, "device-nano-2")
    assert "Good Away" in row(page, "device-pi-8")
    assert "Good Draining" in row(page, "device-n100-2")
    assert "device-pi-6" not in page, "retired"
    assert row(page, "target-raspberry-pi-5") == "raspberry-pi-5 7 1 2 10 min"
    assert row(page, "host-garage").startswith("garage Away 0 of 1 0.1.0 5 h ago")


def test_the_shelf_can_be_narrowed_down(example: tuple[Farm, Visitor]) -> None:
    _, anybody = example
    for query, names in (
        ("show=bad", {"pi-5"}),
        ("show=retired", {"pi-6"}),
        ("show=away", {"pi-8"}),
        ("show=free", {"pi-7"}),
        ("show=busy&target=jetson-orin-nano-8gb", {"nano-1", "nano-2"}),
    ):
        shown = set(re.findall(r'<tr id="device-([^"]+)">', anybody.get(f"/?{query}").text))
        assert shown == names, query


def test_a_long_shelf_is_paged(farm: Farm, anybody: Visitor) -> None:
    farm.do(lambda db, now: fill(db, *[f"pi-{n:03d}" for n in range(150)], now=now))
    first, second = (set(re.findall(r'<tr id="device-([^"]+)">', anybody.get(f"/?page={n}").text)) for n in (1, 2))
    assert (len(first), len(second), len(first | second)) == (100, 50, 150)


def test_the_queue_is_in_the_order_of_turns_and_says_why_each_waits(example: tuple[Farm, Visitor]) -> None:
    _, anybody = example
    page = anybody.get("/queue").text
    turns = [str(Text(each)) for each in re.findall(r'<tr id="turn-[^>]*>(.*?)</tr>', page, re.DOTALL)]
    assert [turn.split(maxsplit=1)[1][:26] for turn in turns[:2]] == [
        "keyword-spotter, screen 12",
        "shelf-detector, certify pi",
    ]
    assert "nano-1, nano-2: in use, 1 ahead in the queue" in turns[2]
    assert "its time to begin hasn't come begins in 5 h" in turns[3] or "begins in 4 h 59 min" in turns[3]
    assert "pi-5: bad (throttled: under-voltage since it was started)" in turns[4]


def test_reasons_of_many_are_those_of_each(example: tuple[Farm, Visitor]) -> None:
    farm, _ = example

    def compare(db: Connection) -> None:
        found = leases.in_turn(db, farm.now, most=100)
        assert len(found) == 5
        assert [one.why for one in found] == [leases.why_waiting(db, one, farm.now) for one in found]
        assert [one.id for one in found] == [one.id for one in leases.find(db, state=LeaseState.WAITING)]
        assert leases.in_turn(db, farm.now, most=2, skip=2) == found[2:4]

    farm.look(compare)


def test_every_end_of_a_job_is_told_apart(example: tuple[Farm, Visitor]) -> None:
    _, anybody = example
    page = str(read(anybody, "/jobs"))
    for said in ("Succeeded", "Failed", "Timed out", "Cancelled", "Device lost", "no route to host (3 attempts)"):
        assert said in page


def test_a_device_shows_its_history_facts_and_jobs(example: tuple[Farm, Visitor]) -> None:
    _, anybody = example
    page = read(anybody, "/devices/pi-5")
    assert "Bad" in str(page)
    assert "6.12.25+rpt-rpi-2712" in str(page)
    assert "disk free 10.7 GiB" in str(page)
    charts = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]
    assert len(charts) == 2, "one for wide windows, one for narrow ones"
    assert "The anchor's latency at each check: 40 between" in str(charts[0]["aria-label"])
    assert sum(attrs.get("class") == "dot wrong" for _, attrs in page.tags) == 2 * 2
    assert "shelf-detector, certify" in str(read(anybody, "/devices/pi-1"))


def test_a_job_shows_its_attempts_log_and_result(example: tuple[Farm, Visitor]) -> None:
    farm, anybody = example
    lost = farm.look(lambda db: next(job for job in jobs.find(db) if job.end and job.end.value == "device lost"))
    page = str(read(anybody, f"/jobs/{lost.id}"))
    assert "the connection ended: no route to host (3 attempts)" in page
    assert page.count("Device lost") == 4
    assert "launch 3 of 10: median 21.29 ms" in page
    good = farm.look(lambda db: next(job for job in jobs.find(db) if job.end and job.end.value == "succeeded"))
    assert '"verdict": "equivalent"' in str(read(anybody, f"/jobs/{good.id}"))
    queued = farm.look(lambda db: next(job for job in jobs.find(db) if job.spec.ask.device == "pi-5"))
    assert "It waits: pi-5: bad (throttled" in str(read(anybody, f"/jobs/{queued.id}"))


def test_a_long_log_shows_its_end_and_leads_to_the_whole(farm: Farm, anybody: Visitor) -> None:
    def talk(db: Connection, now: float) -> str:
        fill(db, "pi-1", now=now)
        job = jobs.submit(db, JobSpec(kind="bench", ask=Ask(target=PI)), "ada", now)
        token = jobs.start(db, job.id, now).attempts[-1].token
        jobs.log(db, job.id, token, [f"line {n}" for n in range(2500)], now)
        return job.id

    job = farm.do(talk)
    page = anybody.get(f"/jobs/{job}").text
    assert "line 2499<" in page
    assert "line 2000<" not in page
    whole = anybody.get(f"/jobs/{job}/log.txt")
    assert whole.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert whole.text.splitlines() == [f"line {n}" for n in range(2500)]


def test_a_models_history_has_a_chart_for_each_device(example: tuple[Farm, Visitor]) -> None:
    _, anybody = example
    page = read(anybody, f"/history/{MODEL}")
    said = [str(attrs["aria-label"]) for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]
    assert len(said) == 2 * 3
    assert said[0].startswith("The latency of each record: 30 between")
    assert f"/history/{MODEL}" in read(anybody, "/history").links()
    read(anybody, "/history/nobodys", 404)


def test_a_models_history_tells_its_changes_from_the_boards(example: tuple[Farm, Visitor]) -> None:
    _, anybody = example
    page = anybody.get(f"/history/{MODEL}").text
    pi_1, pi_3 = (page.split(f"Changes on {name}", 1)[1].split("</ol>", 1)[0] for name in ("pi-1", "pi-3"))
    assert re.search(r"the model got faster by 1[34]\.\d%", pi_1)
    assert "board" not in pi_1
    assert re.search(r"the board drifted: its anchor got slower by [67]\.\d%", pi_3)
    assert "Changes on nano-1" not in page
    assert page.count('class="change"') == 2 * 2  # a wide and a narrow chart each


def test_two_records_lie_side_by_side(example: tuple[Farm, Visitor]) -> None:
    _, anybody = example
    page = str(read(anybody, f"/compare?a=m{1:015x}&b=m{4:015x}"))
    assert "Not comparable they weren't measured in one session" in page
    assert "The anchors: the board was the same" in page
    assert "Device pi-1 pi-1" in page
    assert "latency.p50_ms" in page
    assert "Their samples are lost" in str(read(anybody, f"/compare?a=m{2:015x}&b=m{3:015x}"))
    read(anybody, f"/compare?a=m{1:015x}&b=m{0:015x}", 404)


def test_records_of_one_session_have_their_verdict(farm: Farm, anybody: Visitor, tmp_path: Path) -> None:
    session = PretendSession(tmp_path / NAME, models={"cat": 2.0, "dog": 2.4})
    archive = session.pack(tmp_path / "archive.zip")
    result = session.result(archive)
    farm.blobs.folder.mkdir()
    farm.blobs.put([archive.read_bytes()], result.evidence)
    found = sessions.require_result(archive, result)
    host: dict[str, Any] = {"origin": Origin.HOST, "owner": "ada", "device": "pi-1", "target": PI}
    cat, dog = farm.do(lambda db, now: memory.keep(db, found, at=now, **host))
    page = str(read(anybody, f"/compare?a={cat.id}&b={dog.id}"))
    assert "Better A is faster than B: 0.83" in page
    assert "Worse A is slower than B" in str(read(anybody, f"/compare?a={dog.id}&b={cat.id}"))


def test_the_audit_is_paged_from_the_newest(farm: Farm, anybody: Visitor) -> None:
    def talk(db: Connection, now: float) -> None:
        db.execute(
            insert(audit), [{"at": now, "who": "ada", "action": "a", "what": f"w{n}", "detail": {}} for n in range(130)]
        )

    farm.do(talk)
    page = read(anybody, "/audit")
    assert "w129" in str(page)
    assert "w29 " not in str(page)
    (older,) = [link for link in page.links() if "before" in link]
    assert "w29 " in str(read(anybody, older))


@pytest.mark.parametrize("path", ["/devices/nobodys", "/jobs/j000000000000000", "/?page=0", "/static/x"])
def test_what_is_not_there_is_said_on_a_page(anybody: Visitor, path: str) -> None:
    answer = anybody.get(path)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "To the devices" in str(Text(answer.text))


def test_whatever_somebody_said_stays_text(farm: Farm, anybody: Visitor) -> None:
    job = farm.do(hostile_farm.fill)
    for path in hostile_farm.pages(job):
        answer = anybody.get(path)
        assert answer.status_code == 200, path
        page = Text(answer.text)
        assert [str(attrs.get("src"))[:8] for tag, attrs in page.tags if tag == "script"] == ["/static/"], path
        assert not any(tag == "b" and attrs for tag, attrs in page.tags), path
        assert "62710561" not in answer.text, path
        assert not set(answer.text) & hostile_farm.STEERING, path
        for _, attrs in page.tags:
            assert not {name for name in attrs if name.startswith("on") or name == "style"}, path
    assert "alert(1)" in str(read(anybody, f"/jobs/{job}"))
    assert not set(anybody.get(f"/jobs/{job}/log.txt").text) & hostile_farm.STEERING


def test_a_page_asks_the_tables_a_few_things_whatever_they_hold(farm: Farm, anybody: Visitor) -> None:
    said: list[str] = []
    farm.do(example_farm.fill)
    engine = farm.database._engine
    event.listen(engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    counts = []
    for more in (0, 60):
        if more:
            farm.do(partial(example_farm.crowd, count=more))
        each: dict[str, int] = {}
        for path in ("/", "/queue", "/jobs", "/devices/pi-1"):
            said.clear()
            assert anybody.get(path).status_code == 200
            each[path] = sum("SELECT" in one for one in said)
        counts.append(each)
    # Of those who wait, each has a reason of its own, and only so many are shown at once.
    assert counts[1].pop("/queue") <= TURNS + 12
    assert counts[0].pop("/queue") <= 12
    assert counts[0] == counts[1]
    assert max(counts[0].values()) <= 6


def test_times_that_no_calendar_has_are_said(farm: Farm) -> None:
    assert rendering.utc(0.0) == "1970-01-01 00:00:00 UTC"
    assert rendering.utc(1e300) == "in another age"
    assert str(rendering.when(None, 0.0)) == "–"
    assert [rendering.span(each) for each in (3, 200, 7500, 2e5)] == ["3 s", "3 min", "2 h 05 min", "2 d"]
