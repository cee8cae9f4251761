"""A real registry, a wire that can be cut, and a registry that lies."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from edgebuild.releasing.registries.http import Http
from edgebuild.releasing.registries.oci import OciRegistry
from tests.needs import where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONFIG = """
version: 0.1
log: {{accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
{more}
"""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@dataclass(frozen=True)
class RealRegistry:
    """Debian's docker-registry on loopback; ``requests`` is its access log."""

    host: str
    log: Path

    def requests(self) -> list[tuple[str, str]]:
        """Return the method and path of each request so far."""
        lines = [line.split('"')[1] for line in self.log.read_text().splitlines() if '"' in line and "HTTP/1.1" in line]
        return [(method, path) for method, path, _ in (line.split(" ", 2) for line in lines if line.count(" ") >= 2)]


@contextlib.contextmanager
def real_registry(folder: Path, more: str = "") -> Iterator[RealRegistry]:
    command = [where("docker-registry") or "", "serve", str(folder / "config.yml")]
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "config.yml").write_text(CONFIG.format(folder=folder, port=port, more=more))
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None
                time.sleep(0.05)
            yield RealRegistry(f"127.0.0.1:{port}", log)
        finally:
            process.terminate()
            process.wait()


class Wire:
    """Carries bytes to a server; ``up`` and ``down`` count them, and it breaks where it is told to."""

    def __init__(self, server: str) -> None:
        self._server = (server.partition(":")[0], int(server.partition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.up = self.down = 0
        self.cut_up: int | None = None
        self.cut_down: int | None = None
        self.dead_when_cut = False
        self.stall_when_cut = False
        self.reached = threading.Event()
        self._dead = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._dead:
                    client.close()
                    continue
                server = socket.create_connection(self._server)
                threading.Thread(target=self._carry, args=(client, server, "up"), daemon=True).start()
                threading.Thread(target=self._carry, args=(server, client, "down"), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                target.sendall(data)
                setattr(self, way, getattr(self, way) + len(data))
                limit = getattr(self, f"cut_{way}")
                if limit is not None and getattr(self, way) >= limit:
                    setattr(self, f"cut_{way}", None)
                    self._dead = self.dead_when_cut
                    self.reached.set()
                    if self.stall_when_cut:
                        return  # neither more bytes nor an end: the other side waits
                    break
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@dataclass
class Asked:
    """One request that came to a ``Liar``."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Liar:
    """A server whose answers a test writes: ``answer`` gets each request and writes what it likes."""

    host: str
    asked: list[Asked] = field(default_factory=list)


@contextlib.contextmanager
def liar(answer: Callable[[BaseHTTPRequestHandler, Asked], None], context: Any = None) -> Iterator[Liar]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            asked = Asked(self.command, self.path, dict(self.headers.items()), body)
            made.asked.append(asked)
            with contextlib.suppress(OSError):
                answer(self, asked)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = _any  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    made = Liar(f"127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Answer properly; headers with _ for -."""
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def client(host: str, repository: str = "doors", **settings: Any) -> OciRegistry:
    """Return a registry whose waits take no time."""
    return OciRegistry(Http(host, **{"sleep": lambda _: None, **settings}), repository)
