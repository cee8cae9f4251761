"""Who looks at the page, under which name it may be asked for, and which requests may change something."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, HTTPException, Request

from edgebuild.farm import tokens
from edgebuild.farm.authority import ALWAYS
from edgebuild.farm.server.guard import host_of, is_loopback
from edgebuild.farm.server.identity import OfFarm, Strikes
from edgebuild.farm.tokens import Identity, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastapi import Response

LOOPBACK = frozenset(ALWAYS)
#: A session ends with its token, and after this long.
SESSION_S = 12 * 3600.0
MOST_SESSIONS = 1000
MOST_FORM_BYTES = 8192
MOST_FIELDS = 16


@dataclass(frozen=True, kw_only=True)
class Access:
    """``public``: whoever reaches the server may look, without a token. ``names``: what browsers may call it."""

    public: bool = True
    names: frozenset[str] = LOOPBACK

    def knows(self, host: str) -> bool:
        """Whether a ``Host`` header names this server. Another's name that leads here is an attack on the reader."""
        return host_of(host) in self.names


def access_at(address: str, *, names: Iterable[str] = (), public: bool | None = None) -> Access:
    """Return the access of a server that listens at ``address`` and is known as ``names`` too.

    ``public``: default: only where nobody but this machine's users reaches it.
    """
    known = LOOPBACK | {name.lower() for name in (address, *names)}
    return Access(public=is_loopback(address) if public is None else public, names=known)


@dataclass(frozen=True, kw_only=True)
class Session:
    """Somebody who showed a token; ``csrf`` is what only this server's own forms know."""

    token: str
    csrf: str
    until: float


class Sessions:
    """Who is signed in, in this process; keys are kept as digests. Safe between threads."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def open(self, token: str, now: float) -> str:
        """Return the key of a new session; the oldest one ends where there are too many."""
        key = secrets.token_urlsafe(32)
        session = Session(token=token, csrf=secrets.token_urlsafe(32), until=now + SESSION_S)
        with self._lock:
            while len(self._open) >= MOST_SESSIONS:
                del self._open[next(iter(self._open))]
            self._open[_digest(key)] = session
        return key

    def find(self, key: str, now: float) -> Session | None:
        """Return the session of a key, while it lasts."""
        with self._lock:
            found = self._open.get(_digest(key))
        return found if found is not None and found.until > now else None

    def close(self, key: str) -> None:
        """End a session; twice is fine."""
        with self._lock:
            self._open.pop(_digest(key), None)


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Who looks; nobody known where ``who`` is ``None``."""

    who: Identity | None = None
    csrf: str = ""

    def may(self, scope: Scope) -> bool:
        """Whether this visitor's token allows ``scope``."""
        return self.who is not None and self.who.may(scope)

    def may_end(self, owner: str) -> bool:
        """Whether this visitor may end what is ``owner``'s."""
        return self.may(Scope.ADMIN) or (self.who is not None and self.may(Scope.RUN) and self.who.name == owner)


class SignInFirst(Exception):
    """Nothing is shown without a session here."""


def cookie_name(request: Request) -> str:
    """Return the cookie's name; under TLS one that neither another host nor plain HTTP can set."""
    return "__Host-edgebuild-farm" if request.url.scheme == "https" else "edgebuild-farm"


def set_cookie(request: Request, response: Response, key: str) -> None:
    """Let a browser keep a session's key until it is closed."""
    secure = request.url.scheme == "https"
    response.set_cookie(cookie_name(request), key, path="/", httponly=True, samesite="strict", secure=secure)


def identified(request: Request, farm: OfFarm) -> Visitor:
    """Return who looks, known or not. A token that expired or was revoked ends its sessions."""
    key = request.cookies.get(cookie_name(request), "")
    sessions: Sessions = request.app.state.sessions
    session = sessions.find(key, farm.now) if key else None
    if session is None:
        return Visitor()
    who = farm.look(lambda db: tokens.standing(db, session.token, farm.now))
    if who is None:
        sessions.close(key)
        return Visitor()
    return Visitor(who=who, csrf=session.csrf)


def reader(request: Request, visitor: Annotated[Visitor, Depends(identified)]) -> Visitor:
    """Return who looks, where that is allowed; raises ``SignInFirst`` where it takes a token."""
    access: Access = request.app.state.access
    if not access.public and not visitor.may(Scope.READ):
        raise SignInFirst
    return visitor


def require_own_page(request: Request) -> None:
    """Answer 403 to a request that wasn't sent by a page of this server."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    _, _, host = (origin or "").partition("://")
    own = host == request.headers.get("host") if origin is not None else site is not None
    if not own or site not in {None, "same-origin"}:
        raise HTTPException(403, "That was sent from another page than this farm's.")


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; answers 413, 415 or 400 to what isn't one of ours."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "That is no form of this page.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_FORM_BYTES:
            raise HTTPException(413, "That is more than a form of this page holds.")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError as error:
        raise HTTPException(400, "That is no form of this page.") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise HTTPException(400, "A field of the form was sent twice.")
    return fields


Form = Annotated[dict[str, str], Depends(read_form)]
OwnPage = Depends(require_own_page)
Visit = Annotated[Visitor, Depends(reader)]
AnyVisit = Annotated[Visitor, Depends(identified)]


def changing(scope: Scope) -> Callable[[Visitor, dict[str, str]], Identity]:
    """Return what lets a form change something: of a session whose token allows ``scope``, from our own page."""

    def allowed(visitor: AnyVisit, form: Form) -> Identity:
        if visitor.who is None:
            raise HTTPException(403, "Sign in to change something.")
        if not hmac.compare_digest(form.get("csrf", "").encode(), visitor.csrf.encode()):
            raise HTTPException(403, "The form is of an older session: open the page again.")
        if not visitor.who.may(scope):
            raise HTTPException(403, f"The token {visitor.who.name} ({visitor.who.scope}) doesn't allow that.")
        return visitor.who

    return allowed


def sign_in(request: Request, farm: OfFarm, token: str) -> str:
    """Return the key of a new session for a right token; answers 401 to others, and 429 after too many."""
    strikes: Strikes = request.app.state.strikes
    address = request.client.host if request.client is not None else "?"
    if strikes.barred(address, farm.now):
        raise HTTPException(429, "Too many wrong tokens: wait a minute.", {"Retry-After": "60"})
    who = farm.look(lambda db: tokens.identify(db, token, farm.now))
    if who is None:
        strikes.count(address, farm.now)
        raise HTTPException(401, "That token isn't right, or not any more.")
    sessions: Sessions = request.app.state.sessions
    return sessions.open(who.id, farm.now)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
