"""Asks a device what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.core.measurement import UNKNOWN, Fact
from edgebuild.devices.answers import MAX_TEXT
from edgebuild.devices.messages import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.devices.client import RunnerClient

PROBE_LIMIT_S = 120.0
#: Readings of the probe that are configuration: when one changes, measurements and device steps don't match any more.
#: Load and temperature are no configuration.
CONFIGURATION = ("arch", "cpu", "isa", "cores", "memory_bytes", "kernel", "os", "python", "governor", "power_mode")
#: The same, of what only some devices have. One that isn't there is no part of a configuration.
CONFIGURATION_WHERE_KNOWN = (
    "accelerators",
    "clocks",
    "cuda",
    "cuda_driver",
    "driver",
    "emulated",
    "gpu_architecture",
    "gpu_clocks",
    "jetpack",
    "kernel_switches",
    "l4t",
)


def read_probe(client: RunnerClient, *, light: bool = False) -> dict[str, str]:
    """Ask the device what it is; nested readings are flattened with dots, each one line of printable text.

    ``light`` leaves out the runtimes, whose import takes seconds. Whether it is emulated is the transport's word, not
    the device's.
    """
    answer = client.call("probe", {"light": light}, time_limit_s=PROBE_LIMIT_S)
    flat: dict[str, str] = {}
    _flatten("", answer, flat)
    flat.update(client.device.capabilities.facts)
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


def configuration_of(probe: Mapping[str, str]) -> tuple[Fact, ...]:
    """Return the configuration part of a probe."""
    names = [
        name
        for name in sorted(probe)
        if name in CONFIGURATION
        or name.startswith("runtime.")
        or (name in CONFIGURATION_WHERE_KNOWN and probe[name] != UNKNOWN)
    ]
    return tuple(Fact(name=name, value=probe[name]) for name in names)


def platform_of(client: RunnerClient, probe: Mapping[str, str]) -> dict[str, str]:
    """Return what a result of a device depends on: its configuration, and the digest of what we run there.

    Part of the keys of all device steps: the code of the runner and of the backends' device files is in no lock file.
    """
    return {**{fact.name: fact.value for fact in configuration_of(probe)}, "runner": client.runner_digest}


def kernels_of(probe: Mapping[str, str]) -> str:
    """Return what decides which kernels this machine takes: the CPU's features, and switches where any is set."""
    isa, switches = probe.get("isa", ""), probe.get("kernel_switches", UNKNOWN)
    return isa if switches == UNKNOWN else f"{isa} {switches}"
