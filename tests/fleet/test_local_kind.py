"""This machine as a device of its own inventory, so that a board can lend itself to a farm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.backends.table import backends
from edgebuild.devices.hold import hold_device
from edgebuild.devices.runner.turns import MachineLock, lock_path
from edgebuild.fleet.connect import connect, empty
from edgebuild.fleet.enrol import enrol, look_again
from edgebuild.fleet.inventory import DeviceEntry, load_inventory
from edgebuild.fleet.provider import attached
from edgebuild.testing.devices import check_device

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_this_machine_is_a_device_with_the_machines_own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    root = tmp_path / "board"
    enrol(DeviceEntry(name="here", target="this-machine", kind="local", root=str(root)), None)
    entry = load_inventory()["here"]
    assert entry.facts["arch"]
    assert not [finding for finding in look_again(entry, None) if finding.wrong]
    with attached(connect(entry), backends()) as at:
        check_device(at.client.device, tmp_path)
        assert at.client.device.id == "local-here"
        with hold_device(at.client, "a measurement"):
            lock = MachineLock(lock_path())
            assert not lock.take(False)
            lock.close()
    assert empty(entry) == ()
    assert not root.exists()
