"""A farm's boards as a build's devices: the queue, the beat, and every way in which a lease ends."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.capabilities import EMULATED_FACT
from edgebuild.core.steps import NoProgress
from edgebuild.errors import DeviceError, EnvironmentGap, Interrupted, NoTimeToWait, UsageError
from edgebuild.farm import leases, tokens
from edgebuild.farm import provider as provider_module
from edgebuild.farm import shelf as devices_of_farm
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.database import Clock, Database, sqlite_url
from edgebuild.farm.provider import FarmProvider
from edgebuild.farm.server.farm import RECONCILE_S, Farm
from edgebuild.farm.values import BEAT_S, PINS_CLOCKS, Ask, Health, LeaseEnd, LeaseState, Offered
from edgebuild.fleet.inventory import DeviceEntry
from tests.farm.relays import TARGET, Shelf, bench, entry_of, hosted, stock
from tests.farm.serving import served
from tests.farm.shelves import PI, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection


def emulated(name: str, target: str) -> DeviceEntry:
    facts = {EMULATED_FACT: "yes", "cpu": "cortex-a76"}
    return DeviceEntry(name=name, target=target, kind="emulator", core="cortex-a76", facts=facts)


@pytest.fixture
def shelf(database: Database, tmp_path: Path) -> Iterator[Shelf]:
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    with served(farm) as url:
        yield stock(farm, url, [entry_of("pi-1"), emulated("a-pi", TARGET), emulated("other", PI)])


@contextlib.contextmanager
def providing(shelf: Shelf, **more: Any) -> Iterator[FarmProvider]:
    made = FarmProvider(shelf.address, **more)
    try:
        yield made
    finally:
        made.close()


def held(shelf: Shelf) -> list[str]:
    found = shelf.farm.look(lambda db: leases.find(db, state=LeaseState.HELD))
    return [lease.device for lease in found]


def ended(shelf: Shelf) -> list[LeaseEnd | None]:
    return [lease.end for lease in shelf.farm.look(lambda db: leases.find(db, state=LeaseState.ENDED))]


class Told(NoProgress):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def task(self, title: str, total: float | None = None) -> Any:  # noqa: ARG002
        self.notes.append(title)
        told = self

        class Task:
            def advance(self, amount: float = 1.0, note: str = "") -> None:  # noqa: ARG002
                told.notes.append(note)

            def __enter__(self) -> Task:
                return self

            def __exit__(self, *exc: object) -> None:
                pass

        return Task()


def test_an_entry_stands_for_any_device_of_its_target_and_an_emulator_only_where_there_is_no_board(
    shelf: Shelf,
) -> None:
    with providing(shelf) as provider:
        found = provider.entries()
        assert {entry.target: entry.facts for entry in found.values()} == {
            TARGET: {},
            PI: {EMULATED_FACT: "yes", "cpu": "cortex-a76"},
        }
        assert all(entry.kind == "farm" for entry in found.values())
        with contextlib.closing(provider.connect(found[TARGET])):
            assert held(shelf) == ["pi-1"], "the emulator comes first by its name, and isn't what was planned for"


def test_clocks_are_pinned_where_the_host_says_so(shelf: Shelf) -> None:
    def offer(db: Connection, now: float) -> None:
        host = tokens.identify(db, shelf.host, now)
        assert host is not None
        offered = Offered(name="jetson", target="jetson-thor", labels={PINS_CLOCKS: "yes"})
        devices_of_farm.register(db, "desk", host.id, "1", [offered], now)

    shelf.farm.do(offer)
    with providing(shelf) as provider:
        pinned = {entry.target: entry.pin_clocks for entry in provider.entries().values()}
    assert pinned == {"jetson-thor": True, TARGET: False, PI: False}


def test_a_device_that_was_asked_for_is_the_only_one(shelf: Shelf) -> None:
    with providing(shelf, device="a-pi") as provider:
        assert list(provider.entries()) == ["a-pi"]
        with contextlib.closing(provider.connect(provider.entries()["a-pi"])):
            assert held(shelf) == ["a-pi"]
    with providing(shelf, device="nobody") as provider:
        assert not provider.entries()


def test_a_target_that_the_farm_lacks_is_said_before_anything_is_done(shelf: Shelf) -> None:
    shelf.farm.do(lambda db, now: devices_of_farm.set_health(db, "other", Health.RETIRED, "old", now))
    with providing(shelf) as provider:
        provider.require_targets([TARGET])
        with pytest.raises(UsageError, match=f"no device of {PI}"):
            provider.require_targets([TARGET, PI])


def test_who_waits_hears_why_and_gets_the_device_when_it_is_free(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "LOOK_S", 0.05)
    before, told = shelf.lease(device="pi-1"), Told()

    def release_once_told() -> None:
        if "pi-1: in use" in told.notes:
            shelf.release(before)

    with providing(shelf, progress=told, check=release_once_told) as provider:
        device = provider.connect(provider.entries()[TARGET])
        assert held(shelf) == ["pi-1"]
        assert f"waiting for a device of {TARGET}" in told.notes
        device.close()
        device.close()
        assert held(shelf) == []
        assert ended(shelf) == [LeaseEnd.RELEASED, LeaseEnd.RELEASED]


def test_who_is_interrupted_while_waiting_leaves_the_queue(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "LOOK_S", 0.05)
    shelf.lease(device="pi-1")

    def interrupted() -> None:
        raise Interrupted("stopped")

    with providing(shelf, check=interrupted) as provider, pytest.raises(Interrupted):
        provider.connect(provider.entries()[TARGET])
    assert ended(shelf) == [LeaseEnd.CANCELLED]


def test_a_wait_ends_with_the_time_box(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "LOOK_S", 0.05)
    shelf.lease(device="pi-1")
    with (
        providing(shelf, until_s=time.monotonic()) as provider,
        pytest.raises(NoTimeToWait, match="no device for you: pi-1: in use"),
    ):
        provider.connect(provider.entries()[TARGET])
    assert ended(shelf) == [LeaseEnd.CANCELLED]


def test_one_affinity_keeps_its_board(database: Database, tmp_path: Path) -> None:
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    with served(farm) as url:
        shelf = stock(farm, url, [entry_of("pi-1"), entry_of("pi-2")])
        taken = shelf.lease(device="pi-1")
        for _ in range(2):
            with (
                providing(shelf, affinity="project") as provider,
                contextlib.closing(provider.connect(provider.entries()[TARGET])) as device,
            ):
                assert device.id == "farm-pi-2"
            shelf.release(taken)


def test_a_lease_that_runs_out_says_so_at_the_next_use(shelf: Shelf, tmp_path: Path) -> None:
    shelf.farm.put_right()  # a server that just began gives everybody more time
    with providing(shelf, duration_s=2.0) as provider:
        device = provider.connect(provider.entries()[TARGET])
        (lease,) = shelf.farm.look(lambda db: leases.find(db, state=LeaseState.HELD))
        with hosted(shelf.told(lease, entry_of()), bench(tmp_path / "board")) as over:
            assert device.root
            deadline = time.monotonic() + 30.0
            while not over:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with pytest.raises(DeviceError, match=r"lease of pi-1 is over: it was asked for for .* h") as raised:
                device.remove("work/x")
            assert "resumes where it was" in raised.value.hint
        device.close()
        assert ended(shelf) == [LeaseEnd.EXPIRED]


def test_a_token_that_is_revoked_ends_the_lease(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "BEAT_S", 0.05)
    lost = threading.Event()
    monkeypatch.setattr(provider_module.HeldLease, "_lose", _then(provider_module.HeldLease._lose, lost.set))
    with providing(shelf) as provider:
        device = provider.connect(provider.entries()[TARGET])
        shelf.farm.do(lambda db, now: tokens.revoke(db, "ada", now))
        assert lost.wait(30.0)
        with pytest.raises((DeviceError, EnvironmentGap), match="right token"):
            device.open(["x"], {})
        device.close()


def test_the_beat_keeps_a_lease(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "BEAT_S", 0.05)
    with providing(shelf) as provider, contextlib.closing(provider.connect(provider.entries()[TARGET])):
        (lease,) = shelf.farm.look(lambda db: leases.find(db, state=LeaseState.HELD))
        deadline = time.monotonic() + 30.0
        while (lease.beat_at or 0.0) <= (lease.granted_at or 0.0):
            assert time.monotonic() < deadline
            lease = shelf.farm.look(lambda db, number=lease.id: leases.get(db, number))  # type: ignore[misc]


def test_who_was_killed_loses_the_board_within_a_minute(tmp_path: Path) -> None:
    """The last beat was just sent; the clock is the test's."""

    class Stepped(Clock):
        at = 1000.0

        def now(self) -> float:
            return self.at

    clock = Stepped()
    with contextlib.closing(Database(sqlite_url(tmp_path / "farm.db"), clock)) as database:
        database.upgrade()
        farm = Farm(database, Blobs(tmp_path / "blobs"))
        farm.do(lambda db, now: fill(db, "pi-1", now=now))
        with database.write() as db:
            lease = leases.ask(db, Ask(target=PI), "ada", clock.now()).id
            waiting = leases.ask(db, Ask(target=PI), "bob", clock.now()).id
        killed_at = clock.at
        farm.put_right()
        while farm.look(lambda db: leases.get(db, lease)).state is LeaseState.HELD:
            clock.at += RECONCILE_S
            assert clock.at - killed_at <= 60.0
            farm.do(lambda db, now: leases.beat(db, waiting, now))
            farm.do(lambda db, now: devices_of_farm.seen(db, "desk", now))
            farm.put_right()
        assert clock.at - killed_at > BEAT_S, "a beat that is a little late costs nothing"
        assert farm.look(lambda db: leases.get(db, lease)).end is LeaseEnd.SILENT
        assert farm.look(lambda db: leases.get(db, waiting)).device == "pi-1"


def _then(first: Any, then: Any) -> Any:
    def both(*arguments: Any) -> None:
        first(*arguments)
        then()

    return both
