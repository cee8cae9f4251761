"""What every page has in common: the names it answers to, its headers, and errors that people can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi.routing import APIRoute

from edgebuild.errors import EdgebuildError
from edgebuild.farm.server import answers
from edgebuild.farm.server.pages import rendering
from edgebuild.farm.server.pages.access import Access, SignInFirst, Visitor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Forms of a page without any referrer would say nothing of their origin either.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageRoute(APIRoute):
    """A route whose answers are pages, the errors too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            response = await _answer(inner, request)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return handle


async def _answer(inner: Callable[[Request], Coroutine[Any, Any, Response]], request: Request) -> Response:
    access: Access = request.app.state.access
    if not access.knows(request.headers.get("host", "")):
        return PlainTextResponse("This server isn't known under that name.", 421)
    try:
        return await inner(request)
    except SignInFirst:
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(asked, safe='')}", 303)
    except RequestValidationError:
        return _problem(request, 404, "There is no such page.", "")
    except HTTPException as error:
        return _problem(request, error.status_code, str(error.detail), "", error.headers)
    except EdgebuildError as error:
        return _problem(request, answers.status_of(error), error.message, error.hint)


def _problem(request: Request, status: int, message: str, hint: str, headers: Any = None) -> Response:
    page = rendering.page(request, "problem.html", Visitor(), status=status, message=message, hint=hint)
    page.headers.update(headers or {})
    return page
