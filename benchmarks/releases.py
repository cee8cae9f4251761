"""What releases cost: creating, signing and verifying 100 MB, `verify.py` on 5 MB, deltas, pulls, the switch.

    python benchmarks/releases.py

Builds two small projects whose models are mostly weights (fp32, ONNX Runtime, two short launches: nothing here is about
their speed), and holds each step against hashing the same bytes in the same run. Times are medians of fresh processes;
memory is the peak above that of a bare interpreter. Writes docs/results/releases.md.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from evidence import write_results
from onnx import TensorProto, helper, numpy_helper

from edgebuild.releasing.board_script import board_script
from edgebuild.releasing.bundle import read_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

TIMES = 5
#: Of the three commands on a large release, beside the bases that they are held against.
ROUNDS = 9
COMMANDS = ("create", "sign", "verify")
TOML = """\
[project]
name = "weights"
[model]
onnx = "model.onnx"
[[inputs]]
name = "x"
shape = ["batch", {width}]
dtype = "float32"
[freeze]
batch = 1
[data]
calibration = "data:calibration"
validation = "data:validation"
test = "data:test"
[budget]
agreement = 0.8
[build]
targets = ["here"]
threads = 1
objective = "size"
"""
DATA = """\
import numpy as np
from edgebuild import Sample


def read(seed):
    generator = np.random.default_rng(seed)
    for _ in range(60):
        yield Sample(inputs={{"x": generator.standard_normal({width}).astype(np.float32)}})


def calibration():
    return read(0)


def validation():
    return read(1)


def test():
    return read(2)
"""
PROFILE = """\
title = "fp32"
backend = "onnxruntime"
requires_arch = ["x86_64", "aarch64"]
precisions = ["fp32"]
[[settings]]
threads = 1
spinning = false
arena = true
"""
#: Builds with two short launches: what is released is real, how fast it is doesn't matter here.
BUILD = """
import sys
from pathlib import Path
from edgebuild.building.context import Options
from edgebuild.catalogue.project import load_project
from edgebuild.measuring.protocols import CERTIFY, SCREEN
from edgebuild.pipeline import build
short = {"warmup_min_s": 0.1, "warmup_cap_s": 0.1, "sample_s": 0.3, "waiting_ratio": 1e9, "steal_ratio": 1.0}
screen = SCREEN.model_copy(update={**short, "launches": 1, "max_launches": 1})
certify = CERTIFY.model_copy(update={**short, "launches": 2, "max_launches": 2})
(record,) = build(load_project(Path(sys.argv[1])), Options(screen=screen, certify=certify))
print(record.outcome, record.summary)
"""
#: Runs a command of the command line in this process, and prints its seconds and its peak memory in bytes.
COMMAND = """
import sys, time
from pathlib import Path

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

bare = peak()
start = time.perf_counter()
from edgebuild.cli.app import app
try:
    app(sys.argv[1:], standalone_mode=False)
except SystemExit as ended:
    assert not ended.code, ended.code
took = time.perf_counter() - start
import json
print(json.dumps([took, peak() - bare]), file=sys.stderr)
"""
HASH = """
import hashlib, sys, time
start = time.perf_counter()
for _ in range(2):
    for path in sys.argv[1:]:
        hasher = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
