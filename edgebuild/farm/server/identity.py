"""Who asks: the token of a request, and how often one may be wrong."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from edgebuild.farm import tokens
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.guard import Pace, is_loopback
from edgebuild.farm.server.observing import WHO
from edgebuild.farm.tokens import Identity, Scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: So many requests a minute without a right token, from one address, and it has to wait.
MOST_WRONG = 30
WINDOW_S = 60.0
MOST_ADDRESSES = 10_000


class Strikes:
    """Counts what was wrong in the last minute, by address."""

    def __init__(self) -> None:
        self._wrong: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def barred(self, address: str, now: float) -> bool:
        """Whether an address has to wait."""
        with self._lock:
            recent = [at for at in self._wrong.get(address, ()) if at > now - WINDOW_S]
            return len(recent) >= MOST_WRONG

    def count(self, address: str, now: float) -> None:
        """Count one more."""
        with self._lock:
            if len(self._wrong) >= MOST_ADDRESSES:
                self._wrong.clear()
            recent = [at for at in self._wrong.get(address, ()) if at > now - WINDOW_S]
            self._wrong[address] = [*recent[-MOST_WRONG:], now]


async def farm_of(request: Request) -> Farm:
    """Return the farm that a request asks. Like all that waits for nothing, it takes no thread of its own."""
    farm: Farm = request.app.state.farm
    return farm


_bearer = HTTPBearer(auto_error=False, description="A token of `edgebuild farm token make`.")


def identify(
    request: Request,
    farm: Annotated[Farm, Depends(farm_of)],
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Identity:
    """Return whose token a request carries; answers 401 without a right one, 429 after too many wrong ones."""
    return whose(request, farm, None if given is None else given.credentials)


def whose(asks: HTTPConnection, farm: Farm, token: str | None) -> Identity:
    """Return whose token it is (see ``identify``)."""
    who = None if token is None else farm.look(lambda db: tokens.identify(db, token, farm.now))
    if who is None:
        _strike(asks, farm)
        raise HTTPException(
            401, "A right token is missing: `edgebuild farm token make` makes one.", {"WWW-Authenticate": "Bearer"}
        )
    asks.scope[WHO] = who.name
    paces: dict[bool, Pace] = asks.app.state.paces
    wait_s = paces[who.scope is Scope.HOST].wait_s(who.id, farm.now)
    if wait_s:
        later = {"Retry-After": str(math.ceil(wait_s))}
        raise HTTPException(429, f"The token {who.name} asks too often: wait {wait_s:.1f} s.", later)
    return who


def make_paces() -> dict[bool, Pace]:
    """Return how often tokens may ask: those of hosts speak for all their devices."""
    return {False: Pace(per_s=100.0, burst=2000.0), True: Pace(per_s=1000.0, burst=10_000.0)}


def _strike(asks: HTTPConnection, farm: Farm) -> None:
    """Count a wrong token; answers 429 where there were too many. Others' wrong ones keep no right one out."""
    strikes: Strikes = asks.app.state.strikes
    address = asks.client.host if asks.client is not None else "?"
    if strikes.barred(address, farm.now):
        raise HTTPException(429, "Too many requests without a right token: wait a minute.", {"Retry-After": "60"})
    strikes.count(address, farm.now)


def scraper(
    request: Request,
    farm: Annotated[Farm, Depends(farm_of)],
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> None:
    """Let in who asks from this machine, or has any token."""
    address = request.client.host if request.client is not None else ""
    if not is_loopback(address):
        identify(request, farm, given)


def require(scope: Scope) -> Callable[[Identity], Awaitable[Identity]]:
    """Return what answers 403 to a token that doesn't allow ``scope``."""

    async def allowed(who: Annotated[Identity, Depends(identify)]) -> Identity:
        if not who.may(scope):
            raise HTTPException(403, f"The token {who.name} ({who.scope}) doesn't allow that: it takes {scope}.")
        return who

    return allowed


OfFarm = Annotated[Farm, Depends(farm_of)]
Reader = Annotated[Identity, Depends(require(Scope.READ))]
Runner = Annotated[Identity, Depends(require(Scope.RUN))]
Admin = Annotated[Identity, Depends(require(Scope.ADMIN))]
Host = Annotated[Identity, Depends(require(Scope.HOST))]
