"""Who may look at the pages, who may change something there, and what is tried against those who do."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from edgebuild.farm import jobs, leases, shelf, tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.server.app import create_app
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.identity import MOST_WRONG
from edgebuild.farm.server.pages import access as accesses
from edgebuild.farm.server.pages.access import Access, Sessions, access_at
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Ask, Health, JobEnd, JobSpec, LeaseState, Shelved
from tests.farm import example_farm
from tests.farm.shelves import PI, fill
from tests.farm.visitors import HERE, Visitor, visitor

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.farm.database import Database

PAGES = (
    "/",
    "/queue",
    "/jobs",
    "/devices/pi-1",
    "/history",
    "/audit",
    "/jobs/j000000000000000/log.txt",
    "/compare?a=m000000000000001&b=m000000000000002",
)
HEALTH = tuple(f"/devices/pi-1/{button}" for button in ("drain", "undrain", "maintenance", "retire", "put-back"))
CHANGES = (*HEALTH, f"/jobs/j{'0' * 15}/cancel", f"/leases/l{'0' * 15}/release")


class House:
    """A farm with a device, and a token of each scope."""

    def __init__(self, farm: Farm) -> None:
        self.farm = farm
        self.app = create_app(farm)
        farm.do(lambda db, now: fill(db, "pi-1", "pi-2", now=now))
        self.tokens = farm.do(example_farm.give_tokens)

    def visit(self, scope: Scope | None = None) -> Visitor:
        visit = visitor(self.app)
        if scope is not None:
            assert visit.sign_in(self.tokens[scope]).status_code == 303
        return visit

    def device(self) -> Shelved:
        return self.farm.look(lambda db: shelf.get(db, "pi-1"))

    def job(self, owner: str) -> str:
        return self.farm.do(lambda db, now: jobs.submit(db, JobSpec(kind="bench", ask=Ask(target=PI)), owner, now)).id


@pytest.fixture
def house(database: Database, tmp_path: Path) -> House:
    return House(Farm(database, Blobs(tmp_path / "blobs")))


def test_every_answer_says_what_a_browser_may_do_with_it(house: House) -> None:
    visit = house.visit()
    for path in (*PAGES, "/login", "/static/farm.js", "/static/farm.css", "/devices/nobodys"):
        headers = visit.get(path).headers
        policy = headers["Content-Security-Policy"].split("; ")
        assert "default-src 'none'" in policy, path
        assert {"frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'", "script-src 'self'"} <= set(policy)
        assert not any("unsafe" in each for each in policy)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
    assert visit.get("/").headers["Cache-Control"] == "no-store"
    assert "immutable" in visit.get("/static/farm.css").headers["Cache-Control"]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:x", "",
                                  "localhost:80:90", "[::1", "[::2]:80", "evil.example:8765"])  # fmt: skip
def test_under_a_strange_name_there_is_nothing(house: House, host: str) -> None:
    for path in ("/", "/login", "/static/farm.js"):
        assert house.visit().get(path, headers={"Host": host}).status_code == 421
    assert house.visit().post("/login", {"token": "x"}, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:8765", "LOCALHOST.", "127.0.0.1:80", "[::1]:8765", "[::1]"])
def test_this_machine_is_known_by_its_own_names(house: House, host: str) -> None:
    assert house.visit().get("/", headers={"Host": host}).status_code == 200


def test_where_it_listens_decides_who_may_look() -> None:
    assert access_at("127.0.0.1") == access_at("::1") == Access()
    team = access_at("192.0.2.7", names=["Farm.example"])
    assert not team.public
    assert team.knows("farm.example:8765")
    assert team.knows("192.0.2.7")
    assert access_at("0.0.0.0", public=True).public  # noqa: S104
    assert not access_at("127.0.0.1", public=False).public
    assert access_at("2001:db8::7").knows("[2001:db8::7]:8765")


def test_without_a_token_one_may_look_and_nothing_else(house: House) -> None:
    visit = house.visit()
    assert visit.get("/devices/pi-1").status_code == 200
    assert "<button>Drain" not in visit.get("/devices/pi-1").text
    for path in CHANGES:
        answer = visit.post(path, {"csrf": ""})
        assert answer.status_code == 403, path
    assert house.device().health is Health.GOOD


def test_where_it_is_not_public_a_token_comes_first(house: House) -> None:
    house.app.state.access = Access(public=False)
    visit = house.visit()
    for path in PAGES:
        answer = visit.get(path)
        assert answer.status_code == 303, path
        assert answer.headers["Location"].startswith("/login?next=%2F")
        assert "pi-1" not in answer.text
    assert visit.get("/login").status_code == 200
    assert visit.sign_in(house.tokens[Scope.READ], next="/queue").headers["Location"] == "/queue"
    assert visit.get("/queue").status_code == 200


@pytest.mark.parametrize("scope", [Scope.READ, Scope.RUN])
def test_devices_are_an_admins(house: House, scope: Scope) -> None:
    visit = house.visit(scope)
    assert "<button>Drain" not in visit.get("/devices/pi-1").text
    for path in HEALTH:
        assert visit.press(path).status_code == 403, path
    assert house.device().health is Health.GOOD


def test_an_admin_drains_keeps_back_retires_and_puts_back(house: House) -> None:
    visit = house.visit(Scope.ADMIN)
    assert visit.press("/devices/pi-1/drain").headers["Location"] == "/devices/pi-1"
    assert house.device().draining
    assert "Take work again" in visit.get("/devices/pi-1").text
    visit.press("/devices/pi-1/undrain")
    assert not house.device().draining
    visit.press("/devices/pi-1/maintenance", reason=" a new\x00 fan ")
    assert (house.device().health, house.device().reason) == (Health.MAINTENANCE, "a new\ufffd fan")
    visit.press("/devices/pi-1/put-back")
    assert house.device().health is Health.UNKNOWN
    visit.press("/devices/pi-1/retire", reason="worn out")
    assert house.device().health is Health.RETIRED
    audited = visit.get("/audit").text
    assert all(word in audited for word in ("root", "drain", "maintenance", "retired", "worn out"))
    assert visit.press("/devices/pi-1/maintenance", reason="x" * 501).status_code == 422
    assert visit.press("/devices/pi-1/explode").status_code == 404
    assert visit.press("/devices/nobodys/drain").status_code == 409


def test_one_ends_ones_own_and_an_admin_anybodys(house: House) -> None:
    mine, theirs = house.job("ada"), house.job("grace")
    ada = house.visit(Scope.RUN)
    assert "Cancel this job" in ada.get(f"/jobs/{mine}").text
    assert "Cancel this job" not in ada.get(f"/jobs/{theirs}").text
    assert ada.press(f"/jobs/{mine}/cancel").headers["Location"] == f"/jobs/{mine}"
    assert ada.press(f"/jobs/{theirs}/cancel").status_code == 409
    ends = house.farm.look(lambda db: [jobs.get(db, job).end for job in (mine, theirs)])
    assert ends == [JobEnd.CANCELLED, None]
    assert house.visit(Scope.ADMIN).press(f"/jobs/{theirs}/cancel").status_code == 303
    assert house.visit(Scope.READ).press(f"/jobs/{theirs}/cancel").status_code == 403


def test_a_lease_is_given_back_by_whose_it_is(house: House) -> None:
    lease = house.farm.do(lambda db, now: leases.ask(db, Ask(target=PI), "ada", now)).id
    assert f"/leases/{lease}/release" in house.visit(Scope.RUN).get("/queue").text
    assert f"/leases/{lease}/release" not in house.visit().get("/queue").text
    assert house.visit(Scope.RUN).press(f"/leases/{lease}/release").status_code == 303
    assert house.farm.look(lambda db: leases.get(db, lease)).state is LeaseState.ENDED


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": HERE, "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost:9999", "Sec-Fetch-Site": "same-site"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {},
    ],
)
def test_a_form_of_another_page_changes_nothing(house: House, headers: dict[str, str]) -> None:
    visit = house.visit(Scope.ADMIN)
    csrf = visit.csrf()
    visit.own = headers
    for path in (*CHANGES, "/logout"):
        assert visit.post(path, {"csrf": csrf}).status_code == 403, path
    assert visit.post("/login", {"token": house.tokens[Scope.ADMIN]}).status_code == 403
    assert house.device().health is Health.GOOD
    assert not house.device().draining
    visit.own = {"Origin": HERE}  # what older browsers send
    assert visit.post("/devices/pi-1/drain", {"csrf": csrf}).status_code == 303


def test_a_form_without_the_sessions_own_secret_changes_nothing(house: House) -> None:
    visit, other = house.visit(Scope.ADMIN), house.visit(Scope.ADMIN)
    for fields in ({"x": "y"}, {"csrf": ""}, {"csrf": "ä"}, {"csrf": other.csrf()}):
        assert visit.post("/devices/pi-1/drain", fields).status_code == 403
    assert not house.device().draining


def test_no_link_changes_anything(house: House) -> None:
    visit = house.visit(Scope.ADMIN)
    for path in (*CHANGES, "/logout"):
        assert visit.get(path, params={"csrf": visit.csrf()}).status_code in {404, 405}, path


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data; boundary=x", b"", 415),
        ("application/x-www-form-urlencoded", b"a" * 9000, 413),
        ("application/x-www-form-urlencoded", b"csrf=%ff", 400),
        ("application/x-www-form-urlencoded", b"csrf=1&csrf=2", 400),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % n for n in range(50)), 400),
        ("application/x-www-form-urlencoded", b"nothing", 400),
    ],
)
def test_what_is_no_form_of_ours_is_refused(house: House, kind: str, body: bytes, status: int) -> None:
    visit = house.visit(Scope.ADMIN)
    headers = {**visit.own, "Content-Type": kind}
    assert visit.client.post("/devices/pi-1/drain", content=body, headers=headers).status_code == status


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(house: House) -> None:
    cookie = house.visit().sign_in(house.tokens[Scope.READ]).headers["Set-Cookie"]
    assert cookie.startswith("edgebuild-farm=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    secure = visitor(house.app, "https://localhost:8765").sign_in(house.tokens[Scope.READ]).headers["Set-Cookie"]
    assert secure.startswith("__Host-edgebuild-farm=")
    assert "Secure" in secure.split("; ")
    assert "Domain" not in secure
    for token in house.tokens.values():
        assert token not in cookie + secure


def test_a_session_ends_with_its_token_its_time_and_its_owner(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    visit, again = house.visit(Scope.ADMIN), house.visit(Scope.ADMIN)
    key = visit.client.cookies["edgebuild-farm"]
    csrf = visit.csrf()
    visit.press("/logout")
    visit.client.cookies.set("edgebuild-farm", key)
    assert visit.post("/devices/pi-1/drain", {"csrf": csrf}).status_code == 403, "signed out, with the old cookie"
    csrf = again.csrf()
    house.farm.do(lambda db, now: tokens.revoke(db, "root", now))
    assert again.post("/devices/pi-1/drain", {"csrf": csrf}).status_code == 403, "revoked"
    short = house.farm.do(lambda db, now: tokens.make(db, "short", Scope.ADMIN, now, days=1e-5))
    soon = visitor(house.app)
    assert soon.sign_in(short).status_code == 303
    real = house.farm.database.clock.now
    monkeypatch.setattr(house.farm.database.clock, "now", lambda: real() + 2.0)
    assert "Sign in" in soon.get("/").text, "expired"
    ada = house.visit(Scope.RUN)
    monkeypatch.setattr(house.farm.database.clock, "now", lambda: real() + accesses.SESSION_S + 5.0)
    assert "Sign in" in ada.get("/").text, "after 12 hours"


def test_signing_in_anew_ends_the_session_before(house: House) -> None:
    visit = house.visit(Scope.ADMIN)
    old = visit.client.cookies["edgebuild-farm"]
    visit.sign_in(house.tokens[Scope.READ])
    sessions: Sessions = house.app.state.sessions
    assert sessions.find(old, house.farm.now) is None
    assert sessions.find(visit.client.cookies["edgebuild-farm"], house.farm.now) is not None


def test_the_oldest_session_ends_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesses, "MOST_SESSIONS", 3)
    sessions = Sessions()
    keys = [sessions.open("t", 0.0) for _ in range(5)]
    assert [sessions.find(key, 1.0) is not None for key in keys] == [False, False, True, True, True]


def test_wrong_tokens_are_told_and_soon_made_to_wait(house: House) -> None:
    visit = house.visit()
    for token in ("", "ebf_x_y", house.tokens[Scope.ADMIN][:-1], "ä" * 50):
        answer = visit.sign_in(token)
        assert answer.status_code == 401
        assert "That token isn&#39;t right" in answer.text
        assert not token or token not in answer.text
    for _ in range(MOST_WRONG):
        visit.sign_in("ebf_x_y")
    barred = visit.sign_in(house.tokens[Scope.ADMIN])
    assert (barred.status_code, barred.headers["Retry-After"]) == (429, "60")


@pytest.mark.parametrize("to", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "",
                                "/a\r\nSet-Cookie: x=y", "/ä"])  # fmt: skip
def test_signing_in_leads_nowhere_else(house: House, to: str) -> None:
    assert house.visit().sign_in(house.tokens[Scope.READ], next=to).headers["Location"] == "/"
    page = house.visit().get("/login", params={"next": to}).text
    assert 'name="next" value="/"' in page


def test_a_builds_report_is_shown_locked_away_and_nothing_else_is_shown_as_one(house: House) -> None:
    def keep(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        house.farm.blobs.put([data], digest)
        return digest

    house.farm.blobs.folder.mkdir()
    answer = house.visit().get(f"/builds/{keep(b'<!doctype html><script>alert(1)</script>')}")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert {"sandbox", "default-src 'none'", "frame-ancestors 'none'", "form-action 'none'"} <= set(policy)
    assert not any(each.startswith(("script-src", "sandbox allow", "connect-src")) for each in policy)
    assert house.visit().get(f"/builds/{keep(b'a model')}").status_code == 404
    assert house.visit().get(f"/builds/{'0' * 64}").status_code == 404
    house.app.state.access = Access(public=False)
    assert house.visit().get(f"/builds/{'0' * 64}").status_code == 303


def test_a_token_that_is_only_in_a_header_signs_nobody_in(house: House) -> None:
    """A page's forms take a session; the API's header isn't one, so that neither can stand in for the other."""
    bearer = {"Authorization": f"Bearer {house.tokens[Scope.ADMIN]}"}
    assert house.visit().post("/devices/pi-1/drain", {"csrf": ""}, headers=bearer).status_code == 403
    visit = house.visit(Scope.ADMIN)
    assert visit.client.get("/api/devices").status_code == 401
