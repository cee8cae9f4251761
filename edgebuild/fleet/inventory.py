"""The user's devices: ``devices.toml``. It holds addresses and pinned host keys, no secrets, and is never shipped."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from edgebuild.catalogue.tables import Table, collect, read_toml, unknown
from edgebuild.core.files import expanded, home_folder
from edgebuild.devices.answers import MAX_TEXT
from edgebuild.devices.messages import one_line
from edgebuild.errors import ConfigError, EnvironmentGap, StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Names that are safe in paths, keys of TOML and output.
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"


class DeviceEntry(Table):
    """One device. ``address`` and ``jump`` are as ``SshAddress.parse`` reads them; host keys in OpenSSH's form.

    ``kind`` is ``ssh``, ``emulator``, ``local`` (this machine itself) or what an installed package brings, which
    reads ``address`` as it likes. An emulator has a ``core`` instead, QEMU's name of the CPU, and neither address
    nor key. ``site`` is a folder on the board with the Python packages that were put there. ``facts`` is what the
    device said of itself when it was enrolled. ``pin_clocks`` asks for a Jetson's clocks to be pinned while it is
    measured. ``labels`` are what it can be asked for by in a farm, ``power_cycle`` is a command (no shell's) of
    this host that switches it off and on.
    """

    name: str = Field(pattern=f"^{NAME}$")
    target: str
    kind: str = "ssh"
    core: str = ""
    address: str = ""
    host_keys: tuple[str, ...] = ()
    jump: str | None = None
    jump_host_keys: tuple[str, ...] = ()
    key_file: str | None = None
    python: str = "python3"
    root: str = "~/.edgebuild"
    site: str = ""
    quota_gb: float = Field(default=4.0, gt=0)
    pin_clocks: bool = False
    power_cycle: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict, max_length=16)
    facts: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> DeviceEntry:
        if self.kind == "ssh" and not (self.address and self.host_keys):
            raise ValueError("a board over SSH needs an address and at least one of host_keys")
        if (self.kind == "emulator") != bool(self.core):
            raise ValueError("an emulator, and only an emulator, has a core")
        return self


def inventory_path() -> Path:
    """Return where the inventory lies: $EDGEBUILD_DEVICES, else in the user's configuration."""
    named = os.environ.get("EDGEBUILD_DEVICES")
    if named:
        return expanded(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or home_folder() / ".config") / "edgebuild" / "devices.toml"


def load_inventory() -> dict[str, DeviceEntry]:
    """Return all devices by name, none where there is no inventory; raises ``ConfigError`` with every problem."""
    try:
        path = inventory_path()
    except EnvironmentGap:  # without a home nothing was ever enrolled
        return {}
    try:
        data = read_toml(path)
    except ConfigError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise
    devices: dict[str, DeviceEntry] = {}
    problems: list[str] = []
    problems += [f"unknown table {name!r}: devices are under [devices.NAME]" for name in data if name != "devices"]
    tables = data.get("devices", {})
    if not isinstance(tables, dict):
        problems.append("[devices] should be a table")
        tables = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            problems.append(f"[devices].{name}: should be a table")
            continue
        entry, found = collect(DeviceEntry, {**table, "name": name})
        problems += [f"[devices.{name}]: {problem}" for problem in found]
        if entry is not None:
            devices[name] = entry
    if problems:
        raise ConfigError(str(path), tuple(problems), hint="`edgebuild device add` writes it.")
    return devices


def save_entry(entry: DeviceEntry) -> Path:
    """Add or replace a device; returns where the inventory lies."""
    return _write({**load_inventory(), entry.name: entry})


def remove_entry(name: str) -> Path:
    """Remove a device; one that isn't there is fine."""
    return _write({key: entry for key, entry in load_inventory().items() if key != name})


def _write(devices: dict[str, DeviceEntry]) -> Path:
    """Write the whole file, or leave the old one."""
    path = inventory_path()
    text = "# edgebuild's devices. Addresses and pinned host keys; no secrets.\n"
    for name in sorted(devices):
        fields = devices[name].model_dump(mode="json", exclude={"name", "facts", "labels"}, exclude_defaults=True)
        text += f"\n[devices.{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in fields.items())
        # What a device says of itself may hold anything; a file is read back only without control characters.
        facts = {one_line(key): one_line(value, MAX_TEXT) for key, value in devices[name].facts.items()}
        for table, values in (("labels", devices[name].labels), ("facts", facts)):
            if values:
                text += f"\n[devices.{name}.{table}]\n"
                text += "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in sorted(values.items()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".devices-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    except OSError as error:
        raise StoreError(
            f"Can't write the inventory {path}: {error.strerror}.", hint="EDGEBUILD_DEVICES names another place."
        ) from error
    return path


def _toml(value: object) -> str:
    """JSON's text, numbers and lists are TOML too where no surrogate and no control character is in them as it is.

    TOML has no half of a surrogate pair, not even escaped: what a device says may hold one.
    """
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def entry_of(name: str, known: Mapping[str, DeviceEntry] | None = None) -> DeviceEntry:
    """Return one of the known devices; raises ``UsageError`` for another. Default: those of the inventory."""
    inventory = load_inventory() if known is None else known
    if name not in inventory:
        raise UsageError(f"{unknown('device', name, inventory)}.", hint="`edgebuild device list` shows them.")
    return inventory[name]
