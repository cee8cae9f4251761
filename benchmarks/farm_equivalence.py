"""Is a model measured through a farm what it is measured over SSH, and what does the way through the farm cost?

    python benchmarks/farm_equivalence.py    needs root: the board is a network namespace with a real sshd

A real farm on this machine: its server and its host's agent are processes of their own, over TLS. The anchor model's
launches over SSH and through the relay take turns on one board; so do sessions of `bench` over SSH and as a job of the
farm. Takes about eight minutes; `--rounds` and `--sessions` shorten it. Writes its page to docs/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import socket
import statistics as stdlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from evidence import write_results
from harness import Ground

from edgebuild.backends.table import backends
from edgebuild.benching.bench import BenchRequest, run_bench
from edgebuild.core.artifact_files import list_files
from edgebuild.core.measurement import Launch
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.lock import measurement_lock
from edgebuild.errors import DeviceError
from edgebuild.farm.arguments import BenchArguments, ModelFile, SentModel
from edgebuild.farm.client import FarmAddress, FarmClient
from edgebuild.farm.host.benching import OneDevice
from edgebuild.farm.provider import FarmProvider
from edgebuild.farm.results import BenchResult
from edgebuild.farm.values import Ask, Health, Job, JobEnd, JobSpec, JobState, Shelved
from edgebuild.measuring import statistics

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.boards.rig import missing, rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.core.measurement import Comparison
    from edgebuild.devices.transport import Device
    from edgebuild.fleet.inventory import DeviceEntry

COMMAND = "python benchmarks/farm_equivalence.py"
TARGET = "this-machine"
LAUNCH_S = 1.0
CALLS = 20
LIMIT_S = 600.0
#: What is said of a session in which the machine was too busy.
DISTURBED = "launches counts"
EDGEBUILD = (sys.executable, "-m", "edgebuild")


@contextlib.contextmanager
def farm(folder: Path, entry: DeviceEntry) -> Iterator[FarmAddress]:
    """A farm that lends one board, good and free."""
    os.environ["EDGEBUILD_FARM_HOME"] = str(folder / "farm")
    os.environ["EDGEBUILD_DEVICES"] = str(folder / "devices.toml")
    from edgebuild.fleet.inventory import save_entry

    save_entry(entry)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run([*EDGEBUILD, "farm", "init", "--name", "localhost"], check=True, capture_output=True)
    token = [*EDGEBUILD, "farm", "token", "make", "benchmark", "--scope", "run", "--json"]
    made = json.loads(subprocess.run(token, check=True, capture_output=True).stdout)["token"]
    with (folder / "log").open("wb") as log:
        serving = subprocess.Popen(
            [*EDGEBUILD, "farm", "serve", "--listen", f"127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        address = FarmAddress(url=f"https://127.0.0.1:{port}", token=made, authority=str(folder / "farm" / "ca.pem"))
        await_good(address)
        yield address
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.wait(60)


def await_good(address: FarmAddress) -> None:
    deadline = time.monotonic() + LIMIT_S
    with contextlib.closing(FarmClient(address)) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                found = client.ask("GET", "/api/devices", tuple[Shelved, ...])
                if found and found[0].health is Health.GOOD and not found[0].lease:
                    return
            time.sleep(1.0)
    raise SystemExit("the farm's board doesn't become good")


class Way:
    """The anchor on one board, by one way to it."""

    def __init__(self, ground: Ground, device: Device) -> None:
        self.client = RunnerClient(device, {name: one.device_file for name, one in backends().items()})
        self._settings = ground.settings
        self._artifact = self.client.put_folder(ground.arm.folder)
        self._inputs = self.client.put_folder(ground.arm.inputs)

    def launch(self, index: int, name: str) -> Launch:
        with self.client.workspace() as out:
            request = {
                "backend": "onnxruntime",
                "artifact": self._artifact,
                "settings": self._settings,
                "inputs": self._inputs,
                "out": out,
                "warmup_min_s": 0.5,
                "warmup_cap_s": 10.0,
                "sample_s": LAUNCH_S,
            }
            answer = self.client.call("measure", request, time_limit_s=120.0)
        return Launch.model_validate({**answer, "index": index, "arm": name})

    def call_s(self) -> float:
        """Seconds of a call that does next to nothing."""
        start = time.monotonic()
        self.client.call("probe", {"light": True}, time_limit_s=60.0)
        return time.monotonic() - start


def alternate(ways: dict[str, Way], rounds: int) -> tuple[dict[str, list[Launch]], dict[str, list[float]]]:
    """Launches in turn, and then calls in turn."""
    launches: dict[str, list[Launch]] = {name: [] for name in ways}
    calls: dict[str, list[float]] = {name: [] for name in ways}
    for index, order in enumerate(statistics.order(tuple(ways), rounds, 0)):
        for name in order:
            launches[name].append(ways[name].launch(index, name))
        print(f"round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    for order in statistics.order(tuple(ways), CALLS, 1):
        for name in order:
            calls[name].append(ways[name].call_s())
    return launches, calls


def job_ms(client: FarmClient, folder: Path, board: str) -> float | None:
    """A session of ``bench`` as a job: the model's point in ms, None where none of its launches counts."""
    files = [ModelFile(path=file.path, sha256=client.send(folder / file.path)) for file in list_files(folder)]
    arguments = BenchArguments(model=SentModel(name="anchor", files=tuple(files)), quick=True)
    ask = Ask(device=board, duration_s=LIMIT_S)
    spec = JobSpec(kind="bench", ask=ask, arguments=arguments.model_dump(mode="json"), name="equivalence")
    job = client.ask("POST", "/api/jobs", Job, spec)
    while job.state is not JobState.ENDED:
        time.sleep(1.0)
        job = client.ask("GET", f"/api/jobs/{job.id}", Job)
    if job.end is not JobEnd.SUCCEEDED:
        if DISTURBED in job.reason:
            return None
        raise SystemExit(f"the bench job ended with {job.end}: {job.reason}")
    return BenchResult.model_validate(job.result).arms[0].summary.point_ms


