"""The server: every route of the farm on one address."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from edgebuild import __version__
from edgebuild.farm.server import answers
from edgebuild.farm.server.guard import Guard
from edgebuild.farm.server.identity import Strikes, make_paces
from edgebuild.farm.server.observing import Observing, make_registry
from edgebuild.farm.server.pages import ROUTERS as PAGES
from edgebuild.farm.server.pages.access import Access, Sessions
from edgebuild.farm.server.routes import files, hosting, leasing, relaying, remembering, shelving, watching, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from edgebuild.farm.server.farm import Farm

ROUTERS = (
    leasing.router,
    working.router,
    shelving.router,
    hosting.router,
    files.router,
    watching.router,
    relaying.router,
    remembering.router,
    watching.probes,
)


def create_app(farm: Farm, access: Access | None = None) -> FastAPI:
    """Return the application of a farm; while it is served, the farm puts its tables right.

    ``access``: whom the pages are for, and which names the server has. Default: whoever reaches this
    machine's own address; the API answers to any name then.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        with contextlib.ExitStack() as stack:
            await run_in_threadpool(stack.enter_context, farm.running())
            yield

    app = FastAPI(title="edgebuild farm", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.farm = farm
    app.state.strikes = Strikes()
    app.state.sessions = Sessions()
    app.state.access = access or Access()
    app.state.relays = relaying.Relays()
    app.state.paces = make_paces()
    app.state.registry, latency = make_registry(farm)
    for router in (*ROUTERS, *PAGES):
        app.include_router(router)
    answers.explain_errors(app)
    # The last one is the outermost.
    app.add_middleware(Guard, names=None if access is None else access.names)
    app.add_middleware(Observing, latency=latency)
    return app
