"""What NVIDIA's Jetson boards say of themselves in files; None where there are none, which is everywhere else."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .machine import Machine

#: The GPU's frequency scaling: ``17000000.gpu`` or ``.ga10b`` on Orin, ``gpu-gpc-0`` on Thor.
GPU_DEVFREQ = ("sys/class/devfreq/*.gpu", "sys/class/devfreq/*.ga10b", "sys/class/devfreq/gpu-*")


def l4t(machine: Machine) -> str | None:
    """Return the release of Jetson Linux, such as ``36.4.3``."""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", machine.text("etc/nv_tegra_release") or "")
    return "%s.%s" % (found.group(1), found.group(2)) if found else None


def jetpack(machine: Machine) -> str | None:
    """Return the version of the package nvidia-jetpack, where it is installed."""
    status = machine.text("var/lib/dpkg/status") or ""
    for block in status.split("\n\n") if "Package: nvidia-jetpack\n" in status else ():
        lines = block.splitlines()
        if "Package: nvidia-jetpack" in lines and "Status: install ok installed" in lines:
            return next((line.partition(": ")[2] for line in lines if line.startswith("Version: ")), None)
    return None


def power_mode(machine: Machine) -> str | None:
    """Return nvpmodel's state, with the mode's name where nvpmodel's own configuration gives it one."""
    status = machine.text("var/lib/nvpmodel/status")
    number = re.search(r"pmode:(\d+)", status or "")
    if status is None or number is None:
        return status
    modes = re.findall(r"< *POWER_MODEL +ID=(\d+) +NAME=(\S+) *>", machine.text("etc/nvpmodel.conf") or "")
    name = next((name for each, name in modes if int(each) == int(number.group(1))), None)
    return status if name is None else "%s (%s)" % (status, name)


def gpu_clocks(machine: Machine) -> str | None:
    """Return how the GPU's clock is kept: its governor and the range in Hz; equal ends are a pinned clock."""
    found = []
    for folder in [path for pattern in GPU_DEVFREQ for path in machine.paths(pattern)]:
        parts = [machine.text("%s/%s" % (folder, name)) for name in ("governor", "min_freq", "max_freq")]
        if None not in parts:
            found.append("%s %s-%s" % (parts[0], parts[1], parts[2]))
    return ", ".join(found) or None
