"""Probe: the facts of this machine that planning needs; unreadable ones are "unknown"."""

from __future__ import annotations

import os
import platform

from .artifact import backend_module
from .energy import find_sensor
from .machine import UNKNOWN, Machine, known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields


def probe(request: Fields) -> Fields:
    """Return every fact by name; ``runtime`` maps a backend to its version, or to "unknown" where it isn't there."""
    machine = Machine()
    facts = describe(machine)
    facts["runtime"] = {name: known(_version(name)) for name in request["backends"]}
    return facts


def describe(machine: Machine) -> Fields:
    """Return everything but the runtimes."""
    cpu = machine.fields("proc/cpuinfo")
    sensor = find_sensor(machine)
    return {
        "arch": platform.machine() or UNKNOWN,
        "cpu": known(cpu.get("model name") or cpu.get("Model") or machine.text("proc/device-tree/model")),
        "board": known(machine.text("proc/device-tree/model") or machine.text("sys/class/dmi/id/product_name")),
        "isa": known(sorted((cpu.get("flags") or cpu.get("Features") or "").split())),
        "cores": known(os.cpu_count()),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": known(machine.kilobytes("proc/meminfo", "MemTotal")),
        "memory_free_bytes": known(machine.kilobytes("proc/meminfo", "MemAvailable")),
        "swap_bytes": known(machine.kilobytes("proc/meminfo", "SwapTotal")),
        "kernel": platform.release() or UNKNOWN,
        "os": known(_os_name(machine)),
        "l4t": known((machine.text("etc/nv_tegra_release") or "").partition(",")[0].strip("# ")),
        "python": platform.python_version(),
        "libc": known(" ".join(platform.libc_ver())),
        "power_mode": known(machine.text("var/lib/nvpmodel/status")),
        "governor": known(", ".join(machine.governors())),
        "frequency_min_khz": known(machine.frequencies("scaling_min_freq")),
        "frequency_max_khz": known(machine.frequencies("scaling_max_freq")),
        "temperatures_c": known(machine.zones()),
        "throttles": known(machine.throttles()),
        "power_sensor": UNKNOWN if sensor is None else "%s %s" % (sensor.kind, sensor.rail),
        "load_1m": known((machine.text("proc/loadavg") or "").split(" ")[0]),
        "swap_in_pages": known(machine.counter("proc/vmstat", "pswpin")),
        "steal_ratio": known(_steal(machine)),
        "virtualised": _virtualised(cpu),
    }


def _os_name(machine: Machine) -> str:
    for line in (machine.text("etc/os-release") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip('"')
    return ""


def _steal(machine: Machine) -> float | None:
    ticks = machine.jiffies()
    return ticks["steal"] / ticks["total"] if ticks and ticks["total"] else None


def _virtualised(cpu: dict[str, str]) -> str:
    """Return "yes" where the CPU says that a hypervisor is below, "no" where an x86 CPU doesn't."""
    flags = cpu.get("flags")
    if flags is None:
        return UNKNOWN
    return "yes" if "hypervisor" in flags.split() else "no"


def _version(backend: str) -> str | None:
    module = backend_module(backend)
    try:
        version: str | None = module.version()
    except Exception:  # noqa: BLE001  a broken runtime may raise anything; it isn't one to use
        return None
    return version
