"""A farm's boards as a build's devices: it asks for a lease, waits its turn, keeps the board, and gives it back.

A lease is held while something is done with its board. Whoever waits for one board holds no other that rests, and a
board that rests for a while is given back: builds of several targets can't wait for each other.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.core.capabilities import EMULATED_FACT
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.devices.messages import one_line
from edgebuild.errors import DeviceError, EdgebuildError, NoTimeToWait, UsageError
from edgebuild.farm.client import FarmAway, FarmClient
from edgebuild.farm.lent import LentBoard
from edgebuild.farm.relay.device import FarmDevice
from edgebuild.farm.relay.link import Link
from edgebuild.farm.reporting import Used, report_sessions
from edgebuild.farm.values import (
    BEAT_S,
    KIND_LABEL,
    LONGEST_LEASE_S,
    PINS_CLOCKS,
    SILENCE_S,
    Ask,
    Health,
    Lease,
    LeaseEnd,
    LeaseState,
    Shelved,
)
from edgebuild.fleet.inventory import DeviceEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from edgebuild.core.steps import Progress
    from edgebuild.farm.client import FarmAddress

#: What a device of a farm is called in an inventory.
KIND = "farm"
#: How long a board is asked for where nobody said how long the work may take.
DEFAULT_S = 4 * 3600.0
#: What ends in time still has to be put down.
MARGIN_S = 600.0
#: How often one who waits looks, and hears why; and how often boards are looked at that may rest.
LOOK_S = 1.0
#: A board with which nothing is done for so long is given back, and asked for again when it is needed.
REST_S = 30.0
AGAIN = "Run the command again: it waits for its turn and resumes where it was."


class FarmProvider:
    """The devices of a farm. One that is connected is lent while something is done with it, until it is closed.

    Without ``device``, one entry stands for any device of its target, and the farm chooses: for one ``affinity`` of a
    target always the same. ``duration_s`` is how long each is asked for, ``until_s`` (of ``time.monotonic``) until when
    it is worth waiting. ``check`` is called while waiting and may raise.
    """

    def __init__(
        self,
        address: FarmAddress,
        *,
        device: str | None = None,
        affinity: str = "",
        purpose: str = "",
        duration_s: float = DEFAULT_S,
        until_s: float = float("inf"),
        progress: Progress | None = None,
        check: Callable[[], None] = never_stop,
    ) -> None:
        self._client = FarmClient(address)
        self._device = device
        self._affinity = affinity
        self._purpose = purpose[:200]
        self._duration_s = duration_s
        self._until_s = until_s
        self._progress = progress or NoProgress()
        self._check = check
        self._entries: dict[str, DeviceEntry] | None = None
        #: What a device has to have to be what an entry stands for.
        self._labels: dict[str, dict[str, str]] = {}
        #: The leases of each device that was lent, by its id, in their order.
        self.leases: dict[str, list[Used]] = {}
        self._boards: list[LentBoard] = []
        self._over = threading.Event()
        self._watching: threading.Thread | None = None

    def entries(self) -> Mapping[str, DeviceEntry]:
        """Return one entry for each target, or the device that was asked for; the farm is asked once."""
        if self._entries is None:
            found = [one for one in self._shelf() if one.health is not Health.RETIRED]
            if self._device is not None:
                self._entries = {one.name: _entry(one, one.name) for one in found if one.name == self._device}
            else:
                self._entries = self._by_target(found)
        return self._entries

    def require_targets(self, targets: Sequence[str]) -> None:
        """Raise ``UsageError`` for a target that the farm has no device of: nothing is built elsewhere instead."""
        there = {entry.target for entry in self.entries().values()}
        for target in targets:
            if self._device is None and target not in there:
                raise UsageError(
                    f"The farm {self._client.address.url} has no device of {target}.",
                    hint="`edgebuild farm list` shows what it has.",
                )

    def connect(self, entry: DeviceEntry) -> LentBoard:
        """Return the device once it is lent. Raises ``NoTimeToWait``, ``DeviceError``, and what the farm refuses."""
        wanted = Ask(
            target=entry.target,
            device=self._device or "",
            affinity=f"{self._affinity}/{entry.target}"[:200] if self._affinity and self._device is None else "",
            labels=self._labels.get(entry.name, {}),
            duration_s=min(self._duration_s, LONGEST_LEASE_S),
            purpose=self._purpose,
        )
        first = self.lend(wanted)
        board = LentBoard(first, partial(self._lend_again, wanted.model_copy(update={"device": first.name})))
        self._boards.append(board)
        if self._watching is None:
            self._watching = threading.Thread(target=self._watch, name="edgebuild-rest", daemon=True)
            self._watching.start()
        return board

    def lend(self, wanted: Ask) -> FarmDevice:
        """Return a device under a lease of its own, once it is lent (see ``connect``)."""
        held = HeldLease(self._client, self._client.ask("POST", "/api/leases", Lease, wanted))
        try:
            lease = held.wait(self._progress, self._check, self._until_s, self._let_rest)
        except BaseException:
            held.release()
            raise
        self._progress.say(f"{lease.device} of the farm is yours ({lease.id}).")
        path = f"/api/leases/{lease.id}/device"
        device = FarmDevice(
            lease.device,
            lambda: Link(self._client.address, path),
            why_lost=held.why_lost,
            give_back=held.release,
        )
        self.leases.setdefault(device.id, []).append(Used(lease=lease.id, since_s=time.time()))
        return device

    def report(self, root: Path, model: str, before: Collection[str]) -> int:
        """Have the farm keep what was measured on its devices, but for the sessions ``before``; return how many."""
        return report_sessions(self._client, root, model, self.leases, before)

    def close(self) -> None:
        """Give the connections to the server back."""
        self._over.set()
        if self._watching is not None:
            self._watching.join()
        self._client.close()

    def _lend_again(self, wanted: Ask) -> FarmDevice:
        """Return the same physical device under a new lease; a farm that has it no more has lost it."""
        try:
            return self.lend(wanted)
        except UsageError as error:
            raise DeviceError(f"{wanted.device} can't be had again: {error.message}", hint=AGAIN) from error

    def _let_rest(self, idle_s: float = 0.0) -> None:
        for board in self._boards:
            board.rest(idle_s)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self._let_rest(REST_S)

    def _by_target(self, found: Sequence[Shelved]) -> dict[str, DeviceEntry]:
        """Return an entry that stands for any device of each target, with what the likeliest one said of itself.

        An emulator stands in only where there is no board.
        """
        entries: dict[str, DeviceEntry] = {}
        for target in sorted({one.target for one in found}):
            fitting = [one for one in found if one.target == target]
            first = min(fitting, key=_likely)
            name = name_of(target)
            while name in entries:
                name = f"{name[:60]}-2"
            entries[name] = _entry(first, name)
            if any(_emulated(one) != _emulated(first) for one in fitting):
                self._labels[name] = {KIND_LABEL: first.kind}
        return entries

    def _shelf(self) -> tuple[Shelved, ...]:
        return self._client.ask("GET", "/api/devices", tuple[Shelved, ...])


class HeldLease:
    """A lease that is waited for or held: kept by a beat from the moment when it is asked for until it is given back.

    Whoever dies without giving it back loses it by its silence.
    """

    def __init__(self, client: FarmClient, lease: Lease) -> None:
        self._client = client
        self._lease = lease
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._why: DeviceError | None = None
        self._beating = threading.Thread(target=self._beat, name="edgebuild-lease", daemon=True)
        self._beating.start()

    def wait(self, progress: Progress, check: Callable[[], None], until_s: float, waits: Callable[[], None]) -> Lease:
        """Return the lease once it holds a device; tells meanwhile what it waits for. ``waits``: called if it does."""
        lease = self._look()
        if lease.state is not LeaseState.HELD:
            waits()
        with contextlib.ExitStack() as stack:
            task = None
            while lease.state is not LeaseState.HELD:
                if self._over.is_set():
                    raise self.why_lost() or DeviceError("The wait for a device ended.", hint=AGAIN)
                what = lease.ask.device or f"a device of {lease.ask.target}"
                task = task or stack.enter_context(progress.task(f"waiting for {what}"))
                task.advance(0.0, lease.why)
                self._over.wait(LOOK_S)
                check()
                if time.monotonic() > until_s:
                    raise NoTimeToWait(
                        f"The time asked for is over while the farm has no device for you: {one_line(lease.why)}.",
                        hint="What was finished is kept: the same command goes on from there, with all of its time.",
                    )
                lease = self._look()
        return lease

    def why_lost(self) -> DeviceError | None:
        """Return why the device isn't ours any more, as far as the farm knows; None where it still is."""
        if self._why is None and not self._over.is_set():
            with contextlib.suppress(EdgebuildError):
                self._take(self._client.ask("GET", f"/api/leases/{self._lease.id}", Lease))
        return self._why

    def release(self) -> None:
        """Give it back at once; twice is fine. Where the farm is away, its silence does that."""
        if self._over.is_set() and not self._beating.is_alive():
            return
        self._over.set()
        self._beating.join()
        if self._why is None:
            with contextlib.suppress(EdgebuildError):
                self._client.ask("POST", f"/api/leases/{self._lease.id}/release", Lease, {})

    def _look(self) -> Lease:
        """Ask how it stands; a server that is away for a while keeps the place in the queue."""
        try:
            self._take(self._client.ask("GET", f"/api/leases/{self._lease.id}", Lease))
        except FarmAway:
            if self._why is not None:
                raise self._why from None
        return self._lease

    def _beat(self) -> None:
        heard = time.monotonic()
        while not self._over.wait(BEAT_S):
            try:
                self._take(self._client.ask("POST", f"/api/leases/{self._lease.id}/beat", Lease, {}))
                heard = time.monotonic()
            except FarmAway as error:
                # The server counts no silence while it was away itself; a link that is gone is counted.
                if time.monotonic() - heard > SILENCE_S and self._lease.state is LeaseState.WAITING:
                    self._lose(DeviceError(error.message, hint=AGAIN))
            except EdgebuildError as error:
                self._lose(DeviceError(f"The farm took the device back: {error.message}", hint=error.hint or AGAIN))

    def _take(self, lease: Lease) -> None:
        with self._lock:
            self._lease = lease
        if lease.state is LeaseState.ENDED:
            self._lose(_ended(lease))

    def _lose(self, why: DeviceError) -> None:
        with self._lock:
            self._why = self._why or why
        self._over.set()


