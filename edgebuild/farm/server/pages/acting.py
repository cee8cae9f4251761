"""What the forms of the pages do: signing in and out, and what a token allows besides."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from edgebuild.farm import desk
from edgebuild.farm.server.answers import Id, Name
from edgebuild.farm.server.identity import OfFarm
from edgebuild.farm.server.pages import rendering
from edgebuild.farm.server.pages.access import (
    AnyVisit,
    Form,
    OwnPage,
    Sessions,
    changing,
    cookie_name,
    set_cookie,
    sign_in,
)
from edgebuild.farm.server.pages.pageroute import PageRoute
from edgebuild.farm.tokens import Identity, Scope
from edgebuild.farm.values import Health
from edgebuild.reporting.formatting import clean

router = APIRouter(route_class=PageRoute, include_in_schema=False)

MOST_REASON = 500
#: A path of this server; two slashes would lead to another one.
_PATH = re.compile(r"/(?![/\\])[!-~]*")

Runner = Annotated[Identity, Depends(changing(Scope.RUN))]
Admin = Annotated[Identity, Depends(changing(Scope.ADMIN))]
#: What a health button sets a device to.
_HEALTH = {"maintenance": Health.MAINTENANCE, "retire": Health.RETIRED, "put-back": Health.UNKNOWN}


@router.get("/login")
def login_page(
    request: Request, visitor: AnyVisit, to: Annotated[str, Query(alias="next", max_length=2000)] = "/"
) -> HTMLResponse:
    """Ask for a token."""
    return rendering.page(request, "login.html", visitor, to=_own_path(to), wrong="")


@router.post("/login", dependencies=[OwnPage])
def login(request: Request, farm: OfFarm, visitor: AnyVisit, form: Form) -> Response:
    """Open a session for a right token."""
    to = _own_path(form.get("next", "/"))
    try:
        key = sign_in(request, farm, form.get("token", "").strip())
    except HTTPException as error:
        page = rendering.page(request, "login.html", visitor, status=error.status_code, to=to, wrong=str(error.detail))
        page.headers.update(error.headers or {})
        return page
    _sessions(request).close(request.cookies.get(cookie_name(request), ""))
    answer = RedirectResponse(to, 303)
    set_cookie(request, answer, key)
    return answer


@router.post("/logout", dependencies=[OwnPage])
def logout(request: Request, who: Annotated[Identity, Depends(changing(Scope.READ))]) -> RedirectResponse:
    """End the session."""
    del who
    _sessions(request).close(request.cookies.get(cookie_name(request), ""))
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(cookie_name(request), path="/", secure=request.url.scheme == "https", httponly=True)
    return answer


@router.post("/jobs/{job}/cancel", dependencies=[OwnPage])
def cancel(farm: OfFarm, who: Runner, job: Id) -> RedirectResponse:
    """Cancel a job."""
    farm.do(lambda db, now: desk.cancel(db, who, job, now))
    return RedirectResponse(f"/jobs/{job}", 303)


@router.post("/leases/{lease}/release", dependencies=[OwnPage])
def release(farm: OfFarm, who: Runner, lease: Id) -> RedirectResponse:
    """Give a lease back."""
    farm.do(lambda db, now: desk.release(db, who, lease, now))
    return RedirectResponse("/queue", 303)


@router.post("/devices/{name}/drain", dependencies=[OwnPage])
def drain(farm: OfFarm, who: Admin, name: Name) -> RedirectResponse:
    """Let a device take no more work."""
    farm.do(lambda db, now: desk.drain(db, who, name, True, now))
    return RedirectResponse(f"/devices/{name}", 303)


@router.post("/devices/{name}/undrain", dependencies=[OwnPage])
def undrain(farm: OfFarm, who: Admin, name: Name) -> RedirectResponse:
    """Let a device take work again."""
    farm.do(lambda db, now: desk.drain(db, who, name, False, now))
    return RedirectResponse(f"/devices/{name}", 303)


@router.post("/devices/{name}/{button}", dependencies=[OwnPage])
def set_health(farm: OfFarm, who: Admin, name: Name, button: str, form: Form) -> RedirectResponse:
    """Put a device into maintenance, retire it, or put it back."""
    reason = clean(form.get("reason", "")).strip()
    if button not in _HEALTH or len(reason) > MOST_REASON:
        raise HTTPException(404 if button not in _HEALTH else 422, "That is nothing that this page does.")
    farm.do(lambda db, now: desk.set_health(db, who, name, _HEALTH[button], reason, now))
    return RedirectResponse(f"/devices/{name}", 303)


def _own_path(path: str) -> str:
    return path if _PATH.fullmatch(path) else "/"


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions
