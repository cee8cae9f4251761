"""Probe: the facts of this machine that planning needs; unreadable ones are "unknown"."""

from __future__ import annotations

import os
import platform
import shutil
import time

from . import jetson
from .artifact import backend_module
from .energy import find_sensor
from .machine import UNKNOWN, Machine, known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields

#: Variables that make a runtime, or what computes on the host, take other kernels than the CPU's features say: oneDNN's
#: (in OpenVINO and torch; DNNL_ is the older spelling) and OpenVINO's own, ONNX Runtime's, OpenBLAS's (in numpy and
#: scipy), torch's and MKL's. Other kernels may round or saturate elsewhere.
KERNEL_SWITCHES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_CPU_ISA_HINTS",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "ORT_MLAS_QKGEMM_S8_APPROX_VNNI",
    "OV_CPU_MAX_ISA",
)


def probe(request: Fields) -> Fields:
    """Return every fact by name; ``runtime`` maps a backend to its version, or to "unknown" where it isn't there.

    ``light`` leaves out the runtimes: to import them takes seconds, and warms what is about to be measured.
    """
    backends = () if request.get("light") else request["backends"]
    facts = dict(describe(Machine()), disk_free_bytes=known(_free_bytes(request["root"])), clock_s=time.time())
    facts["runtime"] = {name: known(_version(name)) for name in backends}
    for name in backends:
        facts.update(_own_facts(name))
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
        "kernel_switches": known(kernel_switches()),
        "cores": known(os.cpu_count()),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": known(machine.kilobytes("proc/meminfo", "MemTotal")),
        "memory_free_bytes": known(machine.kilobytes("proc/meminfo", "MemAvailable")),
        "swap_bytes": known(machine.kilobytes("proc/meminfo", "SwapTotal")),
        "kernel": platform.release() or UNKNOWN,
        "os": known(_os_name(machine)),
        "l4t": known(jetson.l4t(machine)),
        "jetpack": known(jetson.jetpack(machine)),
        "python": platform.python_version(),
        "libc": known(" ".join(platform.libc_ver())),
        "power_mode": known(jetson.power_mode(machine)),
        "clocks": known(clocks(machine)),
        "gpu_clocks": known(jetson.gpu_clocks(machine)),
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


def _free_bytes(folder: str) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _os_name(machine: Machine) -> str:
    for line in (machine.text("etc/os-release") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip('"')
    return ""


def kernel_switches() -> str:
    """Return the switches that are set, as NAME=value with spaces between; empty where none is."""
    return " ".join("%s=%s" % (name, os.environ[name]) for name in KERNEL_SWITCHES if os.environ.get(name))


def clocks(machine: Machine) -> str | None:
    """Say whether the clocks of all cores are pinned (to one frequency each) or as the governor likes."""
    least, most = machine.frequencies("scaling_min_freq"), machine.frequencies("scaling_max_freq")
    if not most:
        return None
    return "pinned" if all(least.get(core) == khz for core, khz in most.items()) else "stock"


def _steal(machine: Machine) -> float | None:
    ticks = machine.jiffies()
    return ticks["steal"] / ticks["total"] if ticks and ticks["total"] else None


def _virtualised(cpu: dict[str, str]) -> str:
    """Return "yes" where the CPU says that a hypervisor is below, "no" where an x86 CPU doesn't."""
    flags = cpu.get("flags")
    if flags is None:
        return UNKNOWN
    return "yes" if "hypervisor" in flags.split() else "no"


def _own_facts(backend: str) -> Fields:
    module = backend_module(backend)
    try:
        found: Fields = module.facts() if hasattr(module, "facts") else {}
    except Exception:  # noqa: BLE001  as for the version
        return {}
    return found


def _version(backend: str) -> str | None:
    module = backend_module(backend)
    try:
        version: str | None = module.version()
    except Exception:  # noqa: BLE001  a broken runtime may raise anything; it isn't one to use
        return None
    return version
