"""Is a model measured over SSH what it is measured here, and what does SSH cost?

    python benchmarks/ssh.py    needs root: the board is a network namespace of this machine with a real sshd

The anchor model's launches here and on the board take turns on the same cores. Writes its page to docs/results/.
`--rounds` and `--sessions` shorten a trial run; the committed page uses the defaults.
"""

from __future__ import annotations

import argparse
import copy
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from evidence import write_results
from harness import Ground

from edgebuild.backends.table import backends
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.lock import measurement_lock
from edgebuild.measuring import statistics
from edgebuild.measuring.protocols import CERTIFY

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.boards.rig import Board, missing, rig

if TYPE_CHECKING:
    from edgebuild.core.measurement import Launch
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
    """Seconds of a whole session on an empty device: connecting, placing, launching."""
    start = time.monotonic()
    placed = through(ground, device)
    for index in range(LAUNCHES):
        placed.launch(index, "session")
    return time.monotonic() - start


def overhead(ground: Ground, board: Board, root: Path, sessions: int) -> dict[str, list[float]]:
    """Sessions here and over SSH, taking turns."""
    seconds: dict[str, list[float]] = {"local": [], "ssh": []}
    for index in range(sessions):
        for name in statistics.order(("local", "ssh"), sessions, 2)[index]:
            if name == "local":
                seconds[name].append(session_s(ground, LocalDevice(root / f"session-{index}")))
            else:
                shutil.rmtree(board.root / "edgebuild", ignore_errors=True)
                seconds[name].append(session_s(ground, board.device()))
    return seconds


def placed_files(board: Board) -> dict[str, int]:
    """What lies on the board under digests, by inode and time of writing."""
    folder = board.root / "edgebuild"
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def moved_again_bytes(ground: Ground, board: Board) -> int:
    """Bytes of the artifact, the data and the runner that a second session writes on the board."""
    through(ground, board.device())
    before = placed_files(board)
    through(ground, board.device())
    after = placed_files(board)
    folder = board.root / "edgebuild"
    return sum((folder / name).stat().st_size for name, stamp in after.items() if before.get(name) != stamp)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--sessions", type=int, default=3)
    arguments = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    launches: dict[str, list[Launch]] = {"ssh": [], "local": []}
    with (
        tempfile.TemporaryDirectory() as scratch,
        measurement_lock("benchmark: ssh"),
        tempfile.TemporaryDirectory() as place,
        rig(Path(place), count=2) as boards,
    ):
        root, board = Path(scratch), boards[0]
        local = Ground(root)
        remote = through(local, board.device())
        for index, order in enumerate(statistics.order(tuple(launches), arguments.rounds, 0)):
            for name in order:
                launches[name].append((remote if name == "ssh" else local).launch(index, name))
        seconds = overhead(local, board, root, arguments.sessions)
        again = moved_again_bytes(local, board)
    comparison = statistics.compare(statistics.paired_medians(launches["ssh"], launches["local"]))
    if comparison is None:
        raise SystemExit("no two valid launches: the machine is too busy")
    ratio, low, high = (math.exp(x) for x in (comparison.effect, comparison.low, comparison.high))
    took = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    extra = took["ssh"] - took["local"]
    kept = "kept" if extra <= LIMIT_S else "broken"
    text = (
        f"Anchor model in onnxruntime, one thread, {arguments.rounds} interleaved launches of each, fresh processes. "
        "The board is a network namespace of this machine with Debian's sshd, so both use the same cores.\n\n"
        "| over SSH / here | 95 % interval | verdict | resolution |\n|---|---|---|---|\n"
        f"| {ratio:.4f} | {low:.4f} to {high:.4f} | **{comparison.outcome}** | {comparison.resolution or 0:.2%} |\n\n"
        f"- A session of {LAUNCHES} launches on an empty device, median of {arguments.sessions}: {took['ssh']:.2f} s "
        f"over SSH, {took['local']:.2f} s here: {extra:+.2f} s (limit {LIMIT_S:g} s: {kept}).\n"
        f"- Bytes of artifact, data and runner that a second session wrote on the board: {again}.\n"
    )
    numbers = {
        "comparison": comparison.model_dump(mode="json"),
        "session_s": seconds,
        "moved_again_bytes": again,
        "launches": {name: [[x.median_ns, list(x.invalid)] for x in arm] for name, arm in launches.items()},
    }
    print(write_results("ssh", "Measured over SSH", COMMAND, text, numbers))


if __name__ == "__main__":
    main()
