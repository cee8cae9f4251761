"""What goes wrong with boards: each fault ends in one sentence, nothing keeps running, and the board stays usable."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgebuild.devices import bundle
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.conversation import MAX_TOTAL_BYTES
from edgebuild.devices.probe import read_probe
from edgebuild.devices.ssh import channel as ssh_channel
from edgebuild.devices.ssh import connection as ssh_connection
from edgebuild.devices.ssh import device as ssh_device
from edgebuild.devices.transport import MAX_LINE_BYTES
from edgebuild.errors import DeviceError
from tests import needs

if TYPE_CHECKING:
    from .rig import Board

SLEEPER = 'import time\ndef version():\n    time.sleep(600)\n    return "1"\n'
QUICK = 'def version():\n    return "1"\n'
HOST = """
import sys
from pathlib import Path
from edgebuild.devices.ssh.address import SshAddress
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.ssh.device import SshDevice
address, key, user_key, root, python, backend = sys.argv[1:]
device = SshDevice("victim", address=SshAddress.parse(address), host_keys=(key,), key_file=Path(user_key), root=root,
                   python=python)
RunnerClient(device, {"slow": Path(backend)}).call("probe", {}, time_limit_s=600.0)
"""


def backend(folder: Path, text: str) -> Path:
    path = folder / "device.py"
    path.write_text(text)
    return path


def usable(board: Board, folder: Path) -> None:
    """A new connection does ordinary work."""
    client = RunnerClient(board.device(), {"quick": backend(folder, QUICK)})
    assert client.call("probe", {}, time_limit_s=30.0)["runtime"] == {"quick": "1"}
    source = folder / "data"
    source.mkdir(exist_ok=True)
    (source / "file").write_bytes(os.urandom(1000))
    assert (Path(client.put_folder(source)) / "file").read_bytes() == (source / "file").read_bytes()
    board.wait_until_idle(5.0)


def wait_until_busy(board: Board) -> None:
    deadline = time.monotonic() + 20
    while not any(".pyz" in line for line in board.processes()):
        assert time.monotonic() < deadline, "the runner never started"
        time.sleep(0.05)


def test_three_boards_answer_and_one_has_an_old_python(boards: list[Board], tmp_path: Path) -> None:
    assert len({board.address for board in boards}) == 3
    for board in boards:
        usable(board, tmp_path)
    old = read_probe(RunnerClient(boards[-1].device(), {"quick": backend(tmp_path, QUICK)}))
    if boards[-1].python == sys.executable:
        needs.skip_without(needs.python_need("3.8"))
    assert old["python"].startswith("3.8.")


def test_a_board_set_up_anew_is_refused_with_both_fingerprints(board: Board, tmp_path: Path) -> None:
    before = board.host_key
    board.set_up_anew()
    with pytest.raises(DeviceError, match="host key") as caught:
        read_probe(RunnerClient(board.device(host_key=before), {}))
    assert ssh_connection.fingerprint(before) in caught.value.message
    assert ssh_connection.fingerprint(board.host_key) in caught.value.message
    assert not board.processes()
    usable(board, tmp_path)


def test_a_runner_whose_request_never_comes_ends(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that is cut between the start and the request closes nothing on the board."""
    impatient = tmp_path / "impatient"
    shutil.copytree(bundle.RUNNER, impatient)
    protocol = impatient / "protocol.py"
    protocol.write_text(protocol.read_text().replace("REQUEST_S = 30.0\n", "REQUEST_S = 1.0\n"))
    monkeypatch.setattr(bundle, "RUNNER", impatient)
    device = board.device()
    monkeypatch.setattr(ssh_channel.SshChannel, "send", lambda *_: None)
    channel = RunnerClient(device, {}).start("probe", {}, time_limit_s=600.0)
    wait_until_busy(board)
    board.wait_until_idle(10.0)
    assert channel.wait(5.0) == 3
    channel.kill()


def test_kill_9_of_the_host_leaves_nothing_running(board: Board, tmp_path: Path) -> None:
    words = (str(board.ssh), board.host_key, board.folder / "user_key", board.root / "edgebuild", board.python)
    script = backend(tmp_path, SLEEPER)
    host = subprocess.Popen([sys.executable, "-c", HOST, *map(str, words), str(script)])
    try:
        wait_until_busy(board)
    finally:
        host.send_signal(signal.SIGKILL)
        host.wait()
    board.wait_until_idle(10.0)
    usable(board, tmp_path)


