"""Removes now and then what nobody needs any more (see ``retention``), a little at a time."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.errors import EdgebuildError
from edgebuild.farm import retention
from edgebuild.farm.server import logs
from edgebuild.farm.tokens import DAY_S

if TYPE_CHECKING:
    from edgebuild.farm.server.farm import Farm

#: How soon after its start, and how often, a server looks for what is to go.
FIRST_S = 600.0
EVERY_S = 6 * 3600.0
#: Between two parts others have their turn.
PAUSE_S = 0.2


class Tidying:
    """A thread that tidies a farm; ``keep_days``: how long is kept what needn't be kept for good."""

    def __init__(self, farm: Farm, keep_days: int) -> None:
        self._farm = farm
        self._keep_s = keep_days * DAY_S
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgebuild-farm-tidying", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """End, after the part at hand."""
        self._over.set()
        self._thread.join()

    def tidy(self) -> None:
        """Remove what was over before; raises ``StoreError`` where the database or the disk doesn't do its work."""
        before = self._farm.now - self._keep_s
        gone = {"logs": 0, "jobs": 0, "leases": 0, "tokens": 0}
        while old := self._farm.look(partial(retention.find, before=before)):
            self._farm.do(lambda db, _, old=old: retention.remove(db, old, before))  # type: ignore[misc]
            gone = {name: count + len(getattr(old, name)) for name, count in gone.items()}
            if self._over.wait(PAUSE_S):
                return
        files = self._tidy_files(before)
        if files or any(gone.values()):
            logs.event("tidied", rows=gone, files=files)

    def _tidy_files(self, before: float) -> int:
        """Remove files that nobody asked for in all the time, and that nothing names; return how many."""
        self._farm.blobs.drop_parts(before)
        left = self._farm.blobs.untouched(before)
        if not left:
            return 0
        left -= self._farm.look(lambda db: left.intersection(retention.needed_by_records(db)))
        after: int | None = 0
        while left and after is not None and not self._over.wait(PAUSE_S):
            named, after = self._farm.look(partial(retention.needed_by_jobs, after=after))
            left -= named
        return 0 if after is not None else sum(self._farm.blobs.drop(digest, before) for digest in sorted(left))

    def _run(self) -> None:
        wait_s = FIRST_S
        while not self._over.wait(wait_s):
            wait_s = EVERY_S
            try:
                self.tidy()
            except (EdgebuildError, OSError) as error:
                logs.event("tidying failed", level=logging.WARNING, reason=str(error))
            except Exception as error:  # noqa: BLE001 - the next time may be better, and nothing else depends on it
                logs.event("tidying failed", level=logging.ERROR, error=error)
