"""A stub at the transport boundary: a device whose programs say what a test wants, and whose files are a test's.

Everything above it (client, schemas, steps, sessions) is the real thing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.core.capabilities import BOARD
from edgebuild.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class StubChannel:
    """A program that says its lines when it got its request, and ends."""

    def __init__(self, device: StubDevice) -> None:
        self._device = device
        self._lines: list[str] = []

    def send(self, line: str) -> None:
        """See ``Channel``; a knock is an empty line."""
        if line.startswith("{"):
            self._lines = self._device.lines(json.loads(line))
        elif line == "burst":
            self._lines.append(json.dumps({"event": "burst", "done": 1}))
        elif line == "end":
            self._lines.append(json.dumps({"result": self._device.answers["bursts"]}))

    def receive(self, timeout_s: float) -> str | None:
        """See ``Channel``."""
        del timeout_s
        return self._lines.pop(0) if self._lines else None

    def wait(self, timeout_s: float) -> int:
        """See ``Channel``."""
        del timeout_s
        return 0

    def kill(self) -> None:
        """See ``Channel``."""

    def stderr_tail(self) -> str:
        """See ``Channel``."""
        return ""


class StubDevice:
    """Answers operations with ``answers``, whatever was asked; files come out of ``files`` by their names."""

    capabilities = BOARD
    detached = True
    on_host = False
    root = "/stub"
    python = "python3"

    def __init__(self, answers: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> None:
        self.id = "stub"
        self.answers = dict(answers)
        self.files = dict(files or {})
        self.raw: list[str] | None = None

    def lines(self, request: Mapping[str, Any]) -> list[str]:
        """Return what the program says of a request."""
        if self.raw is not None:
            return list(self.raw)
        ready = {"event": "ready", "available_bytes": 1 << 30}
        return [json.dumps(ready if request["op"] == "bursts" else {"result": self.answers[request["op"]]})]

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> Any:
        """See ``Device``."""
        del argv, env
        return StubChannel(self)

    def put(self, source: Path, name: str) -> str:
        """See ``Device``."""
        if name.startswith("runner/"):
            self.files[Path(name).name] = source.read_bytes()
        return f"{self.root}/{name}"

    def get(self, remote: str, destination: Path, *, most_bytes: int = 1 << 30) -> None:
        """See ``Device``."""
        name = Path(remote).name
        if name not in self.files or len(self.files[name]) > most_bytes:
            raise DeviceError(f"stub: can't fetch {remote}.")
        destination.write_bytes(self.files[name])

    def remove(self, remote: str) -> None:
        """See ``Device``."""

    def close(self) -> None:
        """See ``Device``."""