def direct_ms(folder: Path, entry: DeviceEntry) -> float | None:
    """A session of ``bench`` over SSH; None where none of its launches counts."""
    request = BenchRequest(model=folder, device=entry.name, quick=True)
    try:
        report = run_bench(request, progress=NoProgress(), check=never_stop, devices=OneDevice(entry))
    except DeviceError as error:
        if DISTURBED in error.message:
            return None
        raise
    return report.results[0].summary.point_ms


def sessions_of(client: FarmClient, folder: Path, entry: DeviceEntry, sessions: int) -> dict[str, list[float | None]]:
    """Sessions in turn."""
    found: dict[str, list[float | None]] = {"ssh": [], "job": []}
    for index, order in enumerate(statistics.order(("ssh", "job"), sessions, 2)):
        for name in order:
            found[name].append(direct_ms(folder, entry) if name == "ssh" else job_ms(client, folder, entry.name))
        print(f"session {index + 1} of {sessions}", file=sys.stderr, flush=True)
    return found


def row(what: str, comparison: Comparison | None) -> str:
    if comparison is None:
        return f"| {what} | – | – | nothing counts: the machine is too busy | – |\n"
    ratio, low, high = (math.exp(x) for x in (comparison.effect, comparison.low, comparison.high))
    return (
        f"| {what} | {ratio:.4f} | {low:.4f} to {high:.4f} | **{comparison.outcome}** ({comparison.pairs} pairs) "
        f"| {comparison.resolution or 0:.2%} |\n"
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--meanwhile", default="nothing", help="What else ran, for the page. Default: nothing.")
    arguments = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as place, rig(Path(place), count=2) as boards:
        entry = boards[0].entry(TARGET)
        ground = Ground(Path(place))
        with farm(Path(place), entry) as address, contextlib.closing(FarmProvider(address)) as provider:
            lent = provider.connect(next(iter(provider.entries().values())))
            with measurement_lock("benchmark: farm"), contextlib.closing(lent):
                ways = {"ssh": Way(ground, boards[0].device()), "relay": Way(ground, lent)}
                launches, calls = alternate(ways, arguments.rounds)
            with contextlib.closing(FarmClient(address)) as client:
                sessions = sessions_of(client, ground.arm.folder, entry, arguments.sessions)
    valid = statistics.compare(statistics.paired_medians(launches["relay"], launches["ssh"]))
    every = statistics.compare(
        [(one.median_ns, other.median_ns) for one, other in zip(launches["relay"], launches["ssh"], strict=True)]
    )
    both = zip(sessions["job"], sessions["ssh"], strict=True)
    points = [(job, ssh) for job, ssh in both if job is not None and ssh is not None]
    took = {name: stdlib.median(values) * 1e3 for name, values in calls.items()}
    head = "| through the farm / over SSH | ratio | 95 % interval | verdict | resolution |\n|---|---|---|---|---|\n"
    text = (
        f"Anchor model in onnxruntime, one thread, {arguments.rounds} launches each way in turn"
        + (f", and {arguments.sessions} sessions of `bench --quick` each way in turn" if arguments.sessions else "")
        + f". The board is a network namespace of this "
        f"machine with Debian's sshd: all ways use the same cores. Meanwhile on them: {arguments.meanwhile}.\n\n{head}"
        + row("relay, launches that count", valid)
        + row("relay, all launches", every)
        + (row("job, sessions", statistics.compare(points)) if arguments.sessions else "")
        + f"\nA call that does next to nothing (a light probe in a fresh process), median of {CALLS}: "
        f"{took['relay']:.0f} ms through the relay, {took['ssh']:.0f} ms over SSH: {took['relay'] - took['ssh']:+.0f} "
        "ms.\n"
    )
    numbers = {
        "relay": None if every is None else every.model_dump(mode="json"),
        "launches": {name: [[x.median_ns, list(x.invalid)] for x in arm] for name, arm in launches.items()},
        "calls_s": calls,
        "sessions_ms": sessions,
    }
    print(write_results("farm-equivalence", "Measured through a farm", COMMAND, text, numbers))


if __name__ == "__main__":
    main()