def test_a_cut_link_ends_the_call_and_the_run_on_the_board(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No packet tells the board's sshd that the host is gone, and its default is never to ask."""
    monkeypatch.setattr(ssh_connection, "KEEPALIVE_S", 0.5)
    limit_s = 4.0
    client = RunnerClient(board.device(), {"slow": backend(tmp_path, SLEEPER)})
    start = time.monotonic()

    def cut_once() -> None:
        if time.monotonic() - start > 1.5:
            board.cut()

    with pytest.raises(DeviceError, match=r"was lost|gave no answer"):
        client.call("probe", {}, time_limit_s=limit_s, check=cut_once)
    board.wait_until_idle(20.0)
    board.join()
    usable(board, tmp_path)


def test_a_board_that_loses_power_mid_run_is_one_sentence(board: Board, tmp_path: Path) -> None:
    client = RunnerClient(board.device(), {"slow": backend(tmp_path, SLEEPER)})

    def pull() -> None:
        if any(".pyz" in line for line in board.processes()):
            board.stop()

    with pytest.raises(DeviceError, match=r"was lost|ended by SIGKILL"):
        client.call("probe", {}, time_limit_s=60.0, check=pull)
    assert not board.processes()
    board.start()
    usable(board, tmp_path)


def test_a_full_disk_is_said_and_leaves_no_torn_file(board: Board, tmp_path: Path) -> None:
    client = RunnerClient(board.device(), {"quick": backend(tmp_path, QUICK)})
    client.call("probe", {}, time_limit_s=30.0)
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "model").write_bytes(os.urandom(1 << 20))
    board.fill_disk(leave_bytes=64 << 10)
    with pytest.raises(DeviceError, match="disk is full"):
        client.put_folder(folder)
    blobs = board.root / "edgebuild" / "blobs"
    assert all(path.suffix == ".part" for path in blobs.iterdir())
    board.wait_until_idle(5.0)
    (board.root / "filler").unlink()
    placed = client.put_folder(folder)
    assert (Path(placed) / "model").read_bytes() == (folder / "model").read_bytes()
    usable(board, tmp_path)


def test_a_slow_link_only_takes_longer_and_what_arrived_is_not_sent_twice(board: Board, tmp_path: Path) -> None:
    client = RunnerClient(board.device(), {"quick": backend(tmp_path, QUICK)})
    client.call("probe", {}, time_limit_s=30.0)
    folder = tmp_path / "artifact"
    folder.mkdir()
    size = 500_000
    (folder / "model").write_bytes(os.urandom(size))
    board.slow(4000)
    before, start = board.sent_bytes(), time.monotonic()
    placed = client.put_folder(folder)
    assert time.monotonic() - start > 0.5
    assert board.sent_bytes() - before > size
    assert (Path(placed) / "model").read_bytes() == (folder / "model").read_bytes()
    board.unlimited()
    again = board.sent_bytes()
    assert RunnerClient(board.device(), {"quick": tmp_path / "device.py"}).put_folder(folder) == placed
    assert board.sent_bytes() - again < 50_000


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("echo 'Welcome to the board'; cat >/dev/null", "not its protocol"),
        ("head -c 2000 /dev/urandom; cat >/dev/null", "not its protocol"),
        ("head -c 8000000 /dev/zero; sleep 600", "a line of more than"),
        ('while :; do echo \'{"event": "progress"}\'; done', f"more than {MAX_TOTAL_BYTES} bytes or"),
        ("exec sleep 600", "gave no answer within"),
    ],
    ids=["banner", "noise", "endless-line", "endless-lines", "silence"],
)
def test_garbage_and_endless_output_are_stopped(board: Board, tmp_path: Path, program: str, said: str) -> None:
    liar = f'#!/bin/sh\ncase "$*" in *.pyz) ;; *) exec {board.python} "$@" ;; esac\n{program}\n'
    client = RunnerClient(board.device(python=board.program("python", liar)), {})
    with pytest.raises(DeviceError, match=said) as caught:
        client.call("probe", {}, time_limit_s=3.0 if "gave" in said else 60.0)
    assert caught.value.message.isprintable() or "\n" in caught.value.message
    board.wait_until_idle(5.0)
    usable(board, tmp_path)


@pytest.mark.parametrize(
    "program",
    ["while :; do head -c 4000000 /dev/zero | tr '\\0' x; echo; done", "yes", "yes | tr -d '\\n'"],
    ids=["long-lines", "short-lines", "one-line"],
)
def test_a_board_that_floods_a_short_script_is_stopped(board: Board, tmp_path: Path, program: str) -> None:
    liar = board.device(python=board.program("python", f"#!/bin/sh\n{program}\n"))
    with pytest.raises(DeviceError, match=rf"more than ({ssh_device.MAX_SCRIPT_BYTES}|{MAX_LINE_BYTES}) bytes"):
        liar.run_script("print(1)")
    board.wait_until_idle(5.0)
    usable(board, tmp_path)


def test_a_runner_of_an_older_version_is_refused_and_never_used(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "older"
    shutil.copytree(bundle.RUNNER, older)
    protocol = older / "protocol.py"
    protocol.write_text(protocol.read_text().replace("PROTOCOL = 2\n", "PROTOCOL = 0\n"))
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "RUNNER", older)
        client = RunnerClient(board.device(), {})
        with pytest.raises(DeviceError, match="speaks protocol 0"):
            client.call("probe", {}, time_limit_s=30.0)
    assert (board.root / "edgebuild" / "runner" / f"{client.runner_digest}.pyz").exists()
    usable(board, tmp_path)
