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
from edgebuild.farm.server.routes import files, hosting, leasing, relaying, shelving, watching, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from edgebuild.farm.server.farm import Farm

ROUTERS = (
    leasing.router,
    working.router,
    shelving.router,
    hosting.router,
    files.router,
    watching.router,
    relaying.router,
    watching.probes,
)


def create_app(farm: Farm, names: Iterable[str] | None = None) -> FastAPI:
    """Return the application of a farm; while it is served, the farm puts its tables right.

    ``names``: what clients may call the server, beside this machine's own names. Default: anything.
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
    app.state.relays = relaying.Relays()
    app.state.paces = make_paces()
    app.state.registry, latency = make_registry(farm)
    for router in ROUTERS:
        app.include_router(router)
    answers.explain_errors(app)
    # The last one is the outermost.
    app.add_middleware(Guard, names=names)
    app.add_middleware(Observing, latency=latency)
    return app
