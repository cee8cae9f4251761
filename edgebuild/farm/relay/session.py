"""What a host does for the user at the other end of a relay, from the first word to the last."""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgebuild.core.values import digest_file
from edgebuild.devices.runner.protocol import FULL
from edgebuild.errors import DataError, DeviceError, StoreError
from edgebuild.farm.relay import wire
from edgebuild.farm.relay.link import LinkLost
from edgebuild.farm.relay.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgebuild.devices.transport import Device
    from edgebuild.farm.relay.allowed import Rules
    from edgebuild.farm.relay.link import Link
    from edgebuild.farm.relay.wire import Bytes, FromHost, FromUser, Get, Line, Open, Put, Remove

#: What was running when a relay ended is over within this.
END_S = 30.0


class Session:
    """Serves one user. ``runner`` is this host's own, which isn't taken from anybody.

    Calls are done one after the other, as a device asks for; programs run beside them.
    """

    def __init__(self, link: Link, device: Device, rules: Rules, runner: Path) -> None:
        self._link = link
        self._device = device
        self._rules = rules
        self._runner = runner
        self._alone = threading.Lock()
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue(wire.MOST_CALLS)
        self._over = threading.Event()
        self._worker = threading.Thread(target=self._work, name="edgebuild-relay-calls", daemon=True)
        self._programs: dict[int, Program] = {}
        self._uploads: dict[int, _Upload] = {}
        self._last = 0

    def run(self) -> bool:
        """Serve until the relay ends; return whether everything that ran for the user is over then."""
        self._worker.start()
        try:
            while True:
                self._take(wire.read_from_user(self._link.receive()))
        except LinkLost:
            pass
        except DeviceError as error:
            with contextlib.suppress(LinkLost):
                self._send(wire.failed(0, error))
        finally:
            over = self._end()
        return over

    def _take(self, message: FromUser | Bytes) -> None:
        match message:
            case wire.Line() | wire.Room() | wire.Kill():
                self._to_program(message)
            case wire.Bytes():
                upload = self._uploads.get(message.call)
                if upload is not None:
                    upload.take(message.data)
            case wire.Open() | wire.Put() | wire.Get() | wire.Remove():
                self._begin(message)
            case wire.Hello():
                raise DeviceError("The other end of the relay says hello twice.")

    def _to_program(self, message: Line | wire.Room | wire.Kill) -> None:
        program = self._programs.get(message.call)
        if program is None:
            return  # it has ended, and the user hears of it
        match message:
            case wire.Line():
                program.take(message)
            case wire.Room():
                program.make_room(message.room)
            case wire.Kill():
                program.stop()

    def _begin(self, message: Open | Put | Get | Remove) -> None:
        if message.call <= self._last:
            raise DeviceError("The other end of the relay counts its calls wrongly.")
        self._last = message.call
        work = {"open": self._open, "put": self._put, "get": self._get, "remove": self._remove}[message.kind]
        if isinstance(message, wire.Put):
            self._uploads[message.call] = _Upload(message.size_bytes)
        try:
            self._calls.put_nowait(lambda: self._answer(message.call, lambda: work(message)))  # type: ignore[operator]
        except queue.Full:
            raise DeviceError(f"More than {wire.MOST_CALLS} calls wait for the device.") from None

    def _work(self) -> None:
        while not self._over.is_set():
            work = self._calls.get()
            with contextlib.suppress(LinkLost):
                work()

    def _answer(self, call: int, work: Callable[[], FromHost | None]) -> None:
        try:
            answer = work()
        except LinkLost:
            raise
        except Exception as error:  # noqa: BLE001  whatever went wrong is the answer
            answer = wire.failed(call, error)
        if answer is not None:
            self._send(answer)

    def _open(self, wanted: Open) -> None:
        self._rules.require_program(wanted.argv, wanted.env)
        if len(self._programs) >= wire.MOST_CALLS:
            raise DeviceError(f"More than {wire.MOST_CALLS} programs run for one lease.")
        with self._alone:
            channel = self._device.open(wanted.argv, wanted.env)
        program = Program(
            wanted.call,
            channel,
            rules=self._rules,
            send=self._send,
            device=self._alone,
            ended=self._forget,
        )
        self._programs[wanted.call] = program
        try:
            # The user hears that it began before anything that it says.
            self._send(wire.Done(call=wanted.call))
        finally:
            program.thread.start()

    def _forget(self, call: int) -> None:
        self._programs.pop(call, None)

    def _put(self, wanted: Put) -> FromHost:
        upload = self._uploads[wanted.call]
        try:
            if self._rules.own(wanted.name):
                with self._alone:
                    return wire.Done(call=wanted.call, path=self._device.put(self._runner, wanted.name))
            digest = self._rules.digest(wanted.name)
            with tempfile.TemporaryDirectory(prefix="edgebuild-relay-") as scratch:
                file = Path(scratch, "file")
                with upload.into(file):
                    self._send(wire.Send(call=wanted.call))
                    upload.wait()
                if digest and digest_file(file) != digest:
                    raise DataError(f"The file {digest} arrived damaged at the device's host.", hint="Try again.")
                with self._alone:
                    return wire.Done(call=wanted.call, path=self._device.put(file, wanted.name))
        finally:
            del self._uploads[wanted.call]

    def _get(self, wanted: Get) -> FromHost:
        self._rules.require_readable(wanted.remote)
        with tempfile.TemporaryDirectory(prefix="edgebuild-relay-") as scratch:
            file = Path(scratch, "file")
            with self._alone:
                self._device.get(wanted.remote, file, most_bytes=wanted.most_bytes)
            self._send(wire.Size(call=wanted.call, size_bytes=file.stat().st_size))
            with file.open("rb") as opened:
                while chunk := opened.read(wire.CHUNK_BYTES):
                    self._link.send(wire.write_bytes(wanted.call, chunk))
        return wire.Done(call=wanted.call)

    def _remove(self, wanted: Remove) -> FromHost:
        self._rules.require_removable(wanted.remote)
        with self._alone:
            self._device.remove(wanted.remote)
        return wire.Done(call=wanted.call)

    def _send(self, message: FromHost) -> None:
        self._link.send(wire.write(message))

    def _end(self) -> bool:
        """End everything that runs for the user; return whether it did."""
        self._link.close()
        self._over.set()
        for upload in list(self._uploads.values()):
            upload.give_up()
        with contextlib.suppress(queue.Full):  # else it has work that tells it
            self._calls.put_nowait(lambda: None)
        stopped = self._stop_programs()
        self._worker.join(END_S)
        stopped += self._stop_programs()  # one that it was just starting
        for program in stopped:
            program.thread.join(END_S)
        return not any(thread.is_alive() for thread in (self._worker, *(one.thread for one in stopped)))

    def _stop_programs(self) -> list[Program]:
        programs = list(self._programs.values())
        for program in programs:
            program.stop()
        return programs


