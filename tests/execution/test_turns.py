"""Work in several threads: one at a time on the host, all at once on devices, and one failure ends them all."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait as futures_wait
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.steps import never_stop
from edgebuild.errors import DeviceError, Interrupted
from edgebuild.execution.turns import HostTurn, Stopping, side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 20.0


def test_one_piece_of_work_needs_no_thread() -> None:
    main = threading.get_ident()
    assert side_by_side([threading.get_ident], HostTurn(), Stopping(never_stop)) == [main]


def test_host_work_never_overlaps_and_device_work_does() -> None:
    turn, met = HostTurn(), threading.Barrier(3, timeout=LIMIT_S)
    inside: list[int] = []

    def work(number: int) -> Callable[[], int]:
        def run() -> int:
            for _ in range(20):
                with turn.taken():  # re-entrant
                    inside.append(number)
                    time.sleep(0.001)
                    assert inside.pop() == number
                    assert not inside
            with turn.lent(), turn.lent():
                met.wait()  # only if all three are on their devices at once
            assert not inside
            return number

        return run

    assert side_by_side([work(number) for number in range(3)], turn, Stopping(never_stop)) == [0, 1, 2]


def test_a_step_on_the_host_amidst_device_work_takes_its_turn() -> None:
    turn, has_it, may_end = HostTurn(), threading.Event(), threading.Event()

    def other() -> None:
        with turn.taken():
            has_it.set()
            may_end.wait(LIMIT_S)

    thread = threading.Thread(target=other)
    with turn.taken(), turn.lent():
        thread.start()
        assert has_it.wait(LIMIT_S)
        with pytest.raises(Interrupted), turn.taken(stopped):
            raise AssertionError("the other thread has the turn")
        may_end.set()
        thread.join(LIMIT_S)
        with turn.taken(stopped):
            pass


def stopped() -> None:
    raise Interrupted("stopped")


def test_the_first_failure_stops_the_others_and_is_raised() -> None:
    turn, stopping = HostTurn(), Stopping(never_stop)
    ended: list[str] = []

    def fails() -> Any:
        with turn.lent():
            raise DeviceError("the board is gone")

    def waits() -> Any:
        with turn.lent():
            try:
                while True:
                    stopping()
                    time.sleep(0.01)
            finally:
                ended.append("tidied up")

    with pytest.raises(DeviceError, match="the board is gone"):
        side_by_side([waits, fails, waits], turn, stopping)
    assert ended == ["tidied up"] * 2
    with turn.taken(stopped):
        pass  # nobody kept the turn


def test_ctrl_c_while_the_others_stop_after_a_failure_keeps_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    turn, stopping, go_on = HostTurn(), Stopping(never_stop), threading.Event()
    interrupted: list[bool] = []

    def wait(futures: Any, *rest: Any) -> Any:
        if not rest and not interrupted:  # the wait for those that are still stopping
            interrupted.append(True)
            go_on.set()
            raise KeyboardInterrupt
        return futures_wait(futures, *rest)

    monkeypatch.setattr("edgebuild.execution.turns.wait", wait)

    def fails() -> Any:
        with turn.lent():
            raise DeviceError("the board is gone")

    def lingers() -> Any:
        with turn.lent():
            assert go_on.wait(LIMIT_S)

    with pytest.raises(DeviceError, match="the board is gone"):
        side_by_side([fails, lingers], turn, stopping)
    assert interrupted


def test_what_stops_the_caller_stops_all() -> None:
    turn, seen = HostTurn(), threading.Event()

    def check() -> None:
        if seen.is_set() and threading.current_thread() is threading.main_thread():
            raise Interrupted("Ctrl-C")

    stopping = Stopping(check)

    def waits() -> Any:
        with turn.lent():
            seen.set()
            while True:
                stopping()
                time.sleep(0.01)

    with pytest.raises(Interrupted, match="Ctrl-C"):
        side_by_side([waits, waits], turn, stopping)


def test_after_a_success_work_goes_on() -> None:
    stopping = Stopping(never_stop)
    side_by_side([lambda: 1, lambda: 2], HostTurn(), stopping)
    stopping()
