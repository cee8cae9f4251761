"""Is a model measured over SSH what it is measured here, and what does SSH cost?

    python benchmarks/ssh.py    needs root: the board is a network namespace of this machine with a real sshd

The anchor model's launches here and on the board take turns on the same cores. Takes about seven minutes; an
interrupted run goes on. Writes its page to docs/results/. `--rounds` and `--sessions` shorten a trial run; the
committed page uses the defaults.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evidence import machine, write_results
from harness import Ground

from edgebuild.backends.table import backends
from edgebuild.core.measurement import Launch
from edgebuild.core.values import digest_json
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.lock import measurement_lock
from edgebuild.measuring import statistics
from edgebuild.measuring.protocols import CERTIFY

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.boards.rig import Board, missing, rig

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.devices.transport import Device

COMMAND = "python benchmarks/ssh.py"
LIMIT_S = 3.0
LAUNCHES = CERTIFY.launches


def through(ground: Ground, device: Device) -> Ground:
    """The same artifact and settings on another device, everything it needs placed there."""
    other = copy.copy(ground)
    other.client = RunnerClient(device, {"onnxruntime": backends()["onnxruntime"].device_file})
    other.artifact = other.client.put_folder(ground.arm.folder)
    other.inputs = other.client.put_folder(ground.arm.inputs)
    return other


def session_s(ground: Ground, device: Device) -> float:
    """Seconds of a whole session on an empty device: connecting, placing, launching, closing."""
    start = time.monotonic()
    placed = through(ground, device)
    for index in range(LAUNCHES):
        placed.launch(index, "session")
    device.close()
    return time.monotonic() - start


class Kept:
    """What was measured so far, line by line, so that an interrupted run goes on; of this code and these packages."""

    def __init__(self, work: Path, runner: str) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._path = work / f"{digest_json([runner, machine() | {'date': ''}])[:16]}.jsonl"
        self._known: dict[str, Any] = {}
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        with contextlib.suppress(ValueError):  # the last line of a run that was killed
            for line in lines:
                self._known.update([json.loads(line)])
        whole = (json.dumps(pair) + "\n" for pair in self._known.items())
        self._path.write_text("".join(whole), encoding="utf-8")

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what is known under ``key``, else what ``make`` measures now."""
        if key not in self._known:
            self._known[key] = make()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self._known[key]]) + "\n")
            print(key, file=sys.stderr, flush=True)
        return self._known[key]

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def round_of(grounds: dict[str, Ground], index: int, names: tuple[str, ...]) -> dict[str, Any]:
    """One launch of each, in this order."""
    return {name: grounds[name].launch(index, name).model_dump(mode="json") for name in names}


def sessions_of(ground: Ground, board: Board, root: Path, index: int, names: tuple[str, ...]) -> dict[str, float]:
    """A session here and one over SSH, each on an empty device, in this order."""
    seconds = {}
    for name in names:
        if name == "local":
            seconds[name] = session_s(ground, LocalDevice(root / f"session-{index}"))
        else:
            shutil.rmtree(board.root / "edgebuild", ignore_errors=True)
            seconds[name] = session_s(ground, board.device())
    return seconds


def placed_files(board: Board) -> dict[str, int]:
    """What lies on the board, by time of writing."""
    folder = board.root / "edgebuild"
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def moved(ground: Ground, board: Board) -> dict[str, int]:
    """Bytes that placing everything takes, the first time and the second: of files written, and on the cable."""
    found = {}
    shutil.rmtree(board.root / "edgebuild", ignore_errors=True)
    for turn in ("first", "second"):
        before, cable = placed_files(board), board.sent_bytes()
        with contextlib.closing(board.device()) as device:
            through(ground, device)
        found[f"{turn}_cable"] = board.sent_bytes() - cable
        written = [name for name, stamp in placed_files(board).items() if before.get(name) != stamp]
        # A staged file is a link to the one that was sent.
        sizes = {(s.st_ino, s.st_size) for s in ((board.root / "edgebuild" / name).stat() for name in written)}
        found[f"{turn}_files"] = sum(size for _, size in sizes)
    return found


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgebuild-ssh")
    arguments = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    launches: dict[str, list[Launch]] = {"ssh": [], "local": []}
    seconds: dict[str, list[float]] = {"ssh": [], "local": []}
    with (
        tempfile.TemporaryDirectory() as scratch,
        measurement_lock("benchmark: ssh"),
        tempfile.TemporaryDirectory() as place,
        rig(Path(place), count=2) as boards,
    ):
        root, board = Path(scratch), boards[0]
        local = Ground(root)
        grounds = {"local": local, "ssh": through(local, board.device())}
        kept = Kept(arguments.work, local.client.runner_digest)
        for index, order in enumerate(statistics.order(tuple(launches), arguments.rounds, 0)):
            answer = kept.get(f"round {index + 1}", functools.partial(round_of, grounds, index, order))
            for name, launch in answer.items():
                launches[name].append(Launch.model_validate(launch))
        for index, order in enumerate(statistics.order(tuple(seconds), arguments.sessions, 2)):
            make = functools.partial(sessions_of, local, board, root, index, order)
            for name, value in kept.get(f"session {index + 1}", make).items():
                seconds[name].append(value)
        bytes_moved = moved(local, board)
    kept.forget()
    comparison = statistics.compare(statistics.paired_medians(launches["ssh"], launches["local"]))
    if comparison is None:
        raise SystemExit("no two valid launches: the machine is too busy")
    ratio, low, high = (math.exp(x) for x in (comparison.effect, comparison.low, comparison.high))
    took = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    extra = took["ssh"] - took["local"]
    limit = "kept" if extra <= LIMIT_S else "broken"
    text = (
        f"Anchor model in onnxruntime, one thread, {arguments.rounds} interleaved launches of each, fresh processes. "
        "The board is a network namespace of this machine with Debian's sshd, so both use the same cores.\n\n"
        "| over SSH / here | 95 % interval | verdict | resolution |\n|---|---|---|---|\n"
        f"| {ratio:.4f} | {low:.4f} to {high:.4f} | **{comparison.outcome}** | {comparison.resolution or 0:.2%} |\n\n"
        f"- A session of {LAUNCHES} launches on an empty device, median of {arguments.sessions}: {took['ssh']:.2f} s "
        f"over SSH, {took['local']:.2f} s here: {extra:+.2f} s (limit {LIMIT_S:g} s: {limit}).\n"
        f"- Placing artifact, data and runner on an empty board wrote {bytes_moved['first_files']:,} bytes of files; "
        f"doing it again wrote {bytes_moved['second_files']:,} "
        f"({'no byte moved twice' if bytes_moved['second_files'] == 0 else 'SOMETHING MOVED TWICE'}). On the cable, "
        f"with keys, requests and headers: {bytes_moved['first_cable']:,} and {bytes_moved['second_cable']:,} bytes.\n"
    )
    numbers = {
        "comparison": comparison.model_dump(mode="json"),
        "session_s": seconds,
        "bytes": bytes_moved,
        "launches": {name: [[x.median_ns, list(x.invalid)] for x in arm] for name, arm in launches.items()},
    }
    print(write_results("ssh", "Measured over SSH", COMMAND, text, numbers))


if __name__ == "__main__":
    main()
