"""The agent of a host: offers its devices to a farm, does the farm's jobs on them, and relays leases of them.

It asks for work, and what it says then is also the heartbeat of what it runs. A server that is away is waited for while
everything goes on. One process runs each job; none outlives the agent.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import Field, ValidationError

from edgebuild import __version__
from edgebuild.core.files import cache_home
from edgebuild.errors import ConfigError, EdgebuildError, EnvironmentGap, UsageError
from edgebuild.farm.client import FarmAddress, FarmAway, FarmClient
from edgebuild.farm.host.orders import Farm, Order, Parcel
from edgebuild.farm.host.outbox import Outbox, Pause
from edgebuild.farm.host.relays import Relays
from edgebuild.farm.host.running import END_S, Running
from edgebuild.farm.values import (
    NAMED,
    PINS_CLOCKS,
    TARGET,
    Finished,
    Job,
    JobEnd,
    Message,
    Offered,
    Shelved,
    Stop,
    Work,
)
from edgebuild.fleet.inventory import inventory_path, load_inventory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import FrameType

    from edgebuild.farm.host.orders import Word
    from edgebuild.fleet.inventory import DeviceEntry

#: How soon it asks again after a quick answer that held nothing new, such as a job that is about to end.
AGAIN_S = 0.3
#: How long a second agent waits for the first to end.
LOCK_S = 20.0
LEAVE_S = 5.0
MOST_CONFIG_BYTES = 1 << 20


class Config(Message):
    """What the agent is told on its standard input, whose end is also its own."""

    url: str
    token: str = Field(repr=False)
    authority: str = ""
    host: str = Field(pattern=NAMED)
    folder: str = ""
    native_libraries: bool = False


class Agent:
    """One host of one farm. ``folder`` is its own: results that the farm hasn't heard yet, and the scratch of jobs."""

    def __init__(self, address: FarmAddress, name: str, folder: Path, *, native_libraries: bool) -> None:
        self._farm = Farm(url=address.url, token=address.token, authority=address.authority)
        self._name, self._native = name, native_libraries
        self._base = f"/api/hosts/{quote(name)}"
        self._client = FarmClient(address)
        self._outbox = Outbox(FarmClient(address), name, folder / "turns")
        self._relays = Relays(self._farm, name, folder, native_libraries=native_libraries)
        self._lock = threading.Lock()
        self._live: dict[tuple[str, int], Running] = {}
        self._entries: Mapping[str, DeviceEntry] = {}
        #: What the inventory's file was when it was read, and whether the farm knows of it.
        self._read: tuple[int, ...] | None = None
        self._known = False
        self._pause = Pause()

    def run(self) -> None:
        """Work until it is interrupted; raises ``UsageError`` where the farm refuses this host."""
        self._outbox.start()
        try:
            while True:
                self._turn()
        finally:
            self._leave()

    def _turn(self) -> None:
        self._read_inventory()
        self._end_late()
        try:
            if not self._known:
                self._hello()
            asked_at = time.monotonic()
            work = self._client.ask("POST", f"{self._base}/work", Work, self._said())
        except FarmAway as error:
            # The server may be another one when it is back.
            self._known = False
            pause_s = self._pause.length_s()
            print(f"edgebuild: {error.message} Asking again in {pause_s:.1f} s.", file=sys.stderr)
            time.sleep(pause_s)
            return
        self._pause.reset()
        if not self._obey(work) and time.monotonic() - asked_at < AGAIN_S:
            time.sleep(AGAIN_S)

    def _said(self) -> dict[str, object]:
        """Return what runs: live jobs, and those whose end the farm hasn't heard, which are in one of both always."""
        with self._lock:
            live = [(turn, one.stopped) for turn, one in self._live.items()]
        going = dict.fromkeys([*self._outbox.turns(), *(turn for turn, why in live if why != "over")])
        running = [{"id": job, "token": token} for job, token in going]
        return {"running": running, "relays": self._relays.ids(), "wait": True}

    def _hello(self) -> None:
        devices = [offer.model_dump(mode="json") for offer in offers(self._entries)]
        self._client.ask(
            "POST", f"{self._base}/hello", tuple[Shelved, ...], {"version": __version__, "devices": devices}
        )
        self._known = True
        print(f"edgebuild: {self._name} offers {', '.join(sorted(self._entries)) or 'no device'}", file=sys.stderr)

    def _read_inventory(self) -> None:
        """Read the inventory where it changed; one that makes no sense while somebody writes it is left for later."""
        now = _signature(inventory_path())
        if now == self._read:
            return
        try:
            self._entries, self._known = load_inventory(), False
        except ConfigError as error:
            if self._read is None:
                raise
            print(f"edgebuild: {error.message}", file=sys.stderr)
        self._read = now

    def _obey(self, work: Work) -> bool:
        """Do what the farm says; return whether any of it was new."""
        new = [self._stop(each) for each in work.stop]
        for job in work.start:
            self._start(job)
        changed = self._relays.keep(work.relays, self._entries)
        return any(new) or bool(work.start) or changed

    def _stop(self, stop: Stop) -> bool:
        turn = (stop.id, stop.token)
        with self._lock:
            running = self._live.get(turn)
        if stop.why == "over":
            self._outbox.drop(*turn) if running is None else running.stop("over")
            return running is None
        if running is None or running.stopped or (stop.why == "make room" and running.making_room):
            return False
        if stop.why == "make room":
            running.make_room()
        else:
            running.stop("cancelled")
        return True

    def _start(self, job: Job) -> None:
        attempt = job.attempts[-1]
        turn = (job.id, attempt.token)
        entry = self._entries.get(attempt.device)
        if entry is None:
            reason = f"{attempt.device} isn't in the inventory of {self._name} any more"
            self._outbox.send(_parcel(turn, JobEnd.DEVICE_LOST, reason))
            return
        folder = self._outbox.place(*turn)
        try:
            folder.mkdir(parents=True)
            order = Order(job=job, entry=entry, farm=self._farm, folder=folder, native_libraries=self._native)
            with self._lock:
                self._live[turn] = Running(order, words=self._heard, ended=self._ended)
        except OSError as error:
            reason = f"The host {self._name} can't start it: {error.strerror or error}."
            self._outbox.send(_parcel(turn, JobEnd.FAILED, reason))

    def _heard(self, running: Running, word: Word) -> None:
        self._outbox.say(running.job, running.token, word.log)

    def _ended(self, running: Running, status: int) -> None:
        """Pass on how a job ended. It is in the outbox before it is no longer live, so that the farm misses none."""
        turn = (running.job, running.token)
        shutil.rmtree(running.order.folder / "scratch", ignore_errors=True)
        parcel = last_word(running, status)
        if parcel is None:
            self._outbox.drop(*turn)
        else:
            self._outbox.send(parcel)
        with self._lock:
            self._live.pop(turn, None)

    def _end_late(self) -> None:
        """End jobs whose own limit didn't; a server that is away can't say so."""
        with self._lock:
            late = [one for one in self._live.values() if time.monotonic() > one.deadline]
        for running in late:
            running.stop("time")

    def _leave(self) -> None:
        """End everything that runs; its jobs are queued again."""
        self._relays.close()
        with self._lock:
            live = list(self._live.values())
        for running in live:
            running.stop("leaving")
        for running in live:
            running.thread.join(END_S + 2)
        self._outbox.close(LEAVE_S)


