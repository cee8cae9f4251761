"""Where a machine answers SSH, as people write it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgebuild.errors import UsageError

DEFAULT_PORT = 22
_FORM = re.compile(
    r"(?P<user>[A-Za-z0-9_.][A-Za-z0-9_.-]*)@"
    r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(:(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, kw_only=True)
class SshAddress:
    """A user on a host. ``str()`` gives the text that ``parse`` reads."""

    user: str
    host: str
    port: int = DEFAULT_PORT

    @classmethod
    def parse(cls, text: str) -> SshAddress:
        """Read ``user@host``, ``user@host:port`` or ``user@[IPv6]:port``; raises ``UsageError``."""
        found = _FORM.fullmatch(text)
        port = int(found["port"]) if found and found["port"] else DEFAULT_PORT
        if found is None or found["host"].startswith("-") or not 0 < port < 1 << 16:
            # What stands between a colon and the last @ is a password: it is not shown.
            shown = re.sub(r":[^@]*@", ":…@", text)[:200]
            raise UsageError(f"can't read the SSH address {shown!r}", hint="write user@host or user@host:port")
        return cls(user=found["user"], host=found["host"].strip("[]"), port=port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + (f":{self.port}" if self.port != DEFAULT_PORT else "")