def _ended(lease: Lease) -> DeviceError:
    """Return why a lease that we didn't give back is over."""
    device = lease.device or lease.ask.device or f"a device of {lease.ask.target}"
    hours = lease.ask.duration_s / 3600.0
    why = {
        LeaseEnd.EXPIRED: f"The lease of {device} is over: it was asked for for {hours:.3g} h.",
        LeaseEnd.SILENT: f"The farm heard nothing of this machine for {SILENCE_S:g} s and took {device} back.",
        LeaseEnd.PREEMPTED: f"{device} was given to somebody who is more urgent.",
        LeaseEnd.LOST: f"The farm lost {device}, or the host that reaches it.",
        LeaseEnd.RELEASED: f"The lease of {device} was given back by somebody else.",
        LeaseEnd.CANCELLED: f"The wait for {device} was ended by somebody else.",
    }
    return DeviceError(why.get(lease.end or LeaseEnd.LOST, f"The lease of {device} is over."), hint=AGAIN)


def _emulated(one: Shelved) -> bool:
    return EMULATED_FACT in one.facts


def _likely(one: Shelved) -> tuple[bool, bool, bool, str]:
    return _emulated(one), one.health is not Health.GOOD, not one.there, one.name


def name_of(target: str) -> str:
    """Return a target's name as one of a device."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", target)[:64]


def _entry(one: Shelved, name: str) -> DeviceEntry:
    return DeviceEntry(name=name, target=one.target, kind=KIND, facts=one.facts, pin_clocks=PINS_CLOCKS in one.labels)
