"""Work by several threads: results in order, the first failure in order, and no thread left."""

from __future__ import annotations

import threading

import pytest

from edgebuild.execution.abreast import abreast


def test_results_come_in_the_order_of_the_items() -> None:
    later = threading.Event()

    def work(number: int) -> int:
        # The second item ends before the first one may.
        if number == 0:
            assert later.wait(60)
        if number == 1:
            later.set()
        return number * 2

    assert abreast(work, range(9), 2) == [number * 2 for number in range(9)]
    assert abreast(work, [5]) == [10]
    assert abreast(work, []) == []


def test_the_first_failure_is_raised_and_no_thread_is_left() -> None:
    def work(number: int) -> None:
        if number in (1, 2):
            raise ValueError(str(number))

    before = threading.active_count()
    with pytest.raises(ValueError, match="1"):
        abreast(work, range(100), 2)
    assert threading.active_count() == before
