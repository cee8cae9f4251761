"""A program that runs on a board, over SSH."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import signal
import time
from typing import TYPE_CHECKING, Any, Protocol

from edgebuild.devices.messages import tail, whole_number
from edgebuild.devices.ssh.connection import CONNECT_S
from edgebuild.devices.ssh.loop import import_asyncssh
from edgebuild.devices.transport import MAX_LINE_BYTES
from edgebuild.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Awaitable


#: A request is written within this.
SEND_S = 60.0
READ_BYTES = 1 << 16
#: Output that nobody has read yet; beyond this the board waits.
MAX_WAITING_CHUNKS = 64
STDERR_TAIL_BYTES = 16 << 10
#: The shell's own words for a program that isn't there or can't be run.
NOT_RUNNABLE = frozenset({126, 127})


def _signal_number(exit_signal: Any) -> int:
    """Return the number of the signal that a board names; one that Linux doesn't know counts as a kill."""
    name = exit_signal[0] if isinstance(exit_signal, tuple) and exit_signal else exit_signal
    found = signal.Signals.__members__.get(f"SIG{name}")
    return int(signal.SIGKILL if found is None else found)


class Link(Protocol):
    """What a channel needs of the connection that it runs over."""

    @property
    def id(self) -> str:
        """The device's name, for messages."""
        ...

    def wait_for(self, coroutine: Awaitable[Any], what: str, limit_s: float | None) -> Any:
        """Run a coroutine in the connection's thread."""
        ...

    def lost(self) -> DeviceError:
        """Return the error of a link that is gone."""
        ...

    def kill_group(self, group: int, *, leader_ended: bool) -> None:
        """End every process of a group on the board."""
        ...


class SshChannel:
    """A program on a board; its output waits on the board while nobody reads it here."""

    def __init__(self, device: Link, process: Any) -> None:
        self._device = device
        self._process = process
        self._chunks: queue.Queue[bytes] = queue.Queue(MAX_WAITING_CHUNKS)
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._stderr = bytearray()
        self._ended = False
        self._killed = False
        device.wait_for(self._start(), "read a program's output", CONNECT_S)
        self._group = self._first_line()

    def send(self, line: str) -> None:
        """Write one line."""
        if self._process.stdin.is_closing():
            raise DeviceError(f"{self._device.id}: the program's input is closed.")
        self._device.wait_for(self._write(line.encode() + b"\n"), "send a request", SEND_S)

    def receive(self, timeout_s: float) -> str | None:
        """Return the next line."""
        deadline = time.monotonic() + timeout_s
        while not self._lines:
            if self._ended:
                return None
            try:
                self._take(self._chunks.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                raise TimeoutError from None
        return self._lines.pop(0).decode("utf-8", errors="replace")

    def wait(self, timeout_s: float) -> int:
        """Wait for the end, dropping what is still written."""
        deadline = time.monotonic() + timeout_s
        while not self._device.wait_for(self._closed(min(0.2, timeout_s)), "wait for a program", timeout_s + CONNECT_S):
            with contextlib.suppress(queue.Empty):
                while True:
                    self._chunks.get_nowait()
            if time.monotonic() > deadline:
                raise TimeoutError
        if self._process.exit_signal is not None:
            return -_signal_number(self._process.exit_signal)
        status = self._process.exit_status
        if status is None:
            raise self._device.lost()
        if not isinstance(status, int) or status < 0:
            raise DeviceError(f"{self._device.id}: a program ended with a status that is no number.", hint="Try again.")
        if status in NOT_RUNNABLE:
            raise DeviceError(
                f"{self._device.id}: {tail(self.stderr_tail()) or 'the program is not there'}",
                hint="The device needs a Python of 3.8 or later at that path.",
            )
        return status

    def kill(self) -> None:
        """End the whole group over the connection; where that is gone, the runner ends since its input closed."""
        if self._killed:
            return
        self._killed = True
        if self._group is not None:
            self._device.kill_group(self._group, leader_ended=self._process.exit_status is not None)
        with contextlib.suppress(DeviceError):
            self._device.wait_for(self._drop(), "close a program", CONNECT_S)

    def stderr_tail(self) -> str:
        """Return at most 16 KiB from the end of the error output."""
        return bytes(self._stderr).decode("utf-8", errors="replace").strip()

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._pumps = (loop.create_task(self._pump_output()), loop.create_task(self._pump_error()))

    def _first_line(self) -> int | None:
        """Return the number of the program's group; None where there is none, and then nothing was started."""
        try:
            group = whole_number((self.receive(CONNECT_S) or "").strip())
        except TimeoutError as error:
            raise DeviceError(f"{self._device.id} started nothing in {CONNECT_S:g} s.", hint="Is it busy?") from error
        # 0 is this shell's own group, and 1 is everything: neither is what was started.
        return group if group is not None and group > 1 else None

    async def _pump_output(self) -> None:
        data = b"-"
        while data:
            data = await self._read(self._process.stdout)
            while self._chunks.full():
                await asyncio.sleep(0.01)
            self._chunks.put_nowait(data)

    async def _pump_error(self) -> None:
        while data := await self._read(self._process.stderr):
            self._stderr += data
            del self._stderr[:-STDERR_TAIL_BYTES]

    async def _read(self, reader: Any) -> bytes:
        """A lost connection is the end of the output; ``wait`` then says so."""
        asyncssh = import_asyncssh()
        try:
            data: bytes = await reader.read(READ_BYTES)
        except (asyncssh.Error, OSError):
            return b""
        return data

    async def _write(self, data: bytes) -> None:
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def _closed(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(asyncio.shield(self._process.wait_closed()), timeout_s)
        except TimeoutError:
            return False
        # What was written last may still be on its way from the pump to the tail.
        await asyncio.wait(self._pumps[1:], timeout=1.0)
        return True

    async def _drop(self) -> None:
        self._process.close()
        await asyncio.wait(self._pumps[1:], timeout=1.0)
        for pump in self._pumps:
            pump.cancel()

    def _take(self, data: bytes) -> None:
        if not data:
            self._ended = True
            if self._buffer:
                self._lines.append(bytes(self._buffer))
                self._buffer.clear()
            return
        self._buffer += data
        if b"\n" in data:
            *lines, rest = self._buffer.split(b"\n")
            self._lines += [bytes(line) for line in lines]
            self._buffer = bytearray(rest)
        if len(self._buffer) > MAX_LINE_BYTES:
            raise DeviceError(f"{self._device.id} wrote a line of more than {MAX_LINE_BYTES} bytes.")