print(time.perf_counter() - start)
"""

#: Copies files as quickly as the system does, one after another, and waits until the disk has them.
COPY = """
import os, shutil, sys, time
os.makedirs(sys.argv[1])
start = time.perf_counter()
for number, path in enumerate(sys.argv[2:]):
    target = os.path.join(sys.argv[1], str(number))
    shutil.copyfile(path, target)
    handle = os.open(target, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
print(time.perf_counter() - start)
shutil.rmtree(sys.argv[1])
"""


def write_project(folder: Path, megabytes: float, seed: int = 0) -> Path:
    """Write a project of one matrix product of so many MB."""
    width = int((megabytes * 1e6 / 4) ** 0.5)
    generator = np.random.default_rng(seed)
    weights = (generator.standard_normal((width, width)) / width**0.5).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weights, "w")],
    )
    (folder / "targets").mkdir(parents=True)
    (folder / "profiles").mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    (folder / "edgebuild.toml").write_text(TOML.format(width=width))
    (folder / "data.py").write_text(DATA.format(width=width))
    (folder / "targets" / "here.toml").write_text('title = "This machine"\nprofiles = ["plain"]\n')
    (folder / "profiles" / "plain.toml").write_text(PROFILE)
    return folder


def python(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh process; it must succeed."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}")
    return done


def command(*words: object) -> tuple[float, float]:
    """Return the seconds of a command, and by how many MB it raised the peak of a bare interpreter."""
    took, peak = json.loads(python(COMMAND, *words).stderr.splitlines()[-1])
    return took, peak / 1e6


def repeated(make: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """Return the median seconds and the largest memory of several runs."""
    runs = [make() for _ in range(TIMES)]
    return statistics.median(took for took, _ in runs), max(peak for _, peak in runs)


def keys(folder: Path) -> tuple[Path, Path]:
    """Make a key with openssl."""
    private, public = folder / "team.key", folder / "team.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def released(scratch: Path, name: str, megabytes: float, version: str = "1.0") -> Path:
    """Build a project and return its bundle."""
    project = write_project(scratch / name, megabytes)
    print(python(BUILD, project).stdout.strip(), flush=True)
    command("release", "create", "--project", project, "--version", version)
    return project / "releases" / f"weights-{version}"


def commands(scratch: Path, bundle: Path) -> dict[str, tuple[float, float]]:
    """Return what creating a bundle again, signing and verifying it take, once."""
    private, public = keys(scratch)
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    create = ("release", "create", "--project", bundle.parent.parent, "--version", "1.0", "--out", out)
    return {
        "create": command(*create),
        "sign": command("release", "sign", out, "--key", private),
        "verify": command("release", "verify", out, "--key", public),
    }


def large(scratch: Path, bundle: Path, few: Path) -> dict[str, Any]:
    """Create, sign and verify, against hashing the same bytes twice, and against copying them to the disk.

    All take turns, round by round, so that what else the machine does falls on all of them.
    """
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    for _ in range(ROUNDS):
        found = {
            f"{name}_{size}": value
            for size, of in (("s", bundle), ("fixed_s", few))
            for name, value in commands(scratch, of).items()
        }
        found["start_s"] = command("--version")
        found["hashed_twice_s"] = float(python(HASH, *files).stdout), 0.0
        found["copied_s"] = float(python(COPY, scratch / "copy", *files).stdout), 0.0
        for name, (took, peak) in found.items():
            seconds.setdefault(name, []).append(took)
            peaks[name] = max(peak, peaks.get(name, 0.0))
    works, grows = [], []
    for at, base in enumerate(seconds["hashed_twice_s"]):
        works.append(sum(seconds[f"{name}_s"][at] - seconds["start_s"][at] for name in COMMANDS) / base)
        grows.append(sum(seconds[f"{name}_s"][at] - seconds[f"{name}_fixed_s"][at] for name in COMMANDS) / base)
    return {
        "megabytes": sum(path.stat().st_size for path in files) / 1e6,
        "rounds": seconds,
        "peak_megabytes": {name: peaks[f"{name}_s"] for name in COMMANDS},
        "against_hashing_twice": statistics.median(works),
        "growing_against_hashing_twice": statistics.median(grows),
    }


def small(scratch: Path, bundle: Path) -> dict[str, Any]:
    """`verify.py` to a verdict on bytes and signature; and whether anybody ever sees no release during a switch."""
    private, public = keys(scratch)
    command("release", "sign", bundle, "--key", private)
    script = scratch / "verify.py"
    script.write_bytes(board_script())

    def check() -> tuple[float, float]:
        start = time.perf_counter()
        words = [sys.executable, str(script), "check", str(bundle), "--key", str(public), "--no-run"]
        subprocess.run(words, check=True, capture_output=True)
        return time.perf_counter() - start, 0.0

    project = bundle.parent.parent
    command("release", "create", "--project", project, "--version", "1.1")
    newer = bundle.with_name("weights-1.1")
    command("release", "sign", newer, "--key", private)
    root = scratch / "root"
    install = [sys.executable, str(script), "install", "--root", str(root), "--key", str(public)]
    subprocess.run([*install, str(bundle)], check=True, capture_output=True)
    gaps, reads, stop = [], 0, threading.Event()

    def read() -> None:
        nonlocal reads
        last = time.perf_counter()
        while not stop.is_set():
            try:
                with (root / "current" / "artifact" / "model.onnx").open("rb") as file:
                    file.read(16)
                last, reads = time.perf_counter(), reads + 1
            except OSError:
                gaps.append(time.perf_counter() - last)

    reader = threading.Thread(target=read)
    reader.start()
    subprocess.run([*install, str(newer)], check=True, capture_output=True)
    stop.set()
    reader.join()
    return {
        "megabytes": sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) / 1e6,
        "verify_py_s": repeated(check)[0],
        "reads": reads,
        "gaps": len(gaps),
        "longest_gap_ms": 1e3 * max(gaps, default=0.0),
    }


def travelling(scratch: Path, bundle: Path) -> dict[str, Any]:
    """A delta between two models of which 2 % changed, and a pull of which a part is here already."""
    project = bundle.parent.parent
    model = onnx.load(project / "model.onnx")
    weights = numpy_helper.to_array(model.graph.initializer[0]).copy()
    changed = weights.reshape(-1)[: weights.size // 50]
    changed += np.random.default_rng(1).standard_normal(changed.size).astype(np.float32) * 1e-3
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    onnx.save(model, project / "model.onnx")
    print(python(BUILD, project).stdout.strip(), flush=True)
    command("release", "create", "--project", project, "--version", "2.0")
    newer = bundle.with_name("weights-2.0")
    command("release", "delta", bundle, newer, scratch / "delta")
    size = sum(path.stat().st_size for path in (scratch / "delta").rglob("*") if path.is_file())
    share = scratch / "share"
    command("release", "push", newer, share)
    command("release", "push", scratch / "delta", share)

    def pulled(older: Path) -> str:
        words = "release", "pull", f"{share}:2.0", scratch / f"with-{older.name}", "--older", older
        return python(COMMAND, *words).stdout.strip().splitlines()[-1].strip()

    found = {"pulled": pulled(newer), "pulled_delta": pulled(bundle)}
    return {"delta_bytes": size, "changed_bytes": changed_bytes(bundle, newer), **found}


def changed_bytes(old: Path, new: Path) -> int:
    """Return how many bytes of a bundle differ from those at the same place of the file of that path in another."""
    before, after = read_bundle(old), read_bundle(new)
    count = 0
    for path, descriptor in after.targets[0].files().items():
        now = np.frombuffer(after.layout.read(descriptor, limit=1 << 30), np.uint8)
        there = before.targets[0].files().get(path)
        then = np.frombuffer(b"" if there is None else before.layout.read(there, limit=1 << 30), np.uint8)
        both = min(len(now), len(then))
        count += int((now[:both] != then[:both]).sum()) + len(now) - both
    return count


def main() -> None:
    """Measure and write the page."""
    with tempfile.TemporaryDirectory(prefix="edgebuild-releases-") as name:
        scratch = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")
        few_bundle = released(scratch, "small", 2)
        many = large(scratch, released(scratch, "large", 100), few_bundle)
        few = small(scratch, few_bundle)
        travel = travelling(scratch, few_bundle)
    numbers = {"large": many, "small": few, "travelling": travel}
    title = "What releases cost"
    print(write_results("releases", title, "python benchmarks/releases.py", page(many, few, travel), numbers))


def page(many: dict[str, Any], few: dict[str, Any], travel: dict[str, Any]) -> str:
    """The tables."""
    median = {name: statistics.median(found) for name, found in many["rounds"].items()}
    hashed, copied, start = (median[name] for name in ("hashed_twice_s", "copied_s", "start_s"))
    work, grows = (many[f"{which}against_hashing_twice"] for which in ("", "growing_"))
    lines = [
        f"A bundle of {many['megabytes']:.0f} MB (artifact and fallback, about 100 MB each), medians of {ROUNDS} "
        f"rounds in which all take turns, in fresh processes. On one core hashing its files twice takes {hashed:.2f} "
        f"s, and copying them once, until the disk has them, {copied:.2f} s; starting edgebuild (`--version`) takes "
        f"{start:.2f} s. What doesn't grow with the size is what the same command takes for a bundle of "
        f"{few['megabytes']:.0f} MB: mostly imports.",
        "",
        "| command | seconds | of it not growing with the size | memory above a bare interpreter, MB |",
        "|---|---|---|---|",
        *[
            f"| `release {name}` | {median[f'{name}_s']:.2f} | {median[f'{name}_fixed_s']:.2f} | "
            f"{many['peak_megabytes'][name]:.0f} |"
            for name in COMMANDS
        ],
        "",
        "| what | measured | asked for |",
        "|---|---|---|",
        f"| create, sign and verify without the start, against hashing twice | {work:.2f}x | 1.5x |",
        f"| what of it grows with the size, against hashing twice | {grows:.2f}x | |",
        f"| `verify.py check --no-run` of {few['megabytes']:.1f} MB | {few['verify_py_s']:.2f} s | 0.3 s |",
        f"| reads of `current` during a switch that failed | {few['gaps']} of {few['reads']:,} | 0 |",
        f"| delta where {travel['changed_bytes']:,} bytes changed | {travel['delta_bytes']:,} bytes | changed + 10 % |",
        f"| pull with the old bundle at hand, by that delta | {travel['pulled_delta']} | changed + 10 % |",
        f"| pull with the new bundle at hand | {travel['pulled']} | nothing |",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
