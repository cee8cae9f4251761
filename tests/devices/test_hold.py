"""Two hosts at one board take turns, and a host whose turn is over is refused by the board itself."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from edgebuild.devices.client import RunnerClient
from edgebuild.devices.hold import hold_device
from edgebuild.devices.lock import measurement_lock
from edgebuild.errors import DeviceError, EdgebuildError, Interrupted, NoTimeToWait
from tests.devices.sshd import Board, board, needs_sshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = needs_sshd
__all__ = ["board"]  # the fixture


@pytest.fixture
def clients(board: Board) -> Iterator[tuple[RunnerClient, RunnerClient]]:
    devices = board.device(), board.device()
    yield RunnerClient(devices[0], {}), RunnerClient(devices[1], {})
    for device in devices:
        device.close()


def test_a_second_host_waits_for_the_first_and_has_the_next_number(
    clients: tuple[RunnerClient, RunnerClient],
) -> None:
    first, second = clients
    numbers: list[int | None] = []

    def wait() -> None:
        with hold_device(second, "the second"):
            numbers.append(second.attempt)

    with hold_device(first, "the first"):
        held = first.attempt
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(1.0)
        assert numbers == []
    waiting.join(30)
    assert held is not None
    assert numbers == [held + 1]
    assert first.attempt is None


def test_a_host_that_lost_its_turn_is_refused_by_the_board(clients: tuple[RunnerClient, RunnerClient]) -> None:
    first, second = clients
    with hold_device(first, "the first"):
        first.call("probe", {}, time_limit_s=60)
        stale = first.attempt
    with hold_device(second, "the second"):
        second.call("probe", {}, time_limit_s=60)
        first.attempt = stale
        with pytest.raises(DeviceError, match="Another host took this device"):
            first.call("probe", {}, time_limit_s=60)


def test_those_who_compute_share_a_device_and_who_measures_has_it_alone(
    clients: tuple[RunnerClient, RunnerClient],
) -> None:
    first, second = clients
    with hold_device(first, "computes", shared=True):
        number = first.attempt
        with hold_device(second, "computes too", shared=True):
            assert second.attempt == number
            for each in clients:
                each.call("probe", {}, time_limit_s=60)
        with pytest.raises(Interrupted), hold_device(second, "measures", check=stop_soon()):
            raise AssertionError("it isn't alone")
        with pytest.raises(EdgebuildError, match="which is shared meanwhile"), hold_device(first, "measures"):
            raise AssertionError("it isn't alone")
    with hold_device(second, "measures"):
        assert number is not None
        assert second.attempt == number + 1
        with pytest.raises(Interrupted), hold_device(first, "computes", shared=True, check=stop_soon()):
            raise AssertionError("somebody measures")
        first.attempt = number
        with pytest.raises(DeviceError, match="Another host took this device"):
            first.call("probe", {}, time_limit_s=60)
        first.attempt = None
        stale = second.attempt
    with hold_device(first, "computes", shared=True):
        second.attempt = stale
        with pytest.raises(DeviceError, match="Another host took this device"):
            second.call("probe", {}, time_limit_s=60)
        second.attempt = None


def stop_soon() -> Callable[[], None]:
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 3:
            raise Interrupted("stopped")

    return check


def test_nobody_waits_longer_than_asked(clients: tuple[RunnerClient, RunnerClient]) -> None:
    first, second = clients
    with (
        hold_device(first, "the first"),
        pytest.raises(NoTimeToWait, match=r"\(the first\)' is measuring on"),
        hold_device(second, "the second", until_s=time.monotonic()),
    ):
        raise AssertionError("it isn't alone")
    with hold_device(second, "the second", until_s=time.monotonic() + 60):
        pass


def test_waiting_can_be_stopped(clients: tuple[RunnerClient, RunnerClient]) -> None:
    first, second = clients
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 3:
            raise Interrupted("stopped")

    with hold_device(first, "the first"), pytest.raises(Interrupted), hold_device(second, "the second", check=check):
        pass
    assert second.attempt is None


def test_a_measurement_started_on_the_machine_itself_counts_too(clients: tuple[RunnerClient, RunnerClient]) -> None:
    done = []

    def wait() -> None:
        with hold_device(clients[0], "over the network"):
            done.append(1)

    with measurement_lock("local"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(1.0)
        assert done == []
    waiting.join(30)
    assert done == [1]


def test_a_turn_ends_when_the_host_is_silent(
    clients: tuple[RunnerClient, RunnerClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = clients
    # Until it holds the device it knocks all the time, so that a slow machine doesn't take its start for silence.
    monkeypatch.setattr("edgebuild.devices.hold.HEARTBEAT_S", 0.1)
    monkeypatch.setattr("edgebuild.devices.client.SILENCE_S", 3.0)
    with hold_device(first, "the first"):
        held = first.attempt
        # As with a cut link: the channel stays open, and nothing comes over it any more.
        monkeypatch.setattr("edgebuild.devices.hold.HEARTBEAT_S", 3600.0)
        monkeypatch.setattr("edgebuild.devices.client.SILENCE_S", 600.0)
        with hold_device(second, "the second", check=stop_after(120.0)):
            assert held is not None
            assert second.attempt == held + 1
            with pytest.raises(DeviceError, match="Another host took this device"):
                first.call("probe", {}, time_limit_s=60)


def stop_after(seconds: float) -> Callable[[], None]:
    """A turn that never ends must fail the test, not hang it."""
    deadline = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > deadline:
            raise Interrupted("the first host's turn never ended")

    return check
