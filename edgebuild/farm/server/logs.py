"""What the server says of itself: one line of JSON for each event, on standard error. Tokens are never among it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_LOG = logging.getLogger("edgebuild.farm")
#: No text of a line is longer: paths and errors come from anybody.
LONGEST = 2000


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON; a text in it holds no line end and nothing that steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()[:LONGEST]}
        said |= getattr(record, "fields", {})
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)[-LONGEST:]
        return json.dumps(said, default=str)


def configure() -> None:
    """Send every log of this process to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _LOG.setLevel(logging.INFO)


def event(name: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Say that something happened."""
    shown = {key: value[:LONGEST] if isinstance(value, str) else value for key, value in fields.items()}
    _LOG.log(level, name, extra={"fields": shown}, exc_info=error)
