"""`farm init | serve | join | token`: what is done on the machine that it is about."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING

from edgebuild.cli.answering import Answer, plain_data
from edgebuild.cli.output import make_console, say, say_json
from edgebuild.core.values import Value
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgebuild.farm.database import Database
    from edgebuild.farm.home import Home

#: An admin's token is for setting a farm up; those who stay make themselves others.
ADMIN_DAYS = 90.0


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Say what is missing where the farm's extra isn't installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edgebuild"):
            raise
        raise EnvironmentGap(
            f"The farm needs {error.name}, which isn't installed.", hint="pip install 'edgebuild[farm]' brings it."
        ) from error


class FarmMade(Value):
    """Where a farm is, its authority's certificate, and its first token, which is kept nowhere."""

    folder: str
    authority: str
    token: str


class FarmServed(Value):
    """Where a farm is served, its authority's certificate, and its page."""

    url: str
    authority: str
    page: str


class TokenMade(Value):
    """A new token, which is kept nowhere; times are seconds of the server's clock."""

    name: str
    scope: str
    expires_at: float
    token: str


class TokenRevoked(Value):
    """A token that is over; times are seconds of the server's clock."""

    name: str
    revoked_at: float


class Token(Value):
    """A token, without what would prove it; times are seconds of the server's clock."""

    id: str
    name: str
    scope: str
    made_at: float
    expires_at: float
    revoked_at: float | None


def make_farm(database: str, names: tuple[str, ...]) -> Answer:
    """Make a farm; people are told what to do next."""
    with installed():
        from edgebuild.farm import home as homes
        from edgebuild.farm import tokens
        from edgebuild.farm.tokens import Scope

    made: list[str] = []

    def prepare(home: Home) -> None:
        with contextlib.closing(home.database()) as opened:
            opened.upgrade()
            with opened.write() as db:
                taken = {str(each["name"]) for each in tokens.find(db)}
                name = next(each for each in _admins() if each not in taken)
                made.append(tokens.make(db, name, Scope.ADMIN, opened.clock.now(), days=ADMIN_DAYS))

    home = homes.make_home(database=database, names=names or (socket.gethostname(),), prepare=prepare)
    value = FarmMade(folder=str(home.folder), authority=str(home.authority), token=made[0])
    return Answer(value=value, text=lambda: _show_made(value))


def _show_made(farm: FarmMade) -> None:
    say(f"The farm is in {farm.folder}. This token allows everything for {ADMIN_DAYS:g} days, and isn't shown again:\n")
    say(f"  {farm.token}\n")
    say("Next:")
    say(
        "  edgebuild farm serve                               serves it to this machine (--listen 0.0.0.0:8443: to all)"
    )
    say("  edgebuild farm token make NAME --scope run         makes a token for somebody who uses its devices")
    say(f"  export EDGEBUILD_FARM_CA={farm.authority}")
    say("  export EDGEBUILD_FARM=https://localhost:8443 EDGEBUILD_FARM_TOKEN=…   and then: edgebuild farm list")


def _admins() -> Iterator[str]:
    yield "admin"
    yield from (f"admin-{number}" for number in range(2, 1_000_000))


def serve_farm(listen: str | None, *, devices: bool, native: bool, as_json: bool) -> None:
    """Serve the farm of this machine until it is told to end."""
    with installed():
        from edgebuild.farm.home import load_home
        from edgebuild.farm.server.process import serve

    def began(url: str, home: Home) -> None:
        if as_json:
            value = FarmServed(url=url, authority=str(home.authority), page=f"{url}/")
            say_json(plain_data(value), line=True)
        else:
            say(f"The farm is at {url}\n  its page       {url}/\n  its authority  {home.authority}\nCtrl-C ends it.")
        sys.stdout.flush()

    serve(load_home(), listen=listen, devices=devices, native=native, began=began)


def join_farm(url: str, name: str | None, *, native: bool) -> None:
    """Lend this machine's devices to a farm until Ctrl-C."""
    with installed():
        from edgebuild.farm import endpoint
        from edgebuild.farm.host import agent
        from edgebuild.farm.server import logs

    logs.configure()
    agent.run(endpoint.address_of(url), name or endpoint.this_host(), native_libraries=native)


@contextlib.contextmanager
def _database() -> Iterator[Database]:
    with installed():
        from edgebuild.farm.home import load_home
    with contextlib.closing(load_home().database()) as database:
        database.upgrade()
        yield database


def make_token(name: str, scope: str, days: float) -> Answer:
    """Return a new token; told alone on its line: scripts take it from there."""
    with _database() as database:
        from edgebuild.farm import audit, tokens
        from edgebuild.farm.tokens import Scope

        now = database.clock.now()
        with database.write() as db:
            token = tokens.make(db, name, Scope(scope), now, days=days)
            audit.note(db, "the server's machine", "token", name, now, scope=scope, days=days)

    def told() -> None:
        say(token)
        say(f"It is good for {days:g} days and isn't shown again.", error=True)

    value = TokenMade(name=name, scope=scope, expires_at=now + days * tokens.DAY_S, token=token)
    return Answer(value=value, text=told)


def find_tokens() -> Answer:
    """Return the tokens."""
    with _database() as database, database.read() as db:
        from edgebuild.farm import tokens

        found = tuple(Token.model_validate(each) for each in tokens.find(db))
        now = database.clock.now()
    return Answer(value=found, text=lambda: _show_tokens(found, now))


def _show_tokens(found: Sequence[Token], now: float) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Token", "Scope", "State", box=None, pad_edge=False)
    for each in found:
        table.add_row(*map(Text, (each.name, each.scope, _standing(each, now))))
    make_console().print(table)


def _standing(token: Token, now: float) -> str:
    if token.revoked_at is not None:
        return "revoked"
    left_days = (token.expires_at - now) / 86_400
    return f"good for {left_days:.1f} days" if left_days > 0 else "expired"


def revoke_token(name: str) -> Answer:
    """End a token."""
    with _database() as database:
        from edgebuild.farm import audit, tokens

        now = database.clock.now()
        with database.write() as db:
            tokens.revoke(db, name, now)
            audit.note(db, "the server's machine", "revoke", name, now)
    return Answer(value=TokenRevoked(name=name, revoked_at=now), text=lambda: say(f"{name} is no token any more."))
