"""`farm init | serve | join | token`: what is done on the machine that it is about."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

from edgebuild.cli.output import make_console, say
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def make_farm(database: str, names: tuple[str, ...], *, as_json: bool) -> None:
    """Make a farm and say what to do next."""
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
    if as_json:
        say(json.dumps({"folder": str(home.folder), "authority": str(home.authority), "token": made[0]}))
        return
    say(f"The farm is in {home.folder}. This token allows everything for {ADMIN_DAYS:g} days, and isn't shown again:\n")
    say(f"  {made[0]}\n")
    say("Next:")
    say(
        "  edgebuild farm serve                               serves it to this machine (--listen 0.0.0.0:8443: to all)"
    )
    say("  edgebuild farm token make NAME --scope run         makes a token for somebody who uses its devices")
    say(f"  export EDGEBUILD_FARM_CA={home.authority}")
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
            say(json.dumps({"url": url, "authority": str(home.authority), "page": f"{url}/"}))
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


def make_token(name: str, scope: str, days: float, *, as_json: bool) -> None:
    """Print a new token, alone on its line: scripts take it from there."""
    with _database() as database:
        from edgebuild.farm import audit, tokens
        from edgebuild.farm.tokens import Scope

        now = database.clock.now()
        with database.write() as db:
            token = tokens.make(db, name, Scope(scope), now, days=days)
            audit.note(db, "the server's machine", "token", name, now, scope=scope, days=days)
    if as_json:
        expires_at = now + days * tokens.DAY_S
        say(json.dumps({"name": name, "scope": scope, "expires_at": expires_at, "token": token}))
        return
    say(token)
    say(f"It is good for {days:g} days and isn't shown again.", error=True)


def show_tokens(*, as_json: bool) -> None:
    """Print the tokens."""
    with _database() as database, database.read() as db:
        from edgebuild.farm import tokens

        found, now = tokens.find(db), database.clock.now()
    if as_json:
        say(json.dumps(found))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("Token", "Scope", "State", box=None, pad_edge=False)
    for each in found:
        table.add_row(*map(Text, (str(each["name"]), str(each["scope"]), _standing(each, now))))
    make_console().print(table)


def _standing(token: dict[str, Any], now: float) -> str:
    if token["revoked_at"] is not None:
        return "revoked"
    left_days = (token["expires_at"] - now) / 86_400
    return f"good for {left_days:.1f} days" if left_days > 0 else "expired"


def revoke_token(name: str, *, as_json: bool) -> None:
    """End a token."""
    with _database() as database:
        from edgebuild.farm import audit, tokens

        now = database.clock.now()
        with database.write() as db:
            tokens.revoke(db, name, now)
            audit.note(db, "the server's machine", "revoke", name, now)
    say(json.dumps({"name": name, "revoked_at": now}) if as_json else f"{name} is no token any more.")
