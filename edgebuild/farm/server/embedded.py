"""The host agent of the server's own machine: a process that ends with the server and is started again if it dies."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING

from edgebuild.errors import EdgebuildError
from edgebuild.farm import tokens
from edgebuild.farm.authority import AUTHORITY
from edgebuild.farm.server import logs
from edgebuild.farm.tokens import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgebuild.farm.server.farm import Farm

#: Its token lasts as long as the server says so, and not much longer.
TOKEN_DAYS = 2.0
PROLONG_S = 3600.0
#: The first wait before it is started again, and the longest.
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
#: What lived so long didn't die at once.
WELL_S = 60.0
END_S = 10.0
COMMAND = (sys.executable, "-m", "edgebuild.farm.host.agent")


class Embedded:
    """Keeps one agent running. Its token goes through its standard input, whose end is also what ends it."""

    def __init__(
        self, farm: Farm, url: str, home: Path, host: str, *, native: bool = False, command: Sequence[str] = COMMAND
    ) -> None:
        self._farm = farm
        # What it couldn't tell the farm yet outlives it, also where the farm is at another port by then.
        own = {"authority": str(home / AUTHORITY), "folder": str(home / "agent")}
        self._about = {"url": url, "host": host, "native_libraries": native, **own}
        self._token_name = f"host-{host}"[:64]
        self._command = command
        self._over = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Keep it running while the block runs."""
        thread = threading.Thread(target=self._keep, name="edgebuild-farm-devices", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _keep(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._over.is_set():
            began = time.monotonic()
            why = self._run_once()
            if self._over.is_set():
                return
            wait_s = FIRST_WAIT_S if time.monotonic() - began > WELL_S else min(2 * wait_s, LONGEST_WAIT_S)
            logs.event("agent ended", level=logging.WARNING, why=why, again_in_s=wait_s)
            self._over.wait(wait_s)

    def _run_once(self) -> str:
        """Start it, wait until it ends, or end it with the server; return why it ended."""
        try:
            token = self._farm.do(lambda db, now: tokens.renew(db, self._token_name, Scope.HOST, now, days=TOKEN_DAYS))
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except (EdgebuildError, OSError) as error:
            return str(error)
        with child, contextlib.suppress(BrokenPipeError):
            assert child.stdin is not None and child.stderr is not None  # noqa: S101, PT018 - what PIPE means
            child.stdin.write(json.dumps({**self._about, "token": token}).encode() + b"\n")
            child.stdin.flush()
            logs.event("agent began", pid=child.pid)
            threading.Thread(target=_hear, args=(child.stderr,), daemon=True).start()
            self._watch(child)
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            _end(child)
        return f"exit {child.returncode}"

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        prolong_at = time.monotonic() + PROLONG_S
        while not self._over.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.2)
                return
            if time.monotonic() > prolong_at:
                prolong_at = time.monotonic() + PROLONG_S
                with contextlib.suppress(EdgebuildError):
                    self._farm.do(lambda db, now: tokens.prolong(db, self._token_name, now, days=TOKEN_DAYS))


def _hear(stream: IO[bytes]) -> None:
    """Make lines of the server's log of what an agent says."""
    with contextlib.suppress(ValueError):  # it is closed once the agent has ended
        for line in iter(lambda: stream.readline(logs.LONGEST), b""):
            logs.event("agent", said=line.decode(errors="replace").strip())


def _end(child: subprocess.Popen[bytes]) -> None:
    """Wait until a child that was told to end has, and insist if it doesn't."""
    for insist in (child.terminate, child.kill):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(END_S)
            return
        insist()
    child.wait()
