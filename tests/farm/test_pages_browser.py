"""The farm's page in a real browser; needs chromium."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from edgebuild.farm import jobs, shelf
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.database import Database, sqlite_url
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Health, JobState
from edgebuild.reporting.html import render
from tests import needs
from tests.farm import example_farm, hostile_farm
from tests.farm.serving import served
from tests.farm.windows import CONTROLS, FOCUSED, PALE, TOO_WIDE, Window, opened
from tests.reporting import browser_check, sample_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

pytestmark = needs.marked(None if browser_check.chromium() else needs.program("chromium", "chromium"))


class Shown:
    """A farm, a window on it, and tokens."""

    def __init__(self, farm: Farm, window: Window) -> None:
        self.farm = farm
        self.window = window
        self.tokens = farm.do(example_farm.give_tokens)
        self.job = farm.look(lambda db: next(job.id for job in jobs.find(db) if job.state is JobState.RUNNING))

    def pages(self) -> tuple[str, ...]:
        history = f"/history/{example_farm.MODELS[0]}"
        compare = "/compare?a=m00000000000001d&b=m000000000000022"
        job = f"/jobs/{self.job}"
        of_devices = ("/", "/devices/pi-5", "/devices/nobodys")
        return (*of_devices, "/queue", "/jobs", job, "/history", history, compare, "/audit")

    def sign_in(self, scope: Scope) -> None:
        self.window.go("/login")
        self.window.wait("document.activeElement.id === 'token'")
        self.window.write(self.tokens[scope])
        self.window.press("Enter")
        self.window.wait("location.pathname === '/' && !!document.querySelector('form[action=\"/logout\"]')")


@contextlib.contextmanager
def made(folder: Path) -> Iterator[Farm]:
    database = Database(sqlite_url(folder / "farm.db"))
    database.upgrade()
    yield Farm(database, Blobs(folder / "blobs"))
    database.close()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    with opened("") as window:
        yield window


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    with made(folder) as farm:
        farm.do(example_farm.fill)
    return folder / "farm.db"


@pytest.fixture
def shown(window: Window, filled: Path, tmp_path: Path) -> Iterator[Shown]:
    shutil.copy(filled, tmp_path)
    with made(tmp_path) as farm, served(farm, reconciled=False) as at:
        window.move(at)
        window.browser.call("Network.clearBrowserCookies")
        window.size(1280)
        yield Shown(farm, window)


def test_every_page_fits_its_window_and_can_be_read_in_light_and_dark(shown: Shown) -> None:
    window = shown.window
    shown.sign_in(Scope.ADMIN)
    for path in (*shown.pages(), "/login"):
        window.go(path)
        for width in (390, 1280):
            for dark in (False, True):
                window.size(width, dark=dark)
                where = f"{path} at {width} px, {'dark' if dark else 'light'}"
                assert window.ask(TOO_WIDE) == [], where
                assert window.ask(PALE) == [], where
                paper = "rgb(20, 23, 27)" if dark else "rgb(247, 247, 245)"
                assert window.ask("getComputedStyle(document.body).backgroundColor") == paper
        assert window.requests() == [], path
        missing = path == "/devices/nobodys"
        assert len(window.complaints()) == missing, path
        assert window.ask("document.querySelectorAll('h1').length") == 1, path


def test_tab_reaches_every_control_and_shows_where_it_is(shown: Shown) -> None:
    shown.sign_in(Scope.ADMIN)
    for path in ("/", "/queue", "/devices/pi-5", f"/jobs/{shown.job}", f"/history/{example_farm.MODELS[0]}", "/login"):
        shown.window.go(path)
        controls = shown.window.ask(CONTROLS)
        reached = {}
        for _ in range(len(controls) + 5):
            shown.window.press("Tab")
            focused = shown.window.ask(FOCUSED)
            reached[focused["name"]] = focused["shown"]
        assert set(controls) <= set(reached), path
        assert all(reached[name] for name in controls), path


def test_a_device_is_opened_drained_and_retired_by_keyboard_alone(shown: Shown) -> None:
    window = shown.window
    shown.sign_in(Scope.ADMIN)
    window.tab_to("a[href='/devices/pi-7']")
    window.press("Enter")
    window.wait("location.pathname === '/devices/pi-7'")
    window.tab_to("#drain button")
    window.press("Enter")
    window.wait("!!document.querySelector('#undrain button')")
    window.tab_to("#retire summary")
    window.press("Enter")
    window.tab_to("#retire input[name=reason]")
    window.write("worn out")
    window.tab_to("#retire button")
    window.press(" ")
    window.wait("!!document.querySelector('.pill.retired')")
    device = shown.farm.look(lambda db: shelf.get(db, "pi-7"))
    assert (device.health, device.reason) == (Health.RETIRED, "worn out")
    assert window.complaints() == []


def test_what_changes_shows_and_the_focus_stays(shown: Shown) -> None:
    window = shown.window
    window.go("/")
    assert window.ask("document.getElementById('live-said').textContent") == "Live"
    window.ask("window.mark = 1; document.querySelector('#device-pi-7 a').focus()")
    shown.farm.do(lambda db, now: shelf.set_health(db, "pi-7", Health.MAINTENANCE, "a new card", now))
    shown.farm.do(lambda db, now: shelf.set_health(db, "pi-6", Health.UNKNOWN, "", now))
    window.refresh()
    window.wait("document.getElementById('device-pi-7').textContent.includes('a new card')")
    assert window.ask("!!document.getElementById('device-pi-6')"), "one that is shown again is in its place"
    assert window.ask("document.activeElement === document.querySelector('#device-pi-7 a')")
    assert window.ask("window.mark") == 1, "the page was renewed in place"
    assert window.complaints() == []


def test_what_somebody_types_and_opened_stays_while_the_page_is_renewed(shown: Shown) -> None:
    window = shown.window
    shown.sign_in(Scope.ADMIN)
    window.go("/devices/pi-7")
    window.tab_to("#maintenance summary")
    window.press("Enter")
    window.tab_to("#maintenance input[name=reason]")
    window.write("a new")
    shown.farm.do(lambda db, now: shelf.checked(db, "pi-7", False, "too hot", {}, now))
    window.refresh()
    window.wait("document.querySelector('.result').textContent.includes('too hot')")
    window.write(" fan")
    assert window.ask("document.activeElement.value") == "a new fan"
    window.press("Enter")
    window.wait("!!document.querySelector('.pill.maintenance')")
    assert shown.farm.look(lambda db: shelf.get(db, "pi-7")).reason == "a new fan"


def test_a_log_is_followed_to_its_end_unless_one_reads_further_up(shown: Shown) -> None:
    window = shown.window
    token = shown.farm.look(lambda db: jobs.get(db, shown.job)).attempts[-1].token

    def say(db: Connection, now: float, *, lines: list[str]) -> None:
        jobs.log(db, shown.job, token, lines, now)

    shown.farm.do(partial(say, lines=[f"line {n}" for n in range(100)]))
    window.go(f"/jobs/{shown.job}")
    at_end = "(log => log.scrollTop + log.clientHeight >= log.scrollHeight - 2)(document.getElementById('log'))"
    assert window.ask(at_end)
    shown.farm.do(partial(say, lines=["the next one"]))
    window.refresh()
    window.wait("document.getElementById('log').textContent.includes('the next one')")
    assert window.ask(at_end)
    window.ask("document.getElementById('log').scrollTop = 30")
    shown.farm.do(partial(say, lines=["one more"]))
    window.refresh()
    window.wait("document.getElementById('log').textContent.includes('one more')")
    assert window.ask("document.getElementById('log').scrollTop") == 30


def test_it_can_be_paused_and_says_when_nobody_answers(window: Window, filled: Path, tmp_path: Path) -> None:
    shutil.copy(filled, tmp_path)
    with made(tmp_path) as farm:
        with served(farm, reconciled=False) as at:
            window.move(at)
            window.go("/")
            window.ask("document.getElementById('live').focus()")
            window.press(" ")
            assert window.ask("document.getElementById('live').getAttribute('aria-pressed')") == "false"
            farm.do(lambda db, now: shelf.set_health(db, "pi-7", Health.MAINTENANCE, "a new card", now))
            window.refresh()
            window.press(" ")
            window.wait("document.getElementById('device-pi-7').textContent.includes('a new card')")
            assert window.complaints() == []
        window.refresh()
        window.wait("document.getElementById('live-said').textContent === 'No answer'")
        assert "doesn't answer" in window.ask("document.getElementById('news').textContent")


def test_whatever_somebody_said_runs_nowhere_and_fits(window: Window, tmp_path: Path) -> None:
    with made(tmp_path) as farm:
        job = farm.do(hostile_farm.fill)
        with served(farm, reconciled=False) as at:
            window.move(at)
            for path in hostile_farm.pages(job):
                window.go(path)
                assert window.complaints() == [], path
                assert window.requests() == [], path
                for width in (390, 1280):
                    window.size(width)
                    assert window.ask(TOO_WIDE) == [], f"{path} at {width} px"


def test_a_report_is_read_as_it_is_and_one_with_ill_will_does_nothing(shown: Shown) -> None:
    window = shown.window
    shown.farm.blobs.folder.mkdir()
    record = sample_record.full()
    evil = """<!doctype html><title>evil</title><script>document.title = 'ran'; fetch('/logout')</script>
        <img src=x onerror="document.title = 'ran'"><form action=/logout><button>press me</button></form>"""
    kept = []
    for page in (render(record, sample_record.samples(record)), evil):
        kept.append(hashlib.sha256(page.encode()).hexdigest())
        shown.farm.blobs.put([page.encode()], kept[-1])
    window.go(f"/builds/{kept[0]}")
    assert window.complaints() == []
    assert window.ask("getComputedStyle(document.querySelector('section')).borderRadius") == "8px", "it has its style"
    window.go(f"/builds/{kept[1]}")
    assert window.ask("document.title") == "evil"
    assert window.ask("origin") == "null"


class _Elsewhere(BaseHTTPRequestHandler):
    """A page of somebody else on this machine: the same site to a browser, as ports don't count, but another origin."""

    page = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class calls it
        del format, args


def test_a_page_from_elsewhere_changes_nothing_and_frames_nothing(shown: Shown) -> None:
    window = shown.window
    shown.sign_in(Scope.ADMIN)
    csrf = window.ask("document.querySelector('[name=csrf]').value")
    form = f'<form method="post" action="{window.at}/devices/pi-7/drain"><input name="csrf" value="{csrf}"></form>'
    _Elsewhere.page = f'<!doctype html><iframe src="{window.at}/"></iframe>{form}'.encode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        window.browser.events.clear()
        window.browser.call("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/")
        window.browser.wait_for("Page.loadEventFired")
        assert any("frame-ancestors" in said or "refused" in said.lower() for said in window.complaints())
        window.ask("document.querySelector('form').submit()")
        window.wait("document.title.startsWith('403')")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "another page" in window.ask("document.body.textContent")
    assert not shown.farm.look(lambda db: shelf.get(db, "pi-7")).draining
