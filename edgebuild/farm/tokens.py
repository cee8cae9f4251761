"""Who is who: tokens that are shown once, kept as digests, expire, and can be revoked. Parts of transactions."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import insert, select, update

from edgebuild.errors import UsageError
from edgebuild.farm import rows
from edgebuild.farm.schema import tokens

if TYPE_CHECKING:
    from sqlalchemy import Connection

DAY_S = 86_400.0
_PREFIX = "ebf"


class Scope(StrEnum):
    """What a token allows: to look; to use devices too; everything; or to bring devices and do the farm's jobs."""

    READ = "read"
    RUN = "run"
    ADMIN = "admin"
    HOST = "host"


#: Which scopes are enough where one is asked for.
_ENOUGH = {
    Scope.READ: {Scope.READ, Scope.RUN, Scope.ADMIN, Scope.HOST},
    Scope.RUN: {Scope.RUN, Scope.ADMIN},
    Scope.ADMIN: {Scope.ADMIN},
    Scope.HOST: {Scope.HOST},
}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whom a token belongs to."""

    id: str
    name: str
    scope: Scope

    def may(self, scope: Scope) -> bool:
        """Whether this is enough for what asks for ``scope``."""
        return self.scope in _ENOUGH[scope]


def make(db: Connection, name: str, scope: Scope, now: float, *, days: float) -> str:
    """Return a new token, which is kept nowhere. Raises ``UsageError`` for a name that is in use."""
    if db.execute(select(tokens.c.id).where(tokens.c.name == name)).first() is not None:
        raise UsageError(f"There is a token {name!r} already.", hint="Take another name: the audit tells them apart.")
    number, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    row = {"id": number, "name": name, "digest": _digest(secret), "scope": scope, "made_at": now}
    db.execute(insert(tokens).values(**row, expires_at=now + days * DAY_S))
    return f"{_PREFIX}_{number}_{secret}"


def identify(db: Connection, token: str, now: float) -> Identity | None:
    """Return whose token it is; ``None`` for one that is unknown, expired or revoked."""
    prefix, _, rest = token.partition("_")
    number, _, secret = rest.partition("_")
    row = rows.find(db, tokens.c.id, number) if prefix == _PREFIX else None
    # The comparison takes as long for a token that isn't there as for one that is.
    right = hmac.compare_digest(row.digest if row is not None else _digest(""), _digest(secret))
    if row is None or not right or row.expires_at <= now or row.revoked_at is not None:
        return None
    return Identity(id=row.id, name=row.name, scope=Scope(row.scope))


def standing(db: Connection, number: str, now: float) -> Identity | None:
    """Return whose token has this id, for one who proved it before; ``None`` once it expired or was revoked."""
    row = db.execute(select(tokens).where(tokens.c.id == number)).one_or_none()
    if row is None or row.expires_at <= now or row.revoked_at is not None:
        return None
    return Identity(id=row.id, name=row.name, scope=Scope(row.scope))


def renew(db: Connection, name: str, scope: Scope, now: float, *, days: float) -> str:
    """Return a new secret for the token of this name, which is made where there is none; the old secret is over.

    A token that was revoked stays so.
    """
    row = db.execute(select(tokens.c.id, tokens.c.scope).where(tokens.c.name == name)).one_or_none()
    if row is None:
        return make(db, name, scope, now, days=days)
    if row.scope != scope:
        raise UsageError(f"The token {name!r} is of the scope {row.scope}, not {scope}.")
    secret = secrets.token_urlsafe(32)
    fresh = {"digest": _digest(secret), "expires_at": now + days * DAY_S}
    db.execute(update(tokens).where(tokens.c.id == row.id).values(**fresh))
    return f"{_PREFIX}_{row.id}_{secret}"


def prolong(db: Connection, name: str, now: float, *, days: float) -> None:
    """Let a token last at least so long from now."""
    until = now + days * DAY_S
    db.execute(update(tokens).where(tokens.c.name == name, tokens.c.expires_at < until).values(expires_at=until))


def revoke(db: Connection, name: str, now: float) -> None:
    """End a token; twice is fine. Raises ``UsageError`` where there is none of this name."""
    if not db.execute(update(tokens).where(tokens.c.name == name).values(revoked_at=now)).rowcount:
        raise UsageError(f"There is no token {name!r}.", hint="`edgebuild farm token list` shows them.")


def find(db: Connection) -> list[dict[str, object]]:
    """Return every token without what would prove it."""
    shown = select(
        tokens.c.id, tokens.c.name, tokens.c.scope, tokens.c.made_at, tokens.c.expires_at, tokens.c.revoked_at
    )
    return [dict(row._mapping) for row in db.execute(shown.order_by(tokens.c.made_at))]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
