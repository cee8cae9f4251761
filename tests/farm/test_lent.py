"""Boards that are lent while something is done with them: nobody keeps one while he waits for another."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.devices.transport import Device, Shared
from edgebuild.errors import DeviceError, Interrupted
from edgebuild.farm import leases
from edgebuild.farm import provider as provider_module
from edgebuild.farm import shelf as devices_of_farm
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.provider import FarmProvider
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.values import Health, LeaseState
from tests.farm.relays import TARGET, EverythingAllowed, Shelf, bench, entry_of, hosted, stock
from tests.farm.serving import served
from tests.farm.shelves import PI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgebuild.farm.database import Database
    from edgebuild.farm.lent import LentBoard
    from edgebuild.farm.relay.device import FarmDevice
    from edgebuild.farm.values import Ask

PATIENCE_S = 30.0
#: Waits for the end of its input.
LISTENS = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def shelf(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """One board of each of two targets."""
    monkeypatch.setattr(provider_module, "LOOK_S", 0.02)
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    with served(farm) as url:
        other = entry_of("other").model_copy(update={"target": PI})
        yield stock(farm, url, [entry_of("pi-1"), entry_of("pi-2"), other])


class Hosting(FarmProvider):
    """A farm's provider whose host begins its end of each lease, with a folder of this machine for a board."""

    def __init__(self, shelf: Shelf, folder: Path, **more: Any) -> None:
        super().__init__(shelf.address, **more)
        self.stack = contextlib.ExitStack()
        self._shelf_of_test, self._folder = shelf, folder

    def lend(self, wanted: Ask) -> FarmDevice:
        device = super().lend(wanted)
        (lease,) = [each for each in held(self._shelf_of_test) if each.id == self.leases[device.id][-1].lease]
        told = self._shelf_of_test.told(lease, entry_of(device.name))
        reach = bench(self._folder / device.name)
        self.stack.enter_context(hosted(told, reach, allow=EverythingAllowed))
        return device

    def board(self, target: str = TARGET) -> LentBoard:
        return self.connect(next(entry for entry in self.entries().values() if entry.target == target))


@pytest.fixture
def hosting(shelf: Shelf, tmp_path: Path) -> Iterator[Hosting]:
    with contextlib.closing(Hosting(shelf, tmp_path)) as provider, provider.stack:
        yield provider


def held(shelf: Shelf) -> tuple[Any, ...]:
    return shelf.farm.look(lambda db: leases.find(db, state=LeaseState.HELD))


def names(shelf: Shelf) -> list[str]:
    return sorted(lease.device for lease in held(shelf))


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def test_two_builds_of_two_targets_dont_wait_for_each_other(shelf: Shelf) -> None:
    """Each has got one of two boards when it asks for the other one."""
    shelf.farm.do(lambda db, now: devices_of_farm.set_health(db, "pi-2", Health.RETIRED, "", now))
    both, deadline, ended = threading.Barrier(2), time.monotonic() + PATIENCE_S, []

    def impatient() -> None:
        if time.monotonic() > deadline:
            raise Interrupted("two builds wait for each other")

    def build(first: str, second: str) -> None:
        with contextlib.ExitStack() as stack:
            provider = stack.enter_context(contextlib.closing(FarmProvider(shelf.address, check=impatient)))
            found = {entry.target: entry for entry in provider.entries().values()}
            stack.enter_context(contextlib.closing(provider.connect(found[first])))
            both.wait(PATIENCE_S)
            stack.enter_context(contextlib.closing(provider.connect(found[second])))
            ended.append(first)

    builds = [threading.Thread(target=build, args=order) for order in ((TARGET, PI), (PI, TARGET))]
    for each in builds:
        each.start()
    for each in builds:
        each.join(2 * PATIENCE_S)
    assert sorted(ended) == sorted((TARGET, PI))
    assert names(shelf) == []


def test_a_board_with_which_nothing_is_done_is_somebody_elses(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "REST_S", 0.1)
    with contextlib.closing(FarmProvider(shelf.address)) as provider:
        board = provider.connect(next(one for one in provider.entries().values() if one.target == PI))
        wait_until(lambda: names(shelf) == [], "it is given back")
        board.close()
        with pytest.raises(DeviceError, match="farm-other is closed"):
            board.regain()


def test_what_runs_keeps_a_board_and_what_rests_comes_back_to_the_same_one(shelf: Shelf, hosting: Hosting) -> None:
    board = hosting.board()
    assert isinstance(board, Device)
    assert isinstance(board, Shared)
    channel = board.open([board.python, "-c", LISTENS], {})
    assert channel.receive(PATIENCE_S) == "up"
    board.rest()
    assert names(shelf) == ["pi-1"], "a program runs on it"
    channel.kill()
    board.rest()
    assert names(shelf) == []
    other = shelf.lease(device="pi-1")
    hosting._check = lambda: shelf.release(other)  # it waits, though pi-2 is free
    again = board.open([sys.executable, "-c", LISTENS], {})
    assert again.receive(PATIENCE_S) == "up"
    again.kill()
    assert (board.id, names(shelf)) == ("farm-pi-1", ["pi-1"])
    assert len(hosting.leases["farm-pi-1"]) == 2
    board.close()
    assert names(shelf) == []


def test_a_board_that_is_lost_stays_lost(shelf: Shelf, hosting: Hosting) -> None:
    """Whoever uses it next hears so, also where it could be had again."""
    board = hosting.board()
    assert board.root
    shelf.release(held(shelf)[0])

    def lost() -> bool:
        with contextlib.suppress(DeviceError):
            board.remove("work/x")
            return False
        return True

    wait_until(lost, "it is lost")
    board.rest()
    with pytest.raises(DeviceError, match="given back by somebody else"):
        board.remove("work/x")


def test_a_board_that_the_farm_has_no_more_is_lost(shelf: Shelf, hosting: Hosting) -> None:
    board = hosting.board(PI)
    board.rest()
    shelf.farm.do(lambda db, now: devices_of_farm.set_health(db, "other", Health.RETIRED, "", now))
    with pytest.raises(DeviceError, match=r"other can't be had again: .* no device 'other'"):
        board.regain()


def test_a_board_whose_host_was_set_up_anew_isnt_the_same(shelf: Shelf, hosting: Hosting, tmp_path: Path) -> None:
    board = hosting.board()
    assert board.root == str(tmp_path / "pi-1")
    board.rest()
    hosting._folder = tmp_path / "elsewhere"
    with pytest.raises(DeviceError, match="isn't what it was"):
        board.regain()
    assert names(shelf) == []