def last_word(running: Running, status: int) -> Parcel | None:
    """Return what the farm is told of a job that ended; ``None`` where the farm ended it itself."""
    turn, said = (running.job, running.token), running.last
    finished = None if said is None else said.finished
    if running.stopped == "over":
        return None
    if finished is not None and not (running.stopped and finished.how is JobEnd.CANCELLED):
        return Parcel(job=turn[0], token=turn[1], finished=finished)
    if running.stopped == "cancelled":
        return _parcel(turn, JobEnd.CANCELLED, "cancelled while it ran")
    if running.stopped == "time":
        limit_s = running.order.job.spec.ask.duration_s
        return _parcel(turn, JobEnd.TIMED_OUT, f"it took longer than the {limit_s:g} s that it asked for")
    if running.stopped == "leaving" or (said is not None and said.made_room):
        return Parcel(job=turn[0], token=turn[1])
    if status < 0:
        # Nobody knows what it left on the device: that is looked at, and the job is tried again.
        return _parcel(turn, JobEnd.DEVICE_LOST, f"its process was ended by {signal.Signals(-status).name}")
    return _parcel(turn, JobEnd.FAILED, f"its process ended with status {status} and no result: a bug, or a plug-in's")


def _parcel(turn: tuple[str, int], how: JobEnd, reason: str) -> Parcel:
    return Parcel(job=turn[0], token=turn[1], finished=Finished(token=turn[1], how=how, reason=reason))


def offers(entries: Mapping[str, DeviceEntry]) -> list[Offered]:
    """Return the devices of an inventory as the farm takes them; raises ``UsageError`` for one that it can't take."""
    made = []
    for name, entry in sorted(entries.items()):
        facts = dict(sorted(entry.facts.items())[:400])
        labels = {**entry.labels, **({PINS_CLOCKS: "yes"} if entry.pin_clocks else {})}
        try:
            made.append(Offered(name=name, target=entry.target, kind=entry.kind, facts=facts, labels=labels))
        except ValidationError as error:
            what = f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}"
            raise UsageError(
                f"The device {name} can't be lent by a farm: {what}.", hint=f"A target's name is like {TARGET}."
            ) from error
    return made


def run(address: FarmAddress, name: str, *, folder: Path | None = None, native_libraries: bool = False) -> None:
    """Lend this machine's devices to a farm until SIGTERM or Ctrl-C.

    ``folder`` keeps results that the farm hasn't heard yet. Default: one in the user's cache, of this farm and name.
    ``native_libraries`` lets artifacts bring native code, which runs on the devices. Raises ``UsageError`` where the
    farm refuses this host, such as for another version of edgebuild, ``EnvironmentGap`` where its token isn't one.
    """
    own = hashlib.sha256(address.url.encode()).hexdigest()[:8]
    where = cache_home() / "farm" / f"{name}-{own}" if folder is None else folder
    with _interruptible(), _alone(where, name), contextlib.suppress(KeyboardInterrupt):
        Agent(address, name, where, native_libraries=native_libraries).run()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the agent as Ctrl-C does; a second one of either doesn't disturb the end."""

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Be the only agent of this folder; one that is about to end is waited for."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as file:
        until = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise EnvironmentGap(
                        f"Another agent is the host {name} on this machine.", hint="End it, or take another name."
                    ) from None
                time.sleep(0.1)
        yield


def _signature(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def main() -> int:
    """Run the agent that standard input describes, until standard input ends."""
    from pathlib import Path

    try:
        config = Config.model_validate_json(sys.stdin.buffer.readline(MOST_CONFIG_BYTES))
        threading.Thread(target=_end_with_parent, daemon=True).start()
        address = FarmAddress(url=config.url, token=config.token, authority=config.authority)
        folder = Path(config.folder) if config.folder else None
        run(address, config.host, folder=folder, native_libraries=config.native_libraries)
    except ValidationError:
        print("edgebuild: the agent's first line is no configuration of it.", file=sys.stderr)
        return UsageError.exit_code
    except EdgebuildError as error:
        print(f"edgebuild: {error.message}\n  how to fix it: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
