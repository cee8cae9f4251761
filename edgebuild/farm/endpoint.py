"""Which farm is meant: an option of the command, else the environment."""

from __future__ import annotations

import os
import re
import socket

from edgebuild.errors import UsageError
from edgebuild.farm.client import FarmAddress

#: A token is no option: command lines are seen by everybody on a machine.
URL, TOKEN, AUTHORITY = "EDGEBUILD_FARM", "EDGEBUILD_FARM_TOKEN", "EDGEBUILD_FARM_CA"


def address_of(url: str | None) -> FarmAddress:
    """Return the farm at ``url``. Default: $EDGEBUILD_FARM. Raises ``UsageError`` without an address or a token."""
    where = url or os.environ.get(URL, "")
    if not where:
        raise UsageError("Which farm?", hint=f"Give --farm https://HOST:PORT, or set {URL}.")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UsageError(f"There is no token for {where}.", hint=f"Set {TOKEN} to one of `edgebuild farm token make`.")
    return FarmAddress(url=where, token=token, authority=os.environ.get(AUTHORITY, ""))


def this_host() -> str:
    """Return what this machine is called in a farm, unless somebody names it otherwise."""
    first = socket.gethostname().partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]", "-", first).lstrip("-_")[:64] or "host"
