"""From an entry of the inventory to the device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgebuild.catalogue.inventory import DeviceEntry
    from edgebuild.devices.ssh import SshDevice


def connect(entry: DeviceEntry) -> SshDevice:
    """Return the device; it connects when it is first used. Raises ``EnvironmentGap`` without asyncssh."""
    from edgebuild.devices.address import SshAddress
    from edgebuild.devices.ssh import SshDevice, import_asyncssh

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
