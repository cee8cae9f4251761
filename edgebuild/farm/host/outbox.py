"""What jobs said, on its way to the farm: kept on disk until it was heard, sent again as often as that takes.

The farm counts a result once, by the token of its turn: to send it twice does no harm.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import ValidationError

from edgebuild.core.artifact import is_digest
from edgebuild.errors import EdgebuildError, EnvironmentGap, UsageError
from edgebuild.farm.client import FarmAway
from edgebuild.farm.host.orders import Parcel
from edgebuild.farm.values import Finished, JobEnd

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgebuild.farm.client import FarmClient

#: How soon lines of a log are sent, and how many are kept while the farm is away.
LOG_S = 0.5
MOST_LINES = 5_000
LINES_AT_ONCE = 1_000
#: The first pause after the farm was found away, and the longest: shorter than the silence that loses a host its jobs.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
NAME = "parcel.json"
#: The farm, or this host's token, may come back.
AWAY = (FarmAway, EnvironmentGap)


class Pause:
    """Waits longer each time, and never as long as another host does."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE_S

    def reset(self) -> None:
        """Begin anew."""
        self._next = FIRST_PAUSE_S

    def length_s(self) -> float:
        """Return how long to wait now."""
        now, self._next = self._next, min(2 * self._next, LONGEST_PAUSE_S)
        return now * random.uniform(0.5, 1.0)  # noqa: S311  nobody gains by guessing it


class Outbox:
    """Parcels and lines of logs, sent by a thread. ``folder`` holds a folder for each turn."""

    def __init__(self, client: FarmClient, host: str, folder: Path) -> None:
        self._client = client
        self._base = f"/api/hosts/{quote(host)}/jobs"
        self._folder = folder
        self._lock = threading.Lock()
        self._parcels: dict[tuple[str, int], Parcel] = {}
        self._lines: dict[tuple[str, int], deque[str]] = {}
        self._wake = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgebuild-outbox", daemon=True)

    def start(self) -> None:
        """Take up what an earlier agent left behind, remove what it left unfinished, and begin to send."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for folder in sorted(self._folder.iterdir()):
            try:
                parcel = Parcel.model_validate_json((folder / NAME).read_bytes())
            except (OSError, ValidationError):
                shutil.rmtree(folder, ignore_errors=True)
            else:
                self._parcels[parcel.job, parcel.token] = parcel
        self._thread.start()

    def place(self, job: str, token: int) -> Path:
        """Return the folder of a turn."""
        return self._folder / f"{job}-{token}"

    def turns(self) -> list[tuple[str, int]]:
        """Return the turns whose last word the farm hasn't heard yet."""
        with self._lock:
            return list(self._parcels)

    def say(self, job: str, token: int, lines: Sequence[str]) -> None:
        """Send lines to a job's log; the oldest are dropped where there are too many."""
        with self._lock:
            self._lines.setdefault((job, token), deque(maxlen=MOST_LINES)).extend(lines)

    def send(self, parcel: Parcel) -> None:
        """Keep a last word, and send it. On a full disk it is kept in memory only."""
        try:
            _write(self.place(parcel.job, parcel.token), parcel)
        except OSError as error:
            print(f"edgebuild: a result isn't kept on disk: {error.strerror}", file=sys.stderr)
        with self._lock:
            self._parcels[parcel.job, parcel.token] = parcel
        self._wake.set()

    def drop(self, job: str, token: int) -> None:
        """Forget a turn whose word doesn't count any more."""
        with self._lock:
            self._parcels.pop((job, token), None)
            self._lines.pop((job, token), None)
        shutil.rmtree(self.place(job, token), ignore_errors=True)

    def close(self, patience_s: float) -> None:
        """Send what there is, as long as patience lasts; the rest stays on disk."""
        self._over.set()
        self._wake.set()
        self._thread.join(patience_s)

    def _run(self) -> None:
        pause = Pause()
        while True:
            self._wake.wait(LOG_S)
            self._wake.clear()
            last = self._over.is_set()
            try:
                self._send_all()
                pause.reset()
            except AWAY:
                if not last:
                    self._over.wait(pause.length_s())
            if last:
                return

    def _send_all(self) -> None:
        with self._lock:
            speaking = list(self._lines)
        for job, token in speaking:
            self._send_lines(job, token)
        for job, token in self.turns():
            self._send_lines(job, token)
            parcel = self._parcels.get((job, token))
            if parcel is not None:
                self._send_parcel(parcel)
                self.drop(job, token)

    def _send_lines(self, job: str, token: int) -> None:
        """Send what a job said. Lines that the farm can't take now are sent with those that follow."""
        with self._lock:
            waiting = self._lines.pop((job, token), None)
        while waiting:
            lines = [waiting.popleft() for _ in range(min(len(waiting), LINES_AT_ONCE))]
            try:
                self._client.ask("POST", f"{self._base}/{job}/log", dict[str, bool], {"token": token, "lines": lines})
            except AWAY:
                with self._lock:
                    later = self._lines.pop((job, token), ())
                    self._lines[job, token] = deque([*lines, *waiting, *later], maxlen=MOST_LINES)
                raise
            except EdgebuildError as error:
                _complain(job, error)

    def _send_parcel(self, parcel: Parcel) -> None:
        try:
            if parcel.finished is None:
                turn = {"id": parcel.job, "token": parcel.token}
                self._client.ask("POST", f"{self._base}/{parcel.job}/give-back", dict[str, bool], turn)
                return
            for file in _blobs(self.place(parcel.job, parcel.token)):
                self._client.send(file)
            self._finish(parcel.job, parcel.finished)
        except AWAY:
            raise
        except (EdgebuildError, OSError) as error:
            _complain(parcel.job, error)
            if parcel.finished is not None and parcel.finished.result is not None:
                reason = f"Its result didn't get to the farm: {error}"
                with contextlib.suppress(UsageError):
                    self._finish(parcel.job, Finished(token=parcel.token, how=JobEnd.FAILED, reason=reason))

    def _finish(self, job: str, finished: Finished) -> None:
        self._client.ask("POST", f"{self._base}/{job}/finish", dict[str, bool], finished)


def _blobs(folder: Path) -> list[Path]:
    try:
        return [file for file in sorted((folder / "blobs").iterdir()) if is_digest(file.name)]
    except OSError:
        return []


def _write(folder: Path, parcel: Parcel) -> None:
    """Write a parcel whole, or leave none."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{NAME}"
    with partial.open("w", encoding="utf-8") as file:
        file.write(parcel.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / NAME)


def _complain(job: str, error: Exception) -> None:
    print(f"edgebuild: {job}: {error}", file=sys.stderr)
