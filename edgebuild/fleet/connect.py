"""From an entry of the inventory to the device."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgebuild.core.files import cache_home, expanded
from edgebuild.core.registry import Registry
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.core.steps import Progress
    from edgebuild.devices.emulator.device import EmulatedDevice
    from edgebuild.devices.local import LocalDevice
    from edgebuild.devices.ssh.device import SshDevice
    from edgebuild.devices.transport import Device
    from edgebuild.fleet.inventory import DeviceEntry


Connector: TypeAlias = "Callable[[DeviceEntry], Device]"


def connect(entry: DeviceEntry) -> Device:
    """Return the device; a board connects when it is first used. Raises ``EnvironmentGap`` without what it needs."""
    return KINDS.get(entry.kind)(entry)


def emulate(entry: DeviceEntry, progress: Progress | None = None) -> EmulatedDevice:
    """Return an emulated board; the emulator is set up where it isn't yet."""
    from edgebuild.devices.emulator.device import EmulatedDevice
    from edgebuild.devices.emulator.setup import set_up

    return EmulatedDevice(entry.name, set_up(cache_home(), progress=progress), entry.core, emulated_root(entry.name))


def emulated_root(name: str) -> Path:
    """Return the folder that stands for an emulated board's disk."""
    return cache_home() / "emulator" / "boards" / name


def connect_ssh(entry: DeviceEntry) -> SshDevice:
    """Return the board behind SSH."""
    from edgebuild.devices.ssh.address import SshAddress
    from edgebuild.devices.ssh.device import SshDevice
    from edgebuild.devices.ssh.loop import import_asyncssh

    import_asyncssh()
    return SshDevice(
        entry.name,
        address=SshAddress.parse(entry.address),
        host_keys=entry.host_keys,
        jump=SshAddress.parse(entry.jump) if entry.jump else None,
        jump_host_keys=entry.jump_host_keys,
        key_file=Path(entry.key_file) if entry.key_file else None,
        root=entry.root,
        python=entry.python,
        site=entry.site,
        quota_bytes=int(entry.quota_gb * 1e9),
    )


def connect_local(entry: DeviceEntry) -> LocalDevice:
    """Return this machine itself, as the device that its owner lends."""
    from edgebuild.devices.local import LocalDevice

    return LocalDevice(expanded(entry.root), name=f"local-{entry.name}")


def empty(entry: DeviceEntry) -> tuple[str, ...]:
    """Remove what edgebuild put on a device, and its folder; return the names of what isn't edgebuild's, which stays.

    Raises ``UsageError`` for a folder that isn't edgebuild's, ``DeviceError`` for a board that doesn't answer.
    """
    if entry.kind == "emulator":
        from edgebuild.devices.local_folder import clear

        return clear(emulated_root(entry.name))
    if entry.kind == "local":
        from edgebuild.devices.local_folder import clear

        return clear(expanded(entry.root))
    if entry.kind != "ssh":
        raise UsageError(
            f"What edgebuild put on {entry.name} stays: it is a device of kind {entry.kind}.",
            hint="Leave --files out, and remove its folder by hand.",
        )
    from edgebuild.devices.ssh.folder import CLEAR

    with contextlib.closing(connect_ssh(entry)) as device:
        return tuple(device.run_script(CLEAR, device.root).splitlines())


def _connector(loaded: Any) -> Connector | None:
    made: Connector | None = loaded if callable(loaded) else None
    return made


#: How a device of each kind is reached, those of installed packages included.
KINDS: Registry[Connector] = Registry(
    group="edgebuild.devices",
    kind="kind of device",
    table={"ssh": connect_ssh, "emulator": emulate, "local": connect_local},
    accept=_connector,
)
