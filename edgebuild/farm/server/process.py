"""``edgebuild farm serve``: the farm of this machine as one process, with the agent of its own devices beside it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from edgebuild.errors import UsageError
from edgebuild.farm import authority
from edgebuild.farm.endpoint import this_host
from edgebuild.farm.home import parse_listen
from edgebuild.farm.server import logs
from edgebuild.farm.server.app import create_app
from edgebuild.farm.server.embedded import Embedded
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.pages.access import access_at
from edgebuild.farm.server.serving import bind, is_local, make_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.farm.home import Home

#: What listens everywhere is reached from here by these.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


def serve(home: Home, *, listen: str | None, devices: bool, native: bool, began: Callable[[str, Home], None]) -> None:
    """Serve a farm until SIGINT or SIGTERM; ``began`` is told its address once it answers.

    ``devices``: lend those of this machine's inventory; ``native``: also to artifacts that bring native code.
    Raises ``StoreError`` where the database isn't there or another server runs, ``EnvironmentGap`` where the address
    can't be bound.
    """
    try:
        host, port = parse_listen(listen or home.settings.listen)
    except ValueError as error:
        raise UsageError(f"{error}.", hint="Write 127.0.0.1:8443, or 0.0.0.0:8443 for everybody.") from error
    logs.configure()
    with contextlib.ExitStack() as stack:
        stack.enter_context(home.only_server())
        own = () if host in _EVERYWHERE or is_local(host) else (host,)
        names = tuple(dict.fromkeys((*home.settings.names, *own)))
        if authority.renew_server(home.folder, names):
            logs.event("certificate made", names=[*names, *authority.ALWAYS])
        database = stack.enter_context(contextlib.closing(home.database()))
        database.upgrade()
        listening = stack.enter_context(contextlib.closing(bind(host, port)))
        port = listening.getsockname()[1]
        farm = Farm(database, home.blobs, keep_days=home.settings.keep_days)
        access = access_at(host, names=names, public=home.settings.public)
        here = _EVERYWHERE.get(host, host)
        agent = Embedded(farm, _url(here, port), home.folder, this_host(), native=native)

        def answers() -> None:
            if devices:
                stack.enter_context(agent.running())
            shown = here if is_local(here) and host not in _EVERYWHERE else (*home.settings.names, here)[0]
            logs.event("serving", host=host, port=port, database=database.url)
            began(_url(shown, port), home)

        server = make_server(create_app(farm, access), farm, home.folder, answers)
        server.run(sockets=[listening])
    logs.event("ended")


def _url(host: str, port: int) -> str:
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
