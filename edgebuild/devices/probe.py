"""Asks a device what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.devices.answers import MAX_TEXT
from edgebuild.devices.messages import one_line

if TYPE_CHECKING:
    from edgebuild.devices.client import RunnerClient

PROBE_LIMIT_S = 120.0
#: The reading of a device that is emulated; others don't have it. What it is emulated as, is its ``cpu``.
EMULATED = "emulated"


def read_probe(client: RunnerClient, *, light: bool = False) -> dict[str, str]:
    """Ask the device what it is; nested readings are flattened with dots, each one line of printable text.

    ``light`` leaves out the runtimes, whose import takes seconds. Whether it is emulated is the transport's word, not
    the device's.
    """
    answer = client.call("probe", {"light": light}, time_limit_s=PROBE_LIMIT_S)
    flat: dict[str, str] = {}
    _flatten("", answer, flat)
    if client.device.emulated:
        flat[EMULATED] = "yes"
    return flat


def require_alive(client: RunnerClient) -> None:
    """Raise ``DeviceError`` where the device itself is gone: then a runner that failed was no candidate's fault."""
    read_probe(client)


def _flatten(prefix: str, value: Any, into: dict[str, str]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _flatten(f"{prefix}.{one_line(name)}" if prefix else one_line(name), inner, into)
    elif isinstance(value, list):
        into[prefix] = one_line(" ".join(map(str, value)), MAX_TEXT)
    else:
        into[prefix] = "unknown" if value is None else one_line(str(value), MAX_TEXT)