class _Upload:
    """The bytes of one file, on their way from the user to a file of the host's."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes
        self._file: IO[bytes] | None = None
        self._failure: Exception | None = None
        self._whole = threading.Event()

    @contextlib.contextmanager
    def into(self, path: Path) -> Iterator[None]:
        """Write what comes to ``path`` while the block runs."""
        with path.open("xb") as self._file:
            if self._left == 0:
                self._whole.set()
            yield

    def take(self, data: bytes) -> None:
        """Take the next bytes."""
        self._left -= len(data)
        if self._left < 0 or self._file is None:
            raise DeviceError("The other end of the relay sends bytes of a file that nobody awaits.")
        try:
            if self._failure is None:
                self._file.write(data)
        except OSError as error:
            self._failure = error
        if self._left == 0:
            self._whole.set()

    def wait(self) -> None:
        """Return once it is whole; raises ``StoreError`` where this host's disk is full, ``LinkLost``."""
        self._whole.wait()
        if isinstance(self._failure, OSError) and self._failure.errno in FULL:
            raise StoreError("The disk of the device's host is full.", hint="Its admin has to make room.")
        if self._failure is not None:
            raise self._failure

    def give_up(self) -> None:
        """Nothing more comes."""
        self._failure = LinkLost("the relay ended")
        self._whole.set()
