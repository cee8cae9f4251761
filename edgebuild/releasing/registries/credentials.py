"""Who somebody is at a registry: from the environment, or from what ``docker login`` wrote. Nothing here is printed."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.core.files import home_folder, read_plain
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

USER, PASSWORD = "EDGEBUILD_REGISTRY_USER", "EDGEBUILD_REGISTRY_PASSWORD"
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class Credentials:
    """A user and a password of one registry."""

    user: str
    password: str = field(repr=False)

    def basic(self) -> str:
        """Return the value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")


def find_credentials(host: str, environment: Mapping[str, str] | None = None) -> Credentials | None:
    """Return the credentials for a registry, None where there are none.

    The environment's go first, whichever registry is asked. Docker's configuration is read as ``docker login`` writes
    it without a credential helper; helpers aren't run. Raises ``UsageError`` for one that can't be read.
    """
    environment = os.environ if environment is None else environment
    user, password = environment.get(USER, ""), environment.get(PASSWORD, "")
    if bool(user) != bool(password):
        raise UsageError(f"Only one of {USER} and {PASSWORD} is set.", hint="Set both, or none of them.")
    if user:
        return Credentials(user, password)
    folder = environment.get("DOCKER_CONFIG")
    return _from_docker((Path(folder) if folder else home_folder() / ".docker") / "config.json", host)


def _from_docker(path: Path, host: str) -> Credentials | None:
    try:
        data = read_plain(path, _MAX_CONFIG_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from error
    try:
        known = json.loads(data).get("auths") or {}
        names = (host, f"https://{host}", f"https://{host}/")
        return next((found for name in names if name in known and (found := _parsed(known[name]))), None)
    except (ValueError, AttributeError, TypeError, RecursionError):
        # Without the parser's words, also as a cause: they would quote the file.
        raise UsageError(
            f"{path} is no configuration of Docker's.", hint=f"Log in again, or set {USER} and {PASSWORD}."
        ) from None


def _parsed(entry: dict[str, Any]) -> Credentials | None:
    if encoded := entry.get("auth"):
        user, colon, password = base64.b64decode(encoded, validate=True).decode().rstrip("\0").partition(":")
        if not colon:
            raise ValueError("no user and password")
        return Credentials(user, password)
    if entry.get("username") and entry.get("password"):
        return Credentials(str(entry["username"]), str(entry["password"]))
    return None
