"""``python -m edgebuild.farm.relay.host``: lets the holder of a lease use a device of this host.

Reads one line of JSON (``Attach``) from stdin, and goes on until stdin is closed or the lease is over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import Field, ValidationError

from edgebuild import __version__
from edgebuild.core.values import digest_bytes
from edgebuild.devices.bundle import build_bundle
from edgebuild.errors import DeviceError, EdgebuildError
from edgebuild.farm.client import FarmAddress, FarmAway
from edgebuild.farm.relay import wire
from edgebuild.farm.relay.allowed import RunnerOnly
from edgebuild.farm.relay.link import Link, LinkLost
from edgebuild.farm.relay.session import Session
from edgebuild.farm.values import NAMED, Message
from edgebuild.fleet.connect import connect
from edgebuild.fleet.inventory import DeviceEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgebuild.devices.transport import Device
    from edgebuild.farm.relay.allowed import Rules

#: How soon it is tried again where the server is away.
RETRY_S = 2.0
MOST_BYTES = 4 << 20
#: The lease is over, or was never this host's.
ENDED = 0
#: Something that ran for the user goes on: this process ends, so that it loses its device.
STUCK = 1


class Attach(Message):
    """Which lease of which host is relayed, and how its device is reached from here. It holds the host's token."""

    url: str
    token: str = Field(repr=False)
    authority: str = ""
    host: str = Field(pattern=NAMED)
    lease: str = Field(pattern=r"^l[0-9a-f]{15}$")
    entry: DeviceEntry
    native_libraries: bool = False

    @property
    def address(self) -> FarmAddress:
        """The farm."""
        return FarmAddress(url=self.url, token=self.token, authority=self.authority)

    @property
    def path(self) -> str:
        """Where on the server this end attaches."""
        return f"/api/hosts/{quote(self.host)}/leases/{quote(self.lease)}/device"


class Bundle:
    """The runner of this host, for all its backends."""

    def __init__(self, folder: Path) -> None:
        from edgebuild.backends.table import backends

        files = {name: backend.device_file for name, backend in backends().items()}
        data = build_bundle(files)
        self.backends = frozenset(files)
        self.digest = digest_bytes(data)
        self.file = folder / "runner.pyz"
        self.file.write_bytes(data)


def serve(
    attach: Attach,
    over: threading.Event,
    *,
    reach: Callable[[DeviceEntry], Device] = connect,
    allow: Callable[[Rules], Rules] = lambda rules: rules,
) -> int:
    """Relay the lease until it is over or ``over`` is set; return the exit code.

    A server that is away is waited for. ``reach`` and ``allow`` are the tests'.
    """
    with tempfile.TemporaryDirectory(prefix="edgebuild-relay-") as folder:
        bundle = Bundle(Path(folder))
        while not over.is_set():
            try:
                link = Link(attach.address, attach.path)
            except FarmAway:
                over.wait(RETRY_S)
                continue
            except EdgebuildError as error:
                print(error.message, file=sys.stderr)
                return ENDED
            with _closed_when(over, link):
                if not _serve_one(link, attach, bundle, reach, allow):
                    return STUCK
    return ENDED


def _serve_one(
    link: Link,
    attach: Attach,
    bundle: Bundle,
    reach: Callable[[DeviceEntry], Device],
    allow: Callable[[Rules], Rules],
) -> bool:
    """Serve one user from its hello on; return whether nothing of it is left."""
    try:
        hello = wire.read_from_user(link.receive())
        if not isinstance(hello, wire.Hello):
            raise DeviceError("The other end of the relay doesn't say hello.")
        with contextlib.closing(reach(attach.entry)) as device:
            welcome = wire.Welcome(
                version=__version__, root=device.root, python=device.python, capabilities=device.capabilities
            )
            rules = RunnerOnly(
                device=attach.entry.name,
                root=device.root,
                python=device.python,
                runner=bundle.digest,
                backends=bundle.backends,
                version=__version__,
                theirs=hello.version,
                native_libraries=attach.native_libraries,
                pin_clocks=attach.entry.pin_clocks,
            )
            link.send(wire.write(welcome))
            return Session(link, device, allow(rules), bundle.file).run()
    except LinkLost:
        return True
    except EdgebuildError as error:
        with contextlib.suppress(LinkLost):
            link.send(wire.write(wire.failed(0, error)))
        return True


@contextlib.contextmanager
def _closed_when(over: threading.Event, link: Link) -> Iterator[None]:
    """Close a link when ``over`` is set, and at the end."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if over.is_set():
                link.close()
                return

    watching = threading.Thread(target=watch, name="edgebuild-relay-over", daemon=True)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()
        link.close()


def main() -> None:
    """Relay the lease that stdin names."""
    line = sys.stdin.buffer.readline(MOST_BYTES)
    try:
        attach = Attach.model_validate_json(line)
    except ValidationError as error:
        # What was wrong is said without what was given: it holds the token.
        wrong = ", ".join(".".join(map(str, each["loc"])) or "all of it" for each in error.errors())
        sys.exit(f"What the relay is to do makes no sense: {wrong}.")
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())

    def watch() -> None:
        while sys.stdin.buffer.read(1 << 16):
            pass
        over.set()

    threading.Thread(target=watch, name="edgebuild-relay-stdin", daemon=True).start()
    code = serve(attach, over)
    sys.stderr.flush()
    # Nothing that hangs keeps this process, and with it its hold of the device.
    os._exit(code)


if __name__ == "__main__":
    main()
