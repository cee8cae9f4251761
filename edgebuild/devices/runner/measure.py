"""One launch: cold start, load, first inference, warm-up, then raw latencies."""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import time
from array import array

from . import environment
from .artifact import Opened
from .feeding import Call, Data, Loop
from .machine import Machine, known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .protocol import Fields, Wire

SAMPLES_FILE = "samples.i64"
DEFAULTS = {
    "rotate": 16,
    "warmup_min_inferences": 10,
    "warmup_min_s": 1.0,
    "warmup_window_s": 0.25,
    "warmup_tolerance": 0.02,
    "warmup_cap_s": 10.0,
    "sample_s": 2.5,
    "min_samples": 11,
    "max_samples": 200000,
}
#: Runs that are timed on the accelerator alone, after the samples.
DEVICE_ONLY_RUNS = 51
#: A window of fewer inferences has no median to speak of.
WINDOW_MIN_INFERENCES = 5
#: What an artifact that ends early takes depends on its inputs: it is fed this many of them, in their natural mix.
NATURAL_MIX = 1000


def measure(request: Fields, wire: Wire) -> Fields:
    """Measure one call after the other: see ``launch``."""
    return launch(request, wire, Mode())


class Mode:
    """How calls follow each other: one after the other. Another way is another subclass."""

    def open(self, opened: Opened) -> Any:
        """Load the model."""
        return opened.session()

    def bench(self, session: Any, loop: Loop, feeds: list[Fields], firsts: list[bool], capacity: int) -> Bench:
        """Return what makes the calls."""
        del session
        return Bench(loop, feeds, firsts, capacity)

    def sample(self, bench: Bench, options: Fields, wire: Wire) -> Sampled:
        """Take the samples."""
        wire.progress("sampling", 0, options["sample_s"])
        return Sampled(bench.run(options["sample_s"], int(options["min_samples"])))


class Sampled:
    """How many samples a bench holds, what else is told of them, and the seconds they took where others ran between."""

    def __init__(self, count: int, told: Fields | None = None, busy_s: float | None = None) -> None:
        self.count = count
        self.told = told or {}
        self.busy_s = busy_s


