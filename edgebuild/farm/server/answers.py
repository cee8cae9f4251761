"""What the API says when something is wrong: the same shape for everything, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path
from fastapi.responses import JSONResponse
from starlette.routing import Match

from edgebuild.errors import DataError, EdgebuildError, StoreError, UsageError
from edgebuild.farm.exact import cleaned
from edgebuild.farm.values import NAMED, Problem

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

Id = Annotated[str, Path(pattern=r"^[a-z][0-9a-f]{15}$")]
Name = Annotated[str, Path(pattern=NAMED)]
#: No message is longer, whatever of a request it repeats.
LONGEST = 4000

#: What every route may answer beside what it is for.
Problems: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 408, 409, 413, 422, 429, 503)
}


def explain_errors(app: FastAPI) -> None:
    """Let every error leave as a ``Problem``."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    app.add_exception_handler(EdgebuildError, _edgebuild)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]


def _edgebuild(request: Request, error: EdgebuildError) -> JSONResponse:
    del request
    return answer_to(error)


def status_of(error: EdgebuildError) -> int:
    """Return what an error is over HTTP."""
    if isinstance(error, StoreError | DataError):
        return 503 if isinstance(error, StoreError) else 422
    if error.message.startswith("There is no "):
        return 404
    return 409 if isinstance(error, UsageError) else 422


def answer_to(error: EdgebuildError) -> JSONResponse:
    """Return an error as an answer."""
    return answer_with(status_of(error), error.message, error.hint)


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    del request
    problems = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:20]]
    return answer_with(422, "; ".join(problems), "The schema is at /openapi.json.")


def _http(request: Request, error: HTTPException) -> JSONResponse:
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer_with(error.status_code, str(error.detail), "", headers)


def _methods(request: Request) -> set[str]:
    """Return every method of a path: routes of one path are one for each, and each knows only its own."""
    allowed = set()
    for method in ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            allowed.add(method)
    return allowed


def answer_with(status: int, message: str, hint: str, headers: Any = None) -> JSONResponse:
    """Return a ``Problem`` as an answer."""
    problem = Problem(message=cleaned(message)[:LONGEST], hint=cleaned(hint)[:LONGEST])
    return JSONResponse(problem.model_dump(), status, headers)
