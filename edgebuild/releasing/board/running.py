"""Runs a release's own runner on this machine: whether the device fits, whether it answers right, how long it takes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import selectors
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from .documents import (
    CHUNK_BYTES,
    LACKING,
    MAX_SAID,
    REFUSED,
    Blob,
    Problem,
    canonical,
    is_count,
    is_plain_path,
    is_sha256,
    load_json,
    named,
    need,
    open_plain,
    read_exactly,
    shown,
)
from .reading import GOLDEN_FILE, RUNNER_FILE, Target, machine_name
from .vectors import MAX_VECTOR_BYTES, excess, vector_of

PROTOCOL = 2
ANSWER = "The runner's answer"
MAX_LINE_BYTES = 4 << 20
MAX_RUNNER_BYTES = 64 << 20
PROBE_LIMIT_S, RUN_LIMIT_S = 300.0, 1800.0
INPUTS, OUTPUTS = "golden/inputs/", "golden/outputs/"
#: What the runner says of a machine that lacks something; anything else is a fault of the release on this device.
LACKING_KINDS = ("environment", "full")
LAUNCHES = 3
#: A launch here is short, and a shared machine is noisy: a median this far off the recorded interval is still inside.
LATENCY_FACTOR = 1.5
LAUNCH = {"warmup_min_s": 0.3, "warmup_cap_s": 5.0, "sample_s": 1.0}


#: CPU features by which runtimes choose kernels, as Linux names them.
KERNEL_FEATURES = frozenset((
    "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp",
    "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16",
))  # fmt: skip


class Source(NamedTuple):
    """Where the files of a target lie: in a bundle's blobs, or in a slot by their paths."""

    target: Target
    paths: Dict[str, Path]

    def read(self, path: str, limit: int) -> bytes:
        """Return a small file, checked."""
        return read_exactly(self.paths[path], self.target.files[path], path, limit)


class How(NamedTuple):
    """The Python that has the runtime, and whether an artifact may bring native code, which is run."""

    python: str
    native: bool = False


