"""A set: all arms of a round alive at once, each in its own process, taking bursts in turn; the others stand still.

On a shared machine most noise lies in the seconds, not in the launch: bursts that follow each other see the same
neighbours, so that their ratios say much more than those of launches that follow each other. What processes differ in
from start to start (memory layout, say) lies between sets, which are renewed for it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from edgebuild.execution.faults import Failure
from edgebuild.measuring import statistics
from edgebuild.measuring.launching import fetch_launch, grace_s, launch_request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edgebuild.core.measurement import Launch
    from edgebuild.devices.client import LiveRun
    from edgebuild.measuring.protocols import Protocol
    from edgebuild.measuring.session import Arm, MeasurementContext

T = TypeVar("T")

#: Turns take as long as their inferences: after so many times the time that bursts are to take there are no more, but
#: there are always so many.
LONGEST = 2.0
LEAST_TURNS = 8
#: A further process is started where the device has so many times the memory left that the largest took, and this much.
ROOM_SHARE = 1.5
ROOM_BYTES = 128 << 20


class TooLittleRoomError(Exception):
    """The arms can't be alive on the device together."""


class LiveSet:
    """The arms of one round, alive until the ``with`` ends. ``failed`` holds those that failed, and left."""

    def __init__(self, bench: MeasurementContext, protocol: Protocol, arms: Sequence[Arm]) -> None:
        self._bench, self._protocol, self._arms = bench, protocol, {arm.id: arm for arm in arms}
        self._stack = contextlib.ExitStack()
        self._live: dict[str, tuple[LiveRun, str]] = {}
        self.failed: dict[str, Failure] = {}

    def __enter__(self) -> LiveSet:
        """Start them, one after the other; raises ``TooLittleRoomError`` where the next one may not fit."""
        with self._stack as stack:
            for arm in self._arms.values():
                self._attempt(arm, partial(self._place, arm))
            left: int | None = None
            largest = 0
            for arm in [one for one in self._arms.values() if one.id not in self.failed]:
                if left is not None and left < ROOM_SHARE * largest + ROOM_BYTES:
                    raise TooLittleRoomError
                before, left = left, self._attempt(arm, partial(self._start, stack, arm))
                if before is not None and left is not None:
                    largest = max(largest, before - left)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End what is left of them."""
        self._stack.close()

    def take_bursts(self, seed: int, done: Callable[[str], None]) -> None:
        """Let the arms take all bursts, in an order that balances what ran before what; ``done`` hears of each."""
        longest_s = LONGEST * self._protocol.bursts * self._protocol.burst_s * len(self._live)
        started = time.monotonic()
        for turn, names in enumerate(statistics.order(tuple(self._live), self._protocol.bursts, seed)):
            if turn >= LEAST_TURNS and time.monotonic() - started > longest_s:
                break
            for name in names:
                if name in self._live:
                    self._attempt(self._arms[name], self._live[name][0].burst)
                    done(name)

    def end(self, arm: Arm, folder: Path, *, index: int, label: str) -> Launch | None:
        """Return an arm's launch, its samples fetched into ``folder``; None where it failed, now or before."""
        if arm.id not in self._live:
            return None
        return self._attempt(arm, partial(self._end, arm, folder, index, label))

    def _attempt(self, arm: Arm, work: Callable[[], T]) -> T | None:
        found = self._bench.attempt(replace(arm, keep=False), work)
        if isinstance(found, Failure):
            self.failed[arm.id] = found
            if arm.id in self._live:
                self._live.pop(arm.id)[0].close()
            return None
        return found

    def _place(self, arm: Arm) -> None:
        """Send what it needs, before others wait for their turn."""
        self._bench.client.put_folder(arm.folder)
        self._bench.client.put_folder(arm.inputs)

    def _start(self, stack: contextlib.ExitStack, arm: Arm) -> int | None:
        """Start an arm, and return how much memory the device has left, in bytes, where it knows."""
        client, protocol = self._bench.client, self._protocol
        remote = stack.enter_context(client.workspace())
        one_s = protocol.warmup_cap_s + grace_s(arm.artifact)
        run = client.live(
            {
                **launch_request(client, protocol, arm, remote),
                "burst_s": protocol.burst_s,
                "burst_inferences": protocol.burst_inferences,
                "bursts": protocol.bursts,
            },
            time_limit_s=len(self._arms) * (2 * one_s + 2 * LONGEST * protocol.bursts * protocol.burst_s),
            silence_s=one_s,
            check=self._check,
        )
        stack.callback(run.close)
        left = run.ready()
        self._live[arm.id] = run, remote
        return left

    def _end(self, arm: Arm, folder: Path, index: int, label: str) -> Launch:
        run, remote = self._live[arm.id]
        answer = run.end()
        run.close()
        return fetch_launch(self._bench.client, answer, remote, folder, index=index, label=label)

    def _check(self) -> None:
        for run, _ in self._live.values():
            run.knock()
        self._bench.check()
