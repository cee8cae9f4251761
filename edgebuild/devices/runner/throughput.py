"""One launch with several requests in flight: how many are completed in a second, in the steady state."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from array import array
from itertools import count

from . import measure
from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .artifact import Opened
    from .feeding import Loop
    from .protocol import Fields, Wire


def throughput(request: Fields, wire: Wire) -> Fields:
    """Return the fields of a launch as ``measure`` does, and ``requests``, ``concurrent`` and ``per_s`` beside them.

    ``per_s`` counts calls, whatever their batch. The samples are the starts, then the ends of all calls in ns from the
    beginning of the window. Without ``Flight`` in the backend's device code, and for models that carry state from call
    to call, one request is in flight and ``concurrent`` is false.
    """
    return measure.launch(request, wire, Flights())


class Flights(measure.Mode):
    """Opens what runs many requests at once, where there is such a thing."""

    def open(self, opened: Opened) -> Any:
        """Return the backend's ``Flight``, else its session."""
        flight = getattr(opened.backend, "Flight", None)
        return opened.session(None if opened.contract["state"] else flight)

    def bench(self, session: Any, loop: Loop, feeds: list[Fields], firsts: list[bool], capacity: int) -> FlightBench:
        """Return what keeps them in flight."""
        return FlightBench(session, loop, feeds, firsts, capacity)


class FlightBench(measure.Bench):
    """Keeps as many calls in flight as the session has requests."""

    def __init__(self, session: Any, loop: Loop, feeds: list[Fields], firsts: list[bool], capacity: int) -> None:
        super().__init__(loop, feeds, firsts, capacity)
        self._callers = list(getattr(session, "callers", ()))
        self._concurrent = bool(self._callers)
        self._requests = max(1, len(self._callers))
        self._starts = array("q", bytes(8 * capacity))
        self._ends = array("q", bytes(8 * capacity))

    def run(self, seconds: float, least: int) -> int:
        """Keep calls in flight for ``seconds``, until ``least`` and two rounds are done; return how many were."""
        clock, starts, ends, slots, most = time.perf_counter_ns, self._starts, self._ends, count(), len(self._ends)
        least = min(max(least, 2 * self._requests), most - self._requests)
        begin = clock()
        until = begin + int(seconds * 1e9)
        done = [0]

        def stop() -> bool:
            return done[0] >= most - self._requests or (done[0] >= least and clock() >= until)

        def ended(start: int) -> None:
            """Note a call that began at ``start`` and is over; several threads may say so at once."""
            now = clock()
            slot = next(slots)
            if slot < most:
                starts[slot], ends[slot] = start - begin, now - begin
                done[0] = slot + 1

        (self._side_by_side if self._concurrent else self._one_by_one)(self._feeds, stop, ended)
        total = min(next(slots), most)
        for index in range(total):
            self._samples[index] = ends[index] - starts[index]
        return total

    def spread(self, count: int) -> float:
        """Without bound: every call counts in a rate."""
        del count
        return float("inf")

    def save(self, folder: str, count: int) -> Fields:
        """Write starts and ends as little-endian int64 and return what a launch says of them."""
        both = self._starts[:count] + self._ends[:count]
        if sys.byteorder == "big":
            both.byteswap()
        data = both.tobytes()
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, measure.SAMPLES_FILE), "wb") as file:
            file.write(data)
        return {
            "samples": measure.SAMPLES_FILE,
            "samples_sha256": hashlib.sha256(data).hexdigest(),
            "count": count,
            "median_ns": int(self._median(count)),
            "requests": self._requests,
            "concurrent": self._concurrent,
            "per_s": rate(self._ends[:count], self._requests),
        }

    def _side_by_side(self, feeds: list[Fields], stop: Any, ended: Any) -> None:
        """One thread for each request; the first that fails ends all."""
        turns, failures = count(), []  # type: ignore[var-annotated]

        def work(call: Any) -> None:
            try:
                while not stop() and not failures:
                    feed = feeds[next(turns) % len(feeds)]
                    start = time.perf_counter_ns()
                    call(feed)
                    ended(start)
            except Exception as error:  # noqa: BLE001  reported by the thread that waits
                failures.append(error)

        threads = [threading.Thread(target=work, args=(call,)) for call in self._callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _one_by_one(self, feeds: list[Fields], stop: Any, ended: Any) -> None:
        clock, call, reset, firsts, size = time.perf_counter_ns, self._call, self._reset, self._firsts, len(feeds)
        index = self._next
        while not stop():
            if firsts[index]:
                reset()
            start = clock()
            call(feeds[index])
            ended(start)
            index = (index + 1) % size
        self._next = index


def rate(ends: Any, requests: int) -> float:
    """Return completions a second between the end of the first round and that of the last but one.

    In the first round nothing ran yet, in the last one what was in flight ran alongside fewer and fewer others.
    """
    ordered = sorted(ends)
    first, last = requests - 1, len(ordered) - requests
    if last <= first:
        first, last = 0, len(ordered) - 1
    nanoseconds = int(ordered[last] - ordered[first])
    if nanoseconds <= 0:
        raise Problem("runtime", "Too few calls were completed to tell a rate.")
    return (last - first) * 1e9 / nanoseconds
