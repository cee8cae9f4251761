"""A program that a host runs for the user at the other end of a relay."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from edgebuild.devices.transport import MAX_LINE_BYTES
from edgebuild.errors import DeviceError, EdgebuildError
from edgebuild.farm.relay import wire
from edgebuild.farm.relay.link import LinkLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.devices.transport import Channel
    from edgebuild.farm.relay.allowed import Rules
    from edgebuild.farm.relay.wire import FromHost, Line

#: How soon it is seen that a program is to be killed.
POLL_S = 0.05
KILLED = -9


class _Stopped(Exception):
    """The program is to be killed."""


class Program:
    """Sends what a program writes to the user, as far as there is room, and the user's lines to it.

    One thread reads its output and ends it; what the user says comes from another.
    """

    def __init__(
        self,
        call: int,
        channel: Channel,
        *,
        rules: Rules,
        send: Callable[[FromHost], None],
        device: threading.Lock,
        ended: Callable[[int], None],
    ) -> None:
        self._call = call
        self._channel = channel
        self._rules = rules
        self._send = send
        self._device = device
        self._ended = ended
        self._room = wire.WINDOW
        self._stopping = False
        self._changed = threading.Condition()
        self._parts: list[str] = []
        self._asked = False
        self._failure: EdgebuildError | None = None
        self.thread = threading.Thread(target=self._run, name=f"edgebuild-program-{call}", daemon=True)

    def take(self, piece: Line) -> None:
        """Hand a line of the user's to the program once it is whole; one that isn't allowed ends the program."""
        self._parts.append(piece.text)
        if piece.more:
            if sum(map(len, self._parts)) > MAX_LINE_BYTES:
                self._fail(DeviceError(f"A line to a program is longer than {MAX_LINE_BYTES} bytes."))
            return
        line, self._parts = "".join(self._parts), []
        try:
            allowed = self._rules.word(line) if self._asked else self._rules.request(line)
        except EdgebuildError as error:
            self._fail(error)
            return
        self._asked = True
        # One that reads no more has ended, or was killed meanwhile: its output says how.
        with contextlib.suppress(DeviceError, ValueError, OSError):
            self._channel.send(allowed)

    def make_room(self, room: int) -> None:
        """The user has read so much."""
        with self._changed:
            self._room = min(wire.WINDOW, self._room + room)
            self._changed.notify_all()

    def stop(self) -> None:
        """Have it killed."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _fail(self, error: EdgebuildError) -> None:
        self._failure = error
        self.stop()

    def _run(self) -> None:
        try:
            self._tell(self._follow)
        finally:
            self._kill()
            self._ended(self._call)

    def _tell(self, follow: Callable[[], FromHost]) -> None:
        """Say how it ended, to whoever is still there."""
        with contextlib.suppress(LinkLost):
            try:
                self._send(follow())
            except _Stopped:
                self._kill()
                failure = self._failure
                self._send(
                    wire.Ended(call=self._call, status=KILLED, said=self._said())
                    if failure is None
                    else wire.failed(self._call, failure, self._said())
                )
            except LinkLost:
                raise
            except Exception as error:  # noqa: BLE001  whatever went wrong is the answer
                self._send(wire.failed(self._call, error, self._said()))

    def _follow(self) -> FromHost:
        while (line := self._line()) is not None:
            for piece in wire.pieces(self._call, line):
                self._await_room(wire.cost(piece))
                self._send(piece)
        self._send(wire.OutputEnd(call=self._call, said=self._said()))
        while True:
            try:
                status = self._channel.wait(POLL_S)
            except TimeoutError:
                self._require_wanted()
                continue
            return wire.Ended(call=self._call, status=status, said=self._said())

    def _line(self) -> str | None:
        while True:
            self._require_wanted()
            try:
                return self._channel.receive(POLL_S)
            except TimeoutError:
                continue

    def _await_room(self, cost: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._room >= cost)
            self._room -= cost
        self._require_wanted()

    def _require_wanted(self) -> None:
        if self._stopping:
            raise _Stopped

    def _kill(self) -> None:
        with self._device:
            self._channel.kill()

    def _said(self) -> str:
        return self._channel.stderr_tail()[-wire.SAID_CHARACTERS :]
