"""What the host of a farm's board says to one call of its user's, and a program that runs there."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from edgebuild.devices.transport import MAX_FILE_BYTES, MAX_LINE_BYTES
from edgebuild.errors import DeviceError, EdgebuildError
from edgebuild.farm.relay import wire

if TYPE_CHECKING:
    from typing import IO

    from edgebuild.farm.relay.wire import Bytes, FromHost

T = TypeVar("T")

#: A program starts, or is killed, within this.
PROGRAM_S = 60.0


class Owner(Protocol):
    """What a call needs of the device that it is made of."""

    @property
    def id(self) -> str:
        """The device's name, for messages."""
        ...

    def send(self, message: wire.FromUser) -> None:
        """Say something to the host."""
        ...

    def end_call(self, call: PendingCall) -> None:
        """Nothing more of a call is awaited."""
        ...

    def lost(self) -> DeviceError:
        """The error of a board that is gone."""
        ...

    def nonsense(self, answer: object) -> DeviceError:
        """The error of a host that doesn't keep to the protocol."""
        ...


class PendingCall:
    """What the host says to one call. ``file`` takes the bytes that come."""

    def __init__(self, number: int, device: Owner) -> None:
        self.number = number
        self.answers: queue.SimpleQueue[FromHost | None] = queue.SimpleQueue()
        self.file: IO[bytes] | None = None
        self.taken = 0
        self.failure: OSError | None = None
        self._device = device
        self._waiting = 0
        self._lock = threading.Lock()

    def take(self, message: FromHost | Bytes) -> None:
        """Take what was said; raises ``DeviceError`` where there is no room for it."""
        if isinstance(message, wire.Bytes):
            self._write(message.data)
            return
        self._waits(wire.cost(message) if isinstance(message, wire.Line) else wire.LINE_COST)
        self.answers.put(message)

    def took(self, cost: int) -> None:
        """So much of what waited was read."""
        self._waits(-cost)

    def next(self, timeout_s: float) -> FromHost:
        """Return what is said next; raises what went wrong there, and ``DeviceError`` where nothing is said in time."""
        try:
            answer = self.answers.get(timeout=timeout_s)
        except queue.Empty:
            raise DeviceError(f"{self._device.id} didn't answer within {timeout_s:g} s.", hint="Is it busy?") from None
        if answer is None:
            raise self._device.lost()
        if isinstance(answer, wire.Failed):
            raise wire.raised(answer)
        return answer

    def expect(self, kind: type[T], timeout_s: float) -> T:
        """Return what is said next, which is of this kind."""
        answer = self.next(timeout_s)
        if not isinstance(answer, kind):
            raise self._device.nonsense(answer)
        return answer

    def _waits(self, more: int) -> None:
        with self._lock:
            self._waiting += more
            # A call's few answers beside the lines cost little more.
            if self._waiting > wire.WINDOW + 16 * wire.LINE_COST:
                raise DeviceError("The device's host sends more than there is room for.")

    def _write(self, data: bytes) -> None:
        self.taken += len(data)
        if self.file is None or self.file.closed or self.taken > MAX_FILE_BYTES:
            raise DeviceError("The device's host sends bytes of a file that nobody awaits.")
        try:
            if self.failure is None:
                self.file.write(data)
        except OSError as error:
            self.failure = error


class FarmChannel:
    """A program on a farm's board; its output waits there while nobody reads it here."""

    def __init__(self, device: Owner, call: PendingCall) -> None:
        self._device = device
        self._call = call
        self._parts: list[str] = []
        self._length = 0
        self._read = 0
        self._said = ""
        self._output_ended = False
        self._status: int | None = None
        self._failure: EdgebuildError | None = None
        self._killed = False

    def send(self, line: str) -> None:
        """Write one line."""
        if self._failure is not None:
            raise self._failure
        if self._killed or self._status is not None:
            raise DeviceError(f"{self._device.id}: the program's input is closed.")
        for piece in wire.pieces(self._call.number, line):
            self._device.send(piece)

    def receive(self, timeout_s: float) -> str | None:
        """Return the next line."""
        deadline = time.monotonic() + timeout_s
        while not self._output_ended:
            message = self._next(deadline)
            if isinstance(message, wire.Line) and (line := self._joined(message)) is not None:
                return line
        return None

    def wait(self, timeout_s: float) -> int:
        """Wait for the end, dropping what is still written."""
        deadline = time.monotonic() + timeout_s
        while self._status is None:
            if isinstance(message := self._next(deadline), wire.Line):
                self._make_room(message)
        return self._status

    def kill(self) -> None:
        """Have the host end it and everything that it started; where the relay is gone, the host does so by itself."""
        if self._killed:
            return
        self._killed = True
        with contextlib.suppress(EdgebuildError, TimeoutError):
            if self._status is None and self._failure is None:
                self._device.send(wire.Kill(call=self._call.number))
                self.wait(PROGRAM_S)
        self._device.end_call(self._call)

    def stderr_tail(self) -> str:
        """Return at most 16 KiB from the end of the error output."""
        return self._said

    def _next(self, deadline: float) -> FromHost:
        """Return what the host says next of the program; raises ``TimeoutError``, and what ended the program."""
        if self._failure is not None:
            raise self._failure
        try:
            message = self._call.answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        match message:
            case None:
                self._failure = self._device.lost()
                raise self._failure
            case wire.Failed():
                self._output_ended, self._said = True, message.said
                self._failure = wire.raised(message)
                raise self._failure
            case wire.OutputEnd():
                self._output_ended, self._said = True, message.said
            case wire.Ended():
                self._output_ended, self._said, self._status = True, message.said, message.status
            case wire.Line():
                pass
            case _:
                self._failure = self._device.nonsense(message)
                raise self._failure
        return message

    def _joined(self, piece: wire.Line) -> str | None:
        """Return a line once it is whole."""
        self._make_room(piece)
        self._parts.append(piece.text)
        self._length += len(piece.text)
        if self._length > MAX_LINE_BYTES:
            self._failure = DeviceError(f"{self._device.id} wrote a line of more than {MAX_LINE_BYTES} bytes.")
            raise self._failure
        if piece.more:
            return None
        line, self._parts, self._length = "".join(self._parts), [], 0
        return line

    def _make_room(self, piece: wire.Line) -> None:
        """Say so now and then, in large pieces."""
        self._call.took(wire.cost(piece))
        self._read += wire.cost(piece)
        if self._read >= wire.WINDOW // 4:
            room, self._read = self._read, 0
            with contextlib.suppress(DeviceError):  # what is lost is said by what is read next
                self._device.send(wire.Room(call=self._call.number, room=min(room, wire.WINDOW)))
