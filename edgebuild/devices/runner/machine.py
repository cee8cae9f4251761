"""Reads the machine through /proc and /sys; what can't be read is "unknown"."""

from __future__ import annotations

import glob
import os

UNKNOWN = "unknown"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Machine:
    """One machine's /proc and /sys, below ``root`` (a test may give another)."""

    def __init__(self, root: str = "/") -> None:
        self._root = root

    def text(self, path: str) -> str | None:
        """Return a file's stripped text, or None."""
        try:
            with open(os.path.join(self._root, path), encoding="utf-8", errors="replace") as file:
                return file.read().strip("\x00 \n\t")
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """Return a file's whole number, or None."""
        text = self.text(path)
        try:
            return int(text, 0) if text else None
        except ValueError:
            return None

    def paths(self, pattern: str) -> list[str]:
        """Return the paths that match, relative to the root, sorted."""
        base = os.path.join(self._root, "")
        return sorted(path[len(base) :] for path in glob.glob(base + pattern))

    def fields(self, path: str) -> dict[str, str]:
        """Return a file of ``key: value`` or ``key value`` lines."""
        found: dict[str, str] = {}
        for line in (self.text(path) or "").splitlines():
            key, _, value = line.partition(":") if ":" in line else line.partition(" ")
            found.setdefault(key.strip(), value.strip())
        return found

    def kilobytes(self, path: str, key: str) -> int | None:
        """Return the bytes of a ``key: N kB`` line."""
        value = self.fields(path).get(key, "").split(" ")[0]
        return int(value) * 1024 if value.isdigit() else None

    def zones(self) -> dict[str, float]:
        """Return the temperature of every thermal zone in degrees Celsius."""
        found: dict[str, float] = {}
        for zone in self.paths("sys/class/thermal/thermal_zone*"):
            milli = self.number(zone + "/temp")
            if milli is not None:
                name = "%s (%s)" % (self.text(zone + "/type") or "zone", os.path.basename(zone))
                found[name] = milli / 1000.0
        return found

    def frequencies(self, which: str) -> dict[str, int]:
        """Return kHz per core; ``which`` is scaling_cur_freq, scaling_min_freq, scaling_max_freq …."""
        found: dict[str, int] = {}
        for core in self.paths("sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
            value = self.number("%s/%s" % (core, which))
            if value is not None:
                found[core.split("/")[-2]] = value
        return found

    def governors(self) -> list[str]:
        """Return the frequency governors in use."""
        names = {self.text(p) for p in self.paths("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")}
        return sorted(name for name in names if name)

    def throttles(self) -> dict[str, int]:
        """Return throttle counters and bits: Intel's per core and package, Raspberry Pi's bits, Jetson's alarms."""
        found: dict[str, int] = {}
        patterns = (
            "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",
            "sys/devices/platform/soc/soc:firmware/get_throttled",
            "sys/class/hwmon/hwmon*/curr*_crit_alarm",
            "sys/class/hwmon/hwmon*/curr*_max_alarm",
        )
        for pattern in patterns:
            for path in self.paths(pattern):
                text = self.text(path)
                try:
                    # The firmware writes hexadecimal without a prefix, the others decimal.
                    found[path] = int(text or "", 16 if path.endswith("get_throttled") else 10)
                except ValueError:
                    continue
        return found

    def jiffies(self) -> dict[str, int] | None:
        """Return the machine's total and stolen CPU time, in clock ticks (proc(5), /proc/stat)."""
        values = self.fields("proc/stat").get("cpu", "").split()
        if len(values) < 8:
            return None
        return {"total": sum(int(v) for v in values[:8]), "steal": int(values[7])}

    def counter(self, path: str, key: str) -> int | None:
        """Return one counter of a file of ``key value`` lines."""
        value = self.fields(path).get(key, "")
        return int(value) if value.isdigit() else None


def known(value: Any) -> Any:
    """Return the value, or "unknown" for None and for what is empty."""
    return UNKNOWN if value is None or value in ("", {}, []) else value
