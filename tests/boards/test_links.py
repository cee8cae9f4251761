"""Links that are slow, that stall and that break: what is measured stays valid, what ends does so in one sentence."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgebuild.backends.table import backends
from edgebuild.core.measurement import Measurement
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.devices import client as client_module
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.ssh import connection as ssh_connection
from edgebuild.errors import DeviceError
from edgebuild.execution.executor import Executor
from edgebuild.execution.store import Store
from edgebuild.measuring.anchor import anchor_arm
from edgebuild.measuring.protocols import Protocol
from edgebuild.measuring.session import Arm, MeasurementContext, measure

from .link import Link, link_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rig import Board

SIZE = 4_000_000
SLEEPER = "import time\ndef version():\n    time.sleep(600)\n"
NAPPER = 'import time\ndef version():\n    time.sleep(3)\n    return "1"\n'
QUICK = Protocol(
    name="certify",
    launches=1,
    max_launches=1,
    sample_s=0.05,
    warmup_min_s=0.02,
    warmup_cap_s=0.02,
    waiting_ratio=1e9,
    steal_ratio=1.0,
)


@pytest.fixture
def link(board: Board) -> Iterator[Link]:
    with link_to(board.ssh) as made:
        yield made
        # Closed while the link still carries it.
        made.stalled = False
        for device in board.devices:
            device.close()
        board.devices.clear()


def client_of(board: Board, link: Link, folder: Path, text: str = "def version():\n    return '1'\n") -> RunnerClient:
    path = folder / "device.py"
    path.write_text(text)
    return RunnerClient(board.device(address=link.address), {"toy": path})


def large(folder: Path) -> Path:
    made = folder / "artifact"
    made.mkdir()
    (made / "model").write_bytes(os.urandom(SIZE))
    return made


def bench_over(board: Board, link: Link, folder: Path, delay_s: float) -> tuple[MeasurementContext, Arm]:
    """A board behind a link with that delay each way, and the anchor model."""
    ort = backends()["onnxruntime"]
    files = {"onnxruntime": ort.device_file}
    executor = Executor(
        store=Store.open(folder / "store"),
        progress=NoProgress(),
        check=never_stop,
        seed=0,
        isa="",
        device_configuration={},
        device=RunnerClient(LocalDevice(folder / "here"), files),
    )
    arm = anchor_arm({"onnxruntime": ort}, executor)
    assert arm is not None
    link.delay_s = delay_s
    client = RunnerClient(board.device(address=link.address), files)
    root = folder / "measurements"
    return MeasurementContext(client=client, root=root, progress=NoProgress(), check=never_stop, configuration=()), arm


@pytest.mark.proof
def test_a_session_over_a_link_of_100_ms_is_a_valid_record(board: Board, link: Link, tmp_path: Path) -> None:
    """100 ms there and back. The board takes the times itself: the link's delay is in no sample."""
    bench, arm = bench_over(board, link, tmp_path, delay_s=0.05)
    found = measure(bench, QUICK, (arm,), title="over a slow link").measurements[arm.id]
    assert Measurement.model_validate_json(found.to_json()) == found
    assert [launch.invalid for launch in found.launches] == [()]
    assert max(launch.median_ns for launch in found.launches) < link.delay_s * 1e9
    assert found.device == "ssh-board-0"


@pytest.mark.proof
def test_arms_take_bursts_in_turn_over_a_slow_link(board: Board, link: Link, tmp_path: Path) -> None:
    """The way of the word for a burst is in no sample either."""
    bench, arm = bench_over(board, link, tmp_path, delay_s=0.02)
    paced = QUICK.model_copy(update={"bursts": 4, "burst_s": 0.005})
    found = measure(bench, paced, (arm, replace(arm, id="other")), title="over a slow link")
    assert (found.failed, found.protocol) == ({}, paced)
    for measured in found.measurements.values():
        (launch,) = measured.launches
        assert len(launch.burst_ns) == paced.bursts
        assert max(launch.burst_ns) < link.delay_s * 1e9


def test_stalls_shorter_than_the_limits_only_take_time(board: Board, link: Link, tmp_path: Path) -> None:
    client = client_of(board, link, tmp_path, NAPPER)
    turns = itertools.count()

    def every_other_half_second() -> None:
        next(turns)
        link.stalled = int(time.monotonic() * 2) % 2 == 0

    assert client.call("probe", {}, time_limit_s=60.0, check=every_other_half_second)["runtime"] == {"toy": "1"}
    assert next(turns) > 10


def test_a_stall_beyond_the_limits_ends_both_sides_and_the_next_call_works(
    board: Board, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_connection, "KEEPALIVE_S", 0.5)
    monkeypatch.setattr(client_module, "SILENCE_S", 2.0)
    client = client_of(board, link, tmp_path, SLEEPER)

    sent: list[float] = []

    def stall() -> None:
        sent.append(time.monotonic())
        link.stalled = sent[-1] - sent[0] > 1.0

    with pytest.raises(DeviceError, match=r"The connection to ssh-board-0 .* was lost") as caught:
        client.call("probe", {}, time_limit_s=60.0, check=stall)
    assert "resumes where it was" in caught.value.hint
    board.wait_until_idle(10.0)
    link.stalled = False
    assert client_of(board, link, tmp_path).call("probe", {}, time_limit_s=60.0)["runtime"] == {"toy": "1"}
    board.wait_until_idle(5.0)


@pytest.mark.parametrize("how", ["stalled", "cut"])
def test_a_transfer_over_a_link_that_breaks_goes_on_where_it_was(
    board: Board, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(ssh_connection, "KEEPALIVE_S", 0.5)
    folder = large(tmp_path)
    first = client_of(board, link, tmp_path)
    first.call("probe", {}, time_limit_s=60.0)
    link.breaks_after(link.passed_bytes + SIZE // 2, stall=how == "stalled")
    with pytest.raises(DeviceError, match="was lost"):
        first.put_folder(folder)
    board.wait_until_idle(10.0)
    link.stalled = False
    before = link.passed_bytes
    placed = client_of(board, link, tmp_path).put_folder(folder)
    assert (Path(placed) / "model").read_bytes() == (folder / "model").read_bytes()
    assert link.passed_bytes - before < SIZE * 0.8
