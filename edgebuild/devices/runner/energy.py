"""Energy per inference, in a launch of its own, where a sensor can be read."""

from __future__ import annotations

import threading
import time

from .artifact import Opened
from .feeding import Data, Loop
from .machine import UNKNOWN, Machine
from .measure import prepare, rotation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .protocol import Fields, Wire

POLL_S = 0.1


def energy(request: Fields, wire: Wire) -> Fields:
    """Return the fields of ``edgebuild.core.measurement.Energy``, or ``{"sensor": "unknown"}``.

    Idle before and after, load between; idle power is the mean of both sides.
    """
    sensor = find_sensor(Machine())
    if sensor is None:
        return {"sensor": UNKNOWN}
    idle_s, load_s = float(request.get("idle_s", 30.0)), float(request.get("load_s", 30.0))
    opened = Opened(request)
    data = Data(request["inputs"], opened.contract)
    inputs, firsts = prepare(data, rotation(opened, int(request.get("rotate", 16))))
    loop = Loop(opened.session(), opened.contract)
    feeds = [loop.feed(each) for each in inputs]
    wire.progress("energy", 0, 2 * idle_s + load_s)
    before = _watch(sensor, lambda: time.sleep(idle_s))
    count = [0]

    def work() -> None:
        end = time.monotonic() + load_s
        while time.monotonic() < end:
            index = count[0] % len(feeds)
            if firsts[index]:
                loop.reset()
            loop.call(feeds[index])
            count[0] += 1

    load = _watch(sensor, work)
    after = _watch(sensor, lambda: time.sleep(idle_s))
    idle_w = (before.joules + after.joules) / (before.seconds + after.seconds)
    return {
        "rail": "%s %s" % (sensor.kind, sensor.rail),
        "gross_j_per_inference": load.joules / count[0],
        "net_j_per_inference": (load.joules - idle_w * load.seconds) / count[0],
        "idle_w": idle_w,
        "load_w": load.joules / load.seconds,
    }


class Rapl:
    """Intel and AMD through powercap: a counter of microjoules that wraps."""

    kind = "powercap"

    def __init__(self, machine: Machine, folder: str) -> None:
        self._machine = machine
        self._folder = folder
        self._range = machine.number(folder + "/max_energy_range_uj") or 0
        self._last = machine.number(folder + "/energy_uj") or 0
        self._joules = 0.0
        self.rail = machine.text(folder + "/name") or folder

    def joules(self) -> float:
        """Return the joules since the start; called more often than the counter wraps."""
        now = self._machine.number(self._folder + "/energy_uj") or self._last
        step = now - self._last
        self._joules += (step if step >= 0 else step + self._range) / 1e6
        self._last = now
        return self._joules


class Ina3221:
    """Jetson: millivolts times milliamperes of the board's input rail, integrated by trapezoids."""

    kind = "ina3221"

    def __init__(self, machine: Machine, folder: str, channel: int) -> None:
        self._machine = machine
        self._volts = "%s/in%d_input" % (folder, channel)
        self._amps = "%s/curr%d_input" % (folder, channel)
        self._joules = 0.0
        self._last_w = self._watts()
        self._last_s = time.monotonic()
        self.rail = machine.text("%s/in%d_label" % (folder, channel)) or "in%d" % channel

    def joules(self) -> float:
        """Return the joules since the start."""
        watts, now = self._watts(), time.monotonic()
        self._joules += (watts + self._last_w) / 2.0 * (now - self._last_s)
        self._last_w, self._last_s = watts, now
        return self._joules

    def _watts(self) -> float:
        return (self._machine.number(self._volts) or 0) * (self._machine.number(self._amps) or 0) / 1e6


def find_sensor(machine: Machine) -> Rapl | Ina3221 | None:
    """Return the board's own power sensor, the package's counter, or None: no sensor is never a zero."""
    for folder in machine.paths("sys/class/hwmon/hwmon*"):
        if machine.text(folder + "/name") != "ina3221":
            continue
        channels = [n for n in (1, 2, 3) if machine.number("%s/curr%d_input" % (folder, n)) is not None]
        named = [n for n in channels if machine.text("%s/in%d_label" % (folder, n)) in ("VDD_IN", "VIN_SYS_5V0")]
        if channels:
            return Ina3221(machine, folder, (named or channels)[0])
    for folder in machine.paths("sys/class/powercap/*-rapl:[0-9]*"):
        if folder.count(":") == 1 and machine.number(folder + "/energy_uj") is not None:
            return Rapl(machine, folder)
    return None


class Watched:
    """The energy and the time of one phase."""

    def __init__(self, joules: float, seconds: float) -> None:
        self.joules = joules
        self.seconds = seconds


def _watch(sensor: Rapl | Ina3221, work: Callable[[], None]) -> Watched:
    """Run ``work`` while a thread reads the sensor, which may wrap or needs integrating."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(POLL_S):
            sensor.joules()

    first, start = sensor.joules(), time.monotonic()
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    work()
    done.set()
    thread.join()
    return Watched(sensor.joules() - first, time.monotonic() - start)