def launch(request: Fields, wire: Wire, mode: Mode) -> Fields:
    """Return the fields of ``edgebuild.core.measurement.Launch``, but its index and arm; samples lie in ``out``.

    The environment's facts include the bounds and the options that held.
    """
    started = environment.start_s()
    options = {name: request.get(name, value) for name, value in DEFAULTS.items()}
    opened = Opened(request)
    data = Data(request["inputs"], opened.contract)
    options["rotate"] = rotation(opened, int(options["rotate"]))
    inputs, firsts = prepare(data, options["rotate"])

    load_s, session = _timed(lambda: mode.open(opened))
    loop = Loop(session, opened.contract)
    feeds = [loop.feed(each) for each in inputs]
    first_s, _ = _timed(lambda: loop.call(feeds[0]))

    bench = mode.bench(session, loop, feeds, firsts, int(options["max_samples"]))
    bench.whole = bool(opened.stages)
    wire.progress("warm-up", 0, options["warmup_cap_s"])
    gc.collect()
    gc.disable()
    settled = bench.warm_up(options)
    machine, bounds = Machine(), environment.bounds_of(request)
    before, ended = environment.Snapshot(machine), list(getattr(session, "ended", ()))
    taken = mode.sample(bench, options, wire)
    after = environment.Snapshot(machine)
    facts, reasons = environment.compare(machine, before, after, bounds, bench.spread(taken.count), taken.busy_s)
    gc.enable()
    facts += _conditions(bounds, options, len(feeds))
    result: Fields = {
        "start_s": started,
        "import_s": opened.import_s,
        "load_s": load_s,
        "decode_s": opened.decode_s,
        "decoded_bytes": opened.decoded_bytes,
        "first_inference_s": first_s,
        "warmup_inferences": bench.warmups,
        "settled": settled,
        "page_cache": opened.page_cache,
        "environment": facts,
        "invalid": reasons,
    }
    if opened.stages:
        result.update(exits=session.exits(ended), mean_ns=int(bench.centre(taken.count)))
    result.update(taken.told, **bench.save(request["out"], taken.count))
    result["environment"] = facts + _accelerator(opened.backend, session, bench)  # its runs overwrite the samples
    session.close()
    result["warm_load_s"], _ = _timed(lambda: mode.open(opened))
    return result


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long a call took, in seconds, and what it returned."""
    clock = time.perf_counter()
    returned = call()
    return time.perf_counter() - clock, returned


def _conditions(bounds: Fields, options: Fields, inputs: int) -> list[Fields]:
    """Return under which bounds and options a launch ran, as facts."""
    facts: list[Fields] = [
        {"name": "distinct_inputs", "value": str(inputs)},
        {"name": "start_resolution_s", "value": "%g" % (1.0 / os.sysconf("SC_CLK_TCK"))},
    ]
    facts += [{"name": "bound.%s" % name, "value": "%g" % value} for name, value in sorted(bounds.items())]
    return facts + [{"name": "option.%s" % name, "value": "%g" % value} for name, value in sorted(options.items())]


def _accelerator(backend: Any, session: Any, bench: Bench) -> list[Fields]:
    """Return what an accelerator says in addition to the end-to-end times: its median time and its memory in use."""
    found: list[Fields] = []
    if hasattr(type(session), "device_ns"):
        taken = []
        for _ in range(DEVICE_ONLY_RUNS):
            bench.run(0.0, 1)
            taken.append(session.device_ns)
        found.append({"name": "device_only_median_ns", "value": str(sorted(taken)[len(taken) // 2])})
    if hasattr(backend, "accelerator_memory"):
        memory = backend.accelerator_memory()
        found.append({"name": "accelerator_memory_bytes", "value": str(known(memory["used_bytes"]))})
        found.append({"name": "accelerator_memory_source", "value": memory["source"]})
    return found


def rotation(opened: Opened, wanted: int) -> int:
    """Return how many inputs are taken in turn: ``wanted``, or more where the artifact may end early."""
    return max(wanted, NATURAL_MIX) if opened.stages else wanted


def prepare(data: Data, rotate: int) -> tuple[list[dict[str, Any]], list[bool]]:
    """Return up to ``rotate`` distinct calls' inputs, and which of them start a state again.

    Stateless: windows spread over the whole set. Stateful: the first steps of the first samples, in their order.
    """
    chosen: list[Call] = []
    if data.contract["state"]:
        for call in data.calls():
            chosen.append(call)
            if len(chosen) == rotate:
                break
    else:
        windows = max(1, data.frames // data.batch)
        count = min(rotate, windows)
        chosen = [data.window(i * windows // count * data.batch) for i in range(count)]
    # The rotation comes round to its first call: state starts again there even where a sample was cut short.
    firsts = [bool(data.contract["state"]) and (call.first or index == 0) for index, call in enumerate(chosen)]
    return [data.inputs(call) for call in chosen], firsts


class Bench:
    """Calls in rotation and keeps raw nanoseconds in memory that was touched beforehand.

    With ``whole`` every run ends with a round, so that all inputs have their share in it, and is summed up by its mean.
    """

    whole = False

    def __init__(self, loop: Loop, feeds: list[dict[str, Any]], firsts: list[bool], capacity: int) -> None:
        self._call: Callable[[dict[str, Any]], list[Any]] = loop.call
        self._reset = loop.reset
        self._feeds = feeds
        self._firsts = firsts
        self._next = 0
        self._samples = array("q", bytes(8 * capacity))
        self.warmups = 1

    def warm_up(self, options: Fields) -> bool:
        """Run until two consecutive windows agree; False when the cap came first."""
        start, window_s = time.monotonic(), min(options["warmup_window_s"], options["warmup_cap_s"])
        self.warmups += self.run(options["warmup_min_s"], int(options["warmup_min_inferences"]))
        last = 0.0
        while True:
            count = self.run(window_s, WINDOW_MIN_INFERENCES)
            self.warmups += count
            centre = self.centre(count)
            if last and abs(centre / last - 1.0) <= options["warmup_tolerance"]:
                return True
            last = centre
            if time.monotonic() - start > options["warmup_cap_s"]:
                return False

    def run(self, seconds: float, least: int) -> int:
        """Take samples for ``seconds``, at least ``least``, at most what there is room for; return how many."""
        whole = self.whole
        call, feeds, firsts, reset, samples = self._call, self._feeds, self._firsts, self._reset, self._samples
        clock = time.perf_counter_ns
        index, size, most, count = self._next, len(feeds), len(samples), 0
        end = clock() + int(seconds * 1e9)
        while count < most:
            feed = feeds[index]
            if firsts[index]:
                reset()
            start = clock()
            call(feed)
            stop = clock()
            samples[count] = stop - start
            count += 1
            index += 1
            if index == size:
                index = 0
            if stop >= end and count >= least and not (whole and count % size):
                break
        self._next = index
        return count

    def taken(self, count: int) -> array[int]:
        """Return a copy of the last run's first samples."""
        return self._samples[:count]

    def hold(self, samples: array[int]) -> None:
        """Take samples of several runs for those of one."""
        self._samples = samples

    def save(self, folder: str, count: int) -> Fields:
        """Write the samples as little-endian int64 and return what a launch says of them."""
        taken = self._samples[:count]
        if sys.byteorder == "big":
            taken.byteswap()
        data = taken.tobytes()
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, SAMPLES_FILE), "wb") as file:
            file.write(data)
        return {
            "samples": SAMPLES_FILE,
            "samples_sha256": hashlib.sha256(data).hexdigest(),
            "count": count,
            "median_ns": int(self._median(count)),
        }

    def centre(self, count: int) -> float:
        """Return the median of the last run's samples, or their mean where it was ``whole``."""
        return sum(self._samples[:count]) / float(count) if self.whole else self._median(count)

    def spread(self, count: int) -> float:
        """Return by how much the third quartile of the last run's samples exceeds the first, as a share of that.

        Without bound where every sample counts in what they are summed up by.
        """
        if self.whole:
            return float("inf")
        ordered = sorted(self._samples[:count])
        return float(ordered[3 * (count - 1) // 4]) / max(1, ordered[(count - 1) // 4]) - 1.0

    def _median(self, count: int) -> float:
        ordered = sorted(self._samples[:count])
        return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2.0