class Runner:
    """The runner of a release in a folder of its own, with what it is to run."""

    def __init__(self, source: Source, how: How, root: Path) -> None:
        self._source = source
        self._how = how
        self.root = root.resolve()
        self._program = self.root / RUNNER_FILE
        self._program.write_bytes(source.read(RUNNER_FILE, MAX_RUNNER_BYTES))

    def facts(self) -> Dict[str, Any]:
        """Return what it says of this machine; nothing of the artifact is there yet."""
        runtime = self._source.target.release["requires"]["runtime"]
        return self._call("probe", {"backends": [runtime]}, PROBE_LIMIT_S)

    def place(self) -> None:
        """Put the artifact and the golden inputs where the runner checks and opens them."""
        self._artifact = self._placed(self._source.target.release["artifact"] + "/")
        self._inputs = self._placed(INPUTS)

    def evaluate(self) -> Dict[str, bytes]:
        """Return what the artifact answers to the golden inputs: files of numpy's, by output."""
        out = self.root / "outputs"
        answer = self._call("evaluate", {**self._what(), "outputs": str(out)}, RUN_LIMIT_S)
        outputs, found = answer.get("outputs"), {}
        need(isinstance(outputs, list), "outputs", ANSWER)
        for each in outputs if isinstance(outputs, list) else []:
            need(isinstance(each, dict) and is_plain_path(each.get("file")) and "/" not in each["file"], "file", ANSWER)
            name, size, digest = (each.get(field) for field in ("name", "size_bytes", "sha256"))
            need(isinstance(name, str) and is_count(size) and is_sha256(digest), "output", ANSWER)
            found[name] = read_exactly(out / each["file"], Blob("", digest, size, {}), each["file"], MAX_VECTOR_BYTES)
        return found

    def latency_ms(self) -> float:
        """Return the median of the medians of a few launches."""
        medians: List[float] = []
        for launch in range(LAUNCHES):
            out = str(self.root / ("launch-%d" % launch))
            answer = self._call("measure", {**self._what(), **LAUNCH, "out": out}, RUN_LIMIT_S)
            need(is_count(answer.get("median_ns")), "median_ns", ANSWER)
            medians.append(answer["median_ns"] / 1e6)
        return sorted(medians)[LAUNCHES // 2]

    def _what(self) -> Dict[str, Any]:
        release = self._source.target.release
        return {
            "backend": release["requires"]["runtime"],
            "artifact": self._artifact,
            "inputs": self._inputs,
            "settings": release["settings"],
        }

    def _placed(self, prefix: str) -> str:
        """Return a folder that is named by the digest of all in it, as the runner asks for; it reads every byte."""
        files = self._source.target.files
        mine = {path[len(prefix) :]: path for path in sorted(files) if path.startswith(prefix)}
        need(mine, "files: none in %s" % prefix, "The release")
        listing = [
            {"path": name, "sha256": files[path].sha256, "size_bytes": files[path].size}
            for name, path in sorted(mine.items())
        ]
        folder = self.root / "cas" / hashlib.sha256(canonical(listing)).hexdigest()
        for name, path in mine.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(self._source.paths[path], place)
        return str(folder)

    def _call(self, op: str, fields: Dict[str, Any], limit_s: float) -> Dict[str, Any]:
        request = {**fields, "protocol": PROTOCOL, "op": op, "root": str(self.root), "time_limit_s": limit_s + 5.0}
        request["native_libraries"] = self._how.native
        with _started([self._how.python, "-B", str(self._program)], self.root) as process:
            try:
                os.write(process.stdin.fileno(), canonical(request) + b"\n")
            except BrokenPipeError:
                raise _silent(op, process, self.root) from None
            for answer in _lines(process, op, limit_s):
                for field in {"result", "error"} & set(answer):
                    need(isinstance(answer[field], dict), field, ANSWER)
                if "result" in answer:
                    result: Dict[str, Any] = answer["result"]
                    return result
                if "error" in answer:
                    error = answer["error"]
                    code = LACKING if error.get("kind") in LACKING_KINDS else REFUSED
                    raise Problem("On this device: %s" % error.get("message"), str(error.get("hint", "")), code)
            raise _silent(op, process, self.root)


@contextlib.contextmanager
def _started(words: List[str], root: Path) -> Iterator[Any]:
    """Start a process in a group of its own, and leave nothing of it running."""
    with (root / "said").open("wb") as said:
        try:
            process: Any = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, cwd=str(root), start_new_session=True
            )
        except OSError as error:
            message = "%s can't be started: %s." % (words[0], error.strerror or error)
            raise Problem(message, "Name one that has the runtime with --python.", LACKING) from error
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _lines(process: Any, op: str, limit_s: float) -> Iterator[Dict[str, Any]]:
    """Yield what the runner says, line by line, until it ends; raises for one that is too slow or speaks nonsense."""
    end, rest, handle = time.monotonic() + limit_s, b"", process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, end - time.monotonic())):
                raise Problem("The runner's %s did not end within %g s on this device." % (op, limit_s))
            chunk = os.read(handle, 1 << 16)
            if not chunk:
                return
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise Problem("The runner's %s says too much." % op)
            for line in whole:
                yield load_json(line, ANSWER, exact=False)


def _silent(op: str, process: Any, root: Path) -> Problem:
    code = process.wait()
    said = (root / "said").read_bytes()[-2000:].decode("utf-8", "replace")
    ended = "by signal %d" % -code if code < 0 else "with status %d" % code
    message = "The runner's %s ended %s and without an answer on this device. %s" % (op, ended, " ".join(said.split()))
    return Problem(message.strip())


