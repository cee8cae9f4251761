"""A farm with a lease of one board, and the host's end of its relay in a thread of the test."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from edgebuild.core.capabilities import BOARD
from edgebuild.devices.local import LocalDevice
from edgebuild.farm import shelf, tokens
from edgebuild.farm.client import FarmAddress, FarmClient
from edgebuild.farm.relay import host as host_end
from edgebuild.farm.relay.device import FarmDevice
from edgebuild.farm.relay.link import Link
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Ask, Lease, Offered
from edgebuild.fleet.inventory import DeviceEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import Connection

    from edgebuild.devices.transport import Device
    from edgebuild.farm.relay.allowed import Rules
    from edgebuild.farm.server.farm import Farm

TARGET = "quick"
HOST = "desk"


class EverythingAllowed:
    """Pretends to be a host's rules: lets everything through, for the contract of a device."""

    def __init__(self, real: Rules) -> None:
        del real

    def require_program(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        pass

    def request(self, line: str) -> str:
        return line

    def word(self, line: str) -> str:
        return line

    def own(self, name: str) -> bool:  # noqa: ARG002
        return False

    def digest(self, name: str) -> str:  # noqa: ARG002
        return ""

    def require_readable(self, remote: str) -> None:
        pass

    def require_removable(self, remote: str) -> None:
        pass


@dataclass(kw_only=True)
class Shelf:
    """A served farm with boards of one host, which are good."""

    farm: Farm
    url: str
    user: str
    host: str

    @property
    def client(self) -> FarmClient:
        return FarmClient(self.address)

    @property
    def address(self) -> FarmAddress:
        return FarmAddress(url=self.url, token=self.user)

    def lease(self, **more: Any) -> Lease:
        with contextlib.closing(self.client) as client:
            return client.ask("POST", "/api/leases", Lease, Ask(target=TARGET, **more))

    def release(self, lease: Lease) -> None:
        with contextlib.closing(self.client) as client:
            client.ask("POST", f"/api/leases/{lease.id}/release", Lease, {})

    def attach(self, lease: Lease) -> Link:
        return Link(self.address, f"/api/leases/{lease.id}/device")

    def device(self, lease: Lease) -> FarmDevice:
        return FarmDevice(lease.device, partial(self.attach, lease))

    def told(self, lease: Lease, entry: DeviceEntry) -> host_end.Attach:
        return host_end.Attach(url=self.url, token=self.host, host=HOST, lease=lease.id, entry=entry)


def stock(farm: Farm, url: str, entries: Sequence[DeviceEntry]) -> Shelf:
    """Offer boards, let each of them pass its check, and return the farm with a token of a user and of the host."""

    def token(name: str, scope: Scope, db: Connection, now: float) -> str:
        return tokens.make(db, name, scope, now, days=1)

    user, of_host = (farm.do(partial(token, name, scope)) for name, scope in (("ada", Scope.RUN), (HOST, Scope.HOST)))
    offered = [Offered(name=one.name, target=one.target, kind=one.kind, facts=one.facts) for one in entries]

    def fill(db: Connection, now: float) -> None:
        who = tokens.identify(db, of_host, now)
        assert who is not None
        shelf.register(db, HOST, who.id, "1", offered, now)
        for one in offered:
            shelf.checked(db, one.name, True, "", {}, now)

    farm.do(fill)
    return Shelf(farm=farm, url=url, user=user, host=of_host)


def entry_of(name: str = "pi-1") -> DeviceEntry:
    """An entry whose address nobody uses: what it is reached by is the test's."""
    return DeviceEntry(name=name, target=TARGET, address="pi@nowhere", host_keys=("ssh-ed25519 AAAA",))


@contextlib.contextmanager
def hosted(
    attach: host_end.Attach,
    reach: Callable[[DeviceEntry], Device],
    *,
    allow: Callable[[Rules], Rules] = lambda rules: rules,
) -> Iterator[list[int]]:
    """Run the host's end while the block runs; what is yielded holds its exit code once it ended."""
    over, ended = threading.Event(), []
    thread = threading.Thread(
        target=lambda: ended.append(host_end.serve(attach, over, reach=reach, allow=allow)), daemon=True
    )
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join(60)
        assert not thread.is_alive(), "the host's end goes on"


class Bench(LocalDevice):
    """A folder of this machine as if it were a board elsewhere."""

    capabilities = BOARD
    detached = True
    on_host = False


def bench(root: Path) -> Callable[[DeviceEntry], Device]:
    """Return what reaches a folder of this machine."""
    return lambda _: Bench(root)
