"""Peak memory, in a launch of its own: reading it disturbs latency."""

from __future__ import annotations

import contextlib
import threading
import time

from .artifact import Opened
from .feeding import Data, Loop
from .machine import Machine
from .measure import prepare, rotation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields, Wire

POLL_S = 0.05
STATUS = "proc/self/status"


def memory(request: Fields, wire: Wire) -> Fields:
    """Return the fields of ``edgebuild.core.measurement.Memory``.

    The high-water mark is VmHWM, reset between the phases through ``clear_refs`` (proc(5)). Never ``ru_maxrss``: a
    process inherits that from its parent. The baseline holds the interpreter, the runtime and the prepared inputs.
    """
    machine = Machine()
    opened = Opened(request)
    data = Data(request["inputs"], opened.contract)
    inputs, firsts = prepare(data, rotation(opened, int(request.get("rotate", 16))))
    baseline = machine.kilobytes(STATUS, "VmRSS") or 0
    poll = PssPoll(machine)
    poll.start()
    reset_peak()
    session = opened.session()
    load_peak = machine.kilobytes(STATUS, "VmHWM") or 0
    reset_peak()
    wire.progress("memory", 0, request.get("seconds", 1.0))
    _run(Loop(session, opened.contract), inputs, firsts, request)
    peak = machine.kilobytes(STATUS, "VmHWM") or 0
    found = {
        "baseline_bytes": baseline,
        "load_peak_bytes": load_peak,
        "inference_peak_bytes": peak,
        "pss_peak_bytes": poll.stop(),
        "decode_peak_bytes": opened.decode_peak_bytes,
    }
    return {**found, "emulator_bytes": emulator_share()} if request.get("emulated") else found


def emulator_share(path: str = "/proc/thread-self/smaps") -> int | None:
    """Return the resident bytes of an emulator's own in this process: translated code, its program and its heap.

    The guest's code is never mapped executable; what is executable belongs to the emulator, and so does the first heap.
    None where the emulator hides its mappings from the guest.
    """
    total, own, seen = 0, False, False
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                words = line.split()
                if words and not words[0].endswith(":"):
                    name = words[5] if len(words) > 5 else ""
                    own = "x" in words[1] or name == "[heap]" or name.rpartition("/")[2].startswith("qemu-")
                    seen = seen or "x" in words[1]
                elif own and words and words[0] == "Rss:":
                    total += int(words[1]) * 1024
    except (OSError, ValueError):
        return None
    return total if seen else None


def reset_peak() -> None:
    """Set VmHWM back to what is resident now; where the kernel doesn't let us, later peaks hold the earlier ones."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _run(loop: Loop, inputs: list[Fields], firsts: list[bool], request: Fields) -> None:
    feeds = [loop.feed(each) for each in inputs]
    least = int(request.get("inferences", len(feeds)))
    end = time.monotonic() + float(request.get("seconds", 1.0))
    count = 0
    while count < least or time.monotonic() < end:
        index = count % len(feeds)
        if firsts[index]:
            loop.reset()
        loop.call(feeds[index])
        count += 1


class PssPoll(threading.Thread):
    """Reads the proportional set size every 50 ms and keeps its peak."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(daemon=True)
        self._machine = machine
        self._done = threading.Event()
        self._peak: int | None = None

    def run(self) -> None:
        """Poll until stopped."""
        while True:
            self._read()
            if self._done.wait(POLL_S):
                return

    def stop(self) -> int | None:
        """Return the peak in bytes, or None where it can't be read."""
        self._done.set()
        self.join()
        self._read()
        return self._peak

    def _read(self) -> None:
        value = self._machine.kilobytes("proc/self/smaps_rollup", "Pss")
        if value is not None:
            self._peak = max(value, self._peak or 0)