def link_or_copy(source: Path, place: Path) -> None:
    """Put a file somewhere else too, without a copy where the disk and the rights allow it."""
    try:
        os.link(str(source), str(place), follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        with open_plain(source) as file, place.open("xb") as out:
            shutil.copyfileobj(file, out, CHUNK_BYTES)


def misfits(requires: Dict[str, Any], facts: Dict[str, Any]) -> List[str]:
    """Return everything in which this machine differs from what a release requires."""
    found = []
    runtime, system = requires["runtime"], platform.system().lower()
    pairs = [
        ("architecture", machine_name(requires["architecture"]), facts.get("arch")),
        ("system", requires["os"], system),
        (runtime, requires["runtime_version"], (facts.get("runtime") or {}).get(runtime)),
    ]
    pairs += [(name, value, facts.get(name)) for name, value in sorted(requires.get("facts", {}).items())]
    for name, wanted, here in pairs:
        if here != wanted:
            there = "isn't here, or doesn't tell" if here in (None, "unknown") else "is %s here" % shown(here)
            found.append("%s must be %s, it %s" % (shown(name), shown(wanted), there))
    lacking = sorted(set(requires["isa"]) - _features(facts))
    if lacking:
        found.append("the CPU lacks %s" % named(lacking))
    memory, wanted_bytes = facts.get("memory_bytes"), requires.get("memory_bytes")
    if isinstance(memory, int) and wanted_bytes is not None and memory < wanted_bytes:
        found.append("%d MB of memory are needed, there are %d" % (wanted_bytes / 1e6, memory / 1e6))
    return found


def doubts(requires: Dict[str, Any], facts: Dict[str, Any]) -> List[str]:
    """Return in what this machine fits but may differ all the same."""
    found = []
    more = sorted((_features(facts) & KERNEL_FEATURES) - set(requires["isa"]))
    if more:
        text = "the CPU has %s, and what was measured hadn't: the runtime may take other kernels"
        found.append(text % ", ".join(more))
    if requires.get("memory_bytes") is not None and not isinstance(facts.get("memory_bytes"), int):
        found.append("%d MB of memory are needed, and this machine tells none" % (requires["memory_bytes"] / 1e6))
    return found


def _features(facts: Dict[str, Any]) -> Set[str]:
    found = facts.get("isa")
    return set(map(str, found)) if isinstance(found, list) else set()


def require_fit(source: Source, how: How, scratch: Path) -> Tuple[Runner, List[str]]:
    """Return the runner of a release that this machine fits, and what is in doubt all the same.

    Raises with everything in which it doesn't fit.
    """
    runner = Runner(source, how, scratch)
    requires, facts = source.target.release["requires"], runner.facts()
    different = misfits(requires, facts)
    if different:
        message = "Target %s is for another device: %s." % (source.target.name, named(different, "; ", MAX_SAID))
        raise Problem(message, "Build for this device, or bring it to what was measured.")
    return runner, doubts(requires, facts)


class Answers(NamedTuple):
    """How right the answers were: the largest error as a share of what is allowed."""

    frames: int
    outputs: int
    excess: float


def require_right_answers(source: Source, runner: Runner) -> Answers:
    """Hold what the real runtime answers here against the golden vectors; raises for an answer that is off."""
    frames, wanted = golden_of(source)
    runner.place()
    found, worst = runner.evaluate(), 0.0
    for name, path, rtol, atol in wanted:
        expected = vector_of(source.read(path, MAX_VECTOR_BYTES), path)
        need(expected.shape[:1] == (frames,), "number of frames", path)
        if name not in found:
            raise Problem("The artifact has no output '%s' on this device." % shown(name))
        here = excess(vector_of(found[name], "Output '%s'" % shown(name)), expected, rtol, atol, name)
        if here > 1.0:
            message = "The artifact answers wrong on this device: output '%s' is off by %.3g times what is allowed."
            hint = "Don't use it here; the runtime computes otherwise than where it was built."
            raise Problem(message % (shown(name), here), hint)
        worst = max(worst, here)
    return Answers(frames, len(wanted), worst)


def golden_of(source: Source) -> Tuple[int, List[Tuple[str, str, float, float]]]:
    """Return how many frames the golden vectors have, and each output's name, file and tolerances."""
    golden = load_json(source.read(GOLDEN_FILE, MAX_LINE_BYTES), GOLDEN_FILE)
    frames: Any = golden.get("frames")
    outputs: Any = golden.get("outputs")
    need(is_count(frames) and frames >= 1 and isinstance(outputs, list) and outputs, "frames", GOLDEN_FILE)
    found = []
    for each in outputs:
        need(isinstance(each, dict) and isinstance(each.get("name"), str), "output", GOLDEN_FILE)
        path = "%s%s" % (OUTPUTS, each.get("file"))
        need(path in source.target.files, "file of output '%s'" % shown(each["name"]), GOLDEN_FILE)
        for field in ("rtol", "atol"):
            value = each.get(field)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            need(number and value >= 0, "%s of output '%s'" % (field, shown(each["name"])), GOLDEN_FILE)
        found.append((each["name"], path, float(each["rtol"]), float(each["atol"])))
    return int(frames), found


class Latency(NamedTuple):
    """What it takes here, and the bounds around what was recorded. All in milliseconds."""

    found_ms: float
    low_ms: float
    high_ms: float

    @property
    def inside(self) -> bool:
        """Whether it is as recorded."""
        return self.low_ms <= self.found_ms <= self.high_ms


def latency_of(source: Source, runner: Runner) -> Optional[Latency]:
    """Measure a few launches; None where the release records no latency."""
    recorded = source.target.release.get("latency")
    if recorded is None:
        return None
    low, high = (recorded.get(name) or recorded["point_ms"] for name in ("low_ms", "high_ms"))
    return Latency(runner.latency_ms(), low / LATENCY_FACTOR, high * LATENCY_FACTOR)
