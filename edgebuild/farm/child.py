"""``python -m edgebuild.farm.child``: the host agent of a server's own machine. It ends when its standard input does.

The one line that comes there says where the server is and holds the token: command lines are seen by everybody.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading

from pydantic import ValidationError

from edgebuild.core.values import Value
from edgebuild.errors import EdgebuildError, UsageError
from edgebuild.farm.client import FarmAddress
from edgebuild.farm.server import logs


class Begin(Value):
    """What a server says to its child."""

    url: str
    token: str
    authority: str
    host: str


def main() -> None:
    """Run the agent."""
    logs.configure()
    try:
        _run()
    except EdgebuildError as error:
        logs.event("agent failed", level=logging.ERROR, why=error.message, hint=error.hint)
        sys.exit(error.exit_code)


def _run() -> None:
    agent = importlib.import_module("edgebuild.farm.host.agent")
    try:
        begin = Begin.model_validate_json(sys.stdin.readline())
    except ValidationError as error:
        raise UsageError("Only a farm's server starts this.", hint="`edgebuild farm join` is for people.") from error
    threading.Thread(target=_end_with_server, daemon=True).start()
    agent.run(FarmAddress(url=begin.url, token=begin.token, authority=begin.authority), begin.host)


def _end_with_server() -> None:
    while sys.stdin.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
