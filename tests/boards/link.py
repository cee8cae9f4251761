"""A bad link in front of a board: a TCP proxy that delays, withholds and cuts."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgebuild.devices.ssh.address import SshAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 1 << 15
POLL_S = 0.01


@dataclass(kw_only=True)
class Link:
    """What passes is ``delay_s`` late, each way. While ``stalled`` nothing passes and nothing is said of it."""

    address: SshAddress
    delay_s: float = 0.0
    stalled: bool = False
    passed_bytes: int = 0
    _breaks_at: float = float("inf")
    _stalls_then: bool = False
    _target: tuple[str, int] = ("", 0)
    _open: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def cut(self) -> None:
        """Reset every connection; new ones are let through."""
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything that was carried."""
        self.stalled, self.delay_s = False, 0.0
        self.cut()
        for thread in self._threads:
            thread.join(5)
        for end in self._open:
            end.close()

    def breaks_after(self, passed_bytes: int, *, stall: bool) -> None:
        """Once so many bytes passed: stall, or cut."""
        self._breaks_at, self._stalls_then = float(passed_bytes), stall

    def carry(self, near: socket.socket) -> None:
        """Join a connection with one to the board."""
        far = socket.create_connection(self._target, timeout=10)
        far.settimeout(None)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open += [near, far]
        for source, sink in ((near, far), (far, near)):
            waiting: list[tuple[float, bytes]] = []
            for work, end in ((self._read, source), (self._write, sink)):
                self._threads.append(threading.Thread(target=work, args=(end, waiting), daemon=True))
                self._threads[-1].start()

    def _read(self, source: socket.socket, waiting: list[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(CHUNK_BYTES)
            except OSError:
                data = b""
            waiting.append((time.monotonic() + self.delay_s, data))

    def _write(self, sink: socket.socket, waiting: list[tuple[float, bytes]]) -> None:
        """Pass on what is due, in order; an end is passed on like data."""
        while True:
            if self.stalled or not waiting or waiting[0][0] > time.monotonic():
                time.sleep(POLL_S)
                continue
            _, data = waiting.pop(0)
            try:
                if not data:
                    sink.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(data)
            except OSError:
                return
            self.passed_bytes += len(data)
            if self.passed_bytes >= self._breaks_at:
                self._breaks_at = float("inf")
                self.stalled = self._stalls_then
                if not self._stalls_then:
                    self.cut()


@contextlib.contextmanager
def link_to(board: SshAddress) -> Iterator[Link]:
    """Yield a link to a board's sshd; its ``address`` is what to connect to instead."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = SshAddress(user=board.user, host="127.0.0.1", port=server.getsockname()[1])
        link = Link(address=address, _target=(board.host, board.port))
        accepting = threading.Thread(target=_accept, args=(server, link), daemon=True)
        accepting.start()
        try:
            yield link
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join(5)
            link.close()


def _accept(server: socket.socket, link: Link) -> None:
    while True:
        try:
            near, _ = server.accept()
        except OSError:
            return
        link.carry(near)
