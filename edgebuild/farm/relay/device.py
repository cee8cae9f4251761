"""A board of a farm as a device: every call goes through the farm's server to the host that reaches the board."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from edgebuild import __version__
from edgebuild.devices.runner.protocol import FULL
from edgebuild.devices.transport import MAX_FILE_BYTES
from edgebuild.errors import DeviceError, EdgebuildError, StoreError
from edgebuild.farm.relay import wire
from edgebuild.farm.relay.channel import PROGRAM_S, FarmChannel, PendingCall
from edgebuild.farm.relay.link import LinkLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from edgebuild.core.capabilities import Capabilities
    from edgebuild.farm.relay.link import Link
    from edgebuild.farm.relay.wire import Bytes, FromHost

#: The host attaches and reaches its device within this; a slow one is started first.
ATTACH_S = 90.0
#: A file is on its way as long as bytes of it move; the host may need this long for the last part of the way.
FILE_S = 600.0
#: No device is slower than this, compared with a board.
MOST_PATIENCE = 100.0


class FarmDevice:
    """A board that is lent. Connects when it is first used. Not to be shared between threads.

    ``why_lost`` returns why the board can't be used any more, where the farm knows. ``give_back`` ends the lease.
    """

    detached = True
    on_host = False

    def __init__(
        self,
        name: str,
        attach: Callable[[], Link],
        *,
        why_lost: Callable[[], DeviceError | None] = lambda: None,
        give_back: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._attach = attach
        self._why_lost = why_lost
        self._give_back = give_back
        self._link: Link | None = None
        self._welcome: wire.Welcome | None = None
        self._lost: DeviceError | None = None
        self._calls: dict[int, PendingCall] = {}
        self._lock = threading.Lock()
        self._last = 0
        self._used_s = time.monotonic()

    @property
    def id(self) -> str:
        """The name in the farm, marked as a farm's."""
        return f"farm-{self.name}"

    @property
    def root(self) -> str:
        """The folder on the board. Connects."""
        return self._connected().root

    @property
    def python(self) -> str:
        """The board's interpreter. Connects."""
        return self._connected().python

    @property
    def capabilities(self) -> Capabilities:
        """What a build can ask of the board. Connects."""
        return self._connected().capabilities

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> FarmChannel:
        """Start a program; the host allows nothing but edgebuild's runner."""
        self._connected()
        call = self._begin()
        try:
            self.send(wire.Open(call=call.number, argv=tuple(argv), env=dict(env)))
            call.expect(wire.Done, PROGRAM_S)
        except BaseException:
            self.end_call(call)
            raise
        return FarmChannel(self, call)

    def put(self, source: Path, name: str) -> str:
        """Send a file, unless it is one that the host places itself, as it does with the runner."""
        root = self._connected().root
        with self._calling() as call:
            self.send(wire.Put(call=call.number, name=name, size_bytes=source.stat().st_size))
            answer = call.next(FILE_S)
            if isinstance(answer, wire.Send):
                with source.open("rb") as file:
                    while chunk := file.read(wire.CHUNK_BYTES):
                        self.send_bytes(call.number, chunk)
                answer = call.next(FILE_S)
            if not isinstance(answer, wire.Done) or not answer.path.startswith(f"{root}/"):
                raise self.nonsense(answer)
            return answer.path

    def get(self, remote: str, destination: Path, *, most_bytes: int = MAX_FILE_BYTES) -> None:
        """Fetch a plain file."""
        self._connected()
        partial = destination.with_name(destination.name + ".part")
        try:
            with partial.open("wb") as file, self._calling() as call:
                call.file = file
                self.send(wire.Get(call=call.number, remote=remote, most_bytes=most_bytes))
                size = call.expect(wire.Size, FILE_S).size_bytes
                call.expect(wire.Done, FILE_S)
                if call.failure is not None:
                    raise call.failure
                if call.taken != size or size > most_bytes:
                    raise DeviceError(f"{self.id}: {remote} didn't arrive as it was said to be.", hint="Try again.")
            partial.replace(destination)
        except OSError as error:
            kind = StoreError if error.errno in FULL else DeviceError
            raise kind(f"Can't write {destination}: {error.strerror}.", hint="Free some space.") from error
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, remote: str) -> None:
        """Remove a file or folder under the root."""
        self._connected()
        with self._calling() as call:
            self.send(wire.Remove(call=call.number, remote=remote))
            call.expect(wire.Done, FILE_S)

    def idle_s(self) -> float | None:
        """Return for how long nothing was asked of the board and nothing ran on it.

        None while something does, and where the board is lost: whoever uses it next has to hear of that.
        """
        with self._lock:
            return None if self._calls or self._lost is not None else time.monotonic() - self._used_s

    def close(self) -> None:
        """End what runs for this end there, and give the board back."""
        link, self._link = self._link, None
        self._lost = self._lost or DeviceError(f"{self.id} is closed.")
        try:
            if link is not None:
                link.close()
        finally:
            self._give_back()

    def send(self, message: wire.FromUser) -> None:
        """Say something to the host."""
        self._send(wire.write(message))

    def send_bytes(self, call: int, data: bytes) -> None:
        """Send bytes of a file."""
        self._send(wire.write_bytes(call, data))

    def end_call(self, call: PendingCall) -> None:
        """Nothing more of a call is awaited."""
        with self._lock:
            self._calls.pop(call.number, None)
            self._used_s = time.monotonic()

    def lost(self) -> DeviceError:
        """The error of a board that is gone."""
        return self._why_lost() or self._lost or DeviceError(f"{self.id} is lost.", hint="Run the command again.")

    def nonsense(self, answer: object) -> DeviceError:
        """The error of a host that doesn't keep to the protocol."""
        return DeviceError(
            f"The host of {self.id} answers with {type(answer).__name__}, which makes no sense there.",
            hint="Both ends have to run the same edgebuild.",
        )

    def _send(self, frame: str | bytes) -> None:
        if self._link is None:
            raise self.lost()
        try:
            self._link.send(frame)
        except LinkLost as error:
            raise self._broken(error) from error

    def _connected(self) -> wire.Welcome:
        if self._lost is not None:
            raise self.lost()
        if self._welcome is None:
            self._welcome = self._connect()
        return self._welcome

    def _connect(self) -> wire.Welcome:
        self._link = link = self._attach()
        try:
            link.send(wire.write(wire.Hello(version=__version__)))
            answer = wire.read_from_host(link.receive(ATTACH_S))
        except TimeoutError:
            raise DeviceError(
                f"The host of {self.id} doesn't say anything.", hint="`edgebuild farm list` shows whether it is there."
            ) from None
        except LinkLost as error:
            raise self._broken(error) from error
        if isinstance(answer, wire.Failed):
            raise wire.raised(answer)
        if not isinstance(answer, wire.Welcome) or not 1.0 <= answer.capabilities.patience <= MOST_PATIENCE:
            raise self.nonsense(answer)
        threading.Thread(target=self._listen, args=(link,), name="edgebuild-relay", daemon=True).start()
        return answer

    def _listen(self, link: Link) -> None:
        """Hand what the host says to whoever waits for it, until the relay ends."""
        try:
            while True:
                self._hand_on(wire.read_from_host(link.receive()))
        except LinkLost as error:
            self._broken(error)
        except EdgebuildError as error:
            self._lost = DeviceError(f"{self.id}: {error.message}", hint=error.hint)
            link.close()
        with self._lock:
            waiting = list(self._calls.values())
        for call in waiting:
            call.answers.put(None)

    def _hand_on(self, message: FromHost | Bytes) -> None:
        with self._lock:
            call = self._calls.get(getattr(message, "call", 0))
        if call is not None:
            call.take(message)
        elif isinstance(message, wire.Failed) and message.call == 0:
            raise wire.raised(message)

    def _broken(self, error: LinkLost) -> DeviceError:
        self._lost = self._lost or DeviceError(
            f"The relay to {self.id} ended: {error.message.removesuffix('.')}.",
            hint="What ran there has ended. Run the command again: it resumes where it was.",
        )
        return self.lost()

    def _begin(self) -> PendingCall:
        with self._lock:
            self._last += 1
            call = self._calls[self._last] = PendingCall(self._last, self)
        return call

    @contextlib.contextmanager
    def _calling(self) -> Iterator[PendingCall]:
        call = self._begin()
        try:
            yield call
        finally:
            self.end_call(call)
