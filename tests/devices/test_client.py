"""A runner that dies, hangs or lies ends in one clear error, and leaves no process behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.values import digest_bytes
from edgebuild.devices import answers
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice, ProcessChannel
from edgebuild.errors import DeviceError, EdgebuildError, Interrupted, ModelError, RunnerFailed
from tests.devices.stub import StubChannel, StubDevice
from tests.mutants import flipped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Rogue(LocalDevice):
    """A device on which something else runs instead of the runner; remembers the processes."""

    def __init__(self, root: Path, program: str) -> None:
        super().__init__(root, name="rogue")
        self.program = program
        self.opened: list[ProcessChannel] = []

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> ProcessChannel:
        del argv
        channel = super().open([sys.executable, "-c", self.program], env)
        self.opened.append(channel)
        return channel


def fails(tmp_path: Path, program: str, *, limit_s: float = 20.0) -> EdgebuildError:
    """Call the program as if it were the runner; return the error, having seen that nothing is left."""
    device = Rogue(tmp_path / "device", "import sys; sys.stdin.readline()\n" + program)
    with pytest.raises(EdgebuildError) as caught:
        RunnerClient(device, {}).call("probe", {}, time_limit_s=limit_s)
    assert gone(device.opened[0].pid)
    return caught.value


def gone(group: int) -> bool:
    """Whether no process of the group is left, but ones that only wait for their parent to take notice."""
    deadline = time.monotonic() + 5.0
    while any(alive(path, group) for path in Path("/proc").glob("[0-9]*/stat")):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(stat: Path, group: int) -> bool:
    try:
        state, _, found = stat.read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return False
    return int(found) == group and state not in "ZX"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('hello')", "wrote something that is not its protocol: 'hello'"),
        ("print('[1]')", "wrote something that is not its protocol: '[1]'"),
        ("print('{\"other\": 1}')", "is not its protocol"),
        ('print(\'{"result": {"x": NaN}}\')', "is not its protocol"),
        ("print('[' * 100000)", "is not its protocol"),
        ('print(\'{"error": {"message": 1}}\')', "is not its protocol"),
        ("sys.stdout.buffer.write(bytes(range(128, 256)))", "is not its protocol"),
        ("", "ended with status 0 without an answer"),
        ("sys.exit(9)", "ended with status 9 without an answer"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL (something killed it; the system does so when"),
        ("import os; os.kill(os.getpid(), 11)", "was ended by SIGSEGV (the runtime crashed)"),
        ("print('{\"result\": {}}'); sys.exit(4)", "answered, but ended with status 4"),
        ("print('x' * (5 << 20))", "a line of more than"),
        ('while True: print(\'{"event": "progress", "pad": "\' + \'x\' * 100000 + \'"}\')', "wrote more than"),
    ],
)
def test_nonsense_and_early_ends(tmp_path: Path, program: str, message: str) -> None:
    error = fails(tmp_path, program)
    assert type(error) is DeviceError
    assert message in error.message


def test_a_hanging_runner_is_stopped_at_the_limit(tmp_path: Path) -> None:
    start = time.monotonic()
    error = fails(tmp_path, "import time; time.sleep(600)", limit_s=1.0)
    assert "gave no answer within 1 s and was stopped" in error.message
    assert time.monotonic() - start < 10


def test_a_runner_that_ignores_signals_and_keeps_talking_is_stopped(tmp_path: Path) -> None:
    program = (
        "import signal, time\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n"
        'while True: print(\'{"event": "progress"}\', flush=True); time.sleep(0.01)'
    )
    assert "gave no answer within 1 s" in fails(tmp_path, program, limit_s=1.0).message


def test_children_of_a_runner_end_with_it(tmp_path: Path) -> None:
    program = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); sys.exit(1)"
    # The child holds the pipes open: the runner's own end is what counts once the limit is reached.
    assert "stopped" in fails(tmp_path, program, limit_s=2.0).message


def test_error_output_is_told_and_cannot_steer_the_terminal(tmp_path: Path) -> None:
    error = fails(tmp_path, "sys.stderr.write('\\x1b[2Jclue'); sys.exit(1)")
    assert error.message.endswith("The end of its error output:\n\N{REPLACEMENT CHARACTER}[2Jclue")


def test_a_problem_of_the_model_is_not_one_of_the_device(tmp_path: Path) -> None:
    answer = '{"error": {"kind": "model", "message": "No such op.", "hint": "Export it again."}}'
    error = fails(tmp_path, f"print('{answer}')")
    assert type(error) is ModelError
    assert (error.message, error.hint) == ("No such op.", "Export it again.")


def test_check_stops_a_call_and_nothing_keeps_running(tmp_path: Path) -> None:
    device = Rogue(tmp_path / "device", "import time; time.sleep(600)")
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Interrupted("Stopped.")

    with pytest.raises(Interrupted):
        RunnerClient(device, {}).call("probe", {}, time_limit_s=60.0, check=check)
    assert gone(device.opened[0].pid)


def test_events_arrive_in_order_before_the_result(tmp_path: Path) -> None:
    program = (
        "import sys; sys.stdin.readline()\n"
        'print(\'{"event": "progress", "done": 1}\')\nprint(\'{"event": "progress", "done": 2}\')\n'
        'print(\'{"result": {"runtime": {"ok": "1"}, "isa": ["a", "b"]}}\')'
    )
    seen: list[object] = []
    client = RunnerClient(Rogue(tmp_path / "device", program), {})
    assert client.call("probe", {}, on_event=lambda e: seen.append(e["done"]), time_limit_s=20.0) == {
        "runtime": {"ok": "1"},
        "isa": ["a", "b"],
    }
    assert seen == [1, 2]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", ".", "", "a\0b"])
def test_a_file_outside_of_the_folder_is_no_answer(name: str) -> None:
    file = {"name": name, "sha256": "0" * 64, "size_bytes": 0}
    with pytest.raises(DeviceError, match=r"board answers what makes no sense: files\.0\.name"):
        answers.answered("compile", {"files": [file]}, "board")


def link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def other_bytes(path: Path) -> None:
    path.write_bytes(b"other")


def longer(path: Path) -> None:
    path.write_bytes(b"right" * 2)


@pytest.mark.parametrize("make", [link, pipe, Path.mkdir, other_bytes, longer])
def test_what_is_not_the_file_that_was_announced_is_not_kept(make: Callable[[Path], None], tmp_path: Path) -> None:
    client = RunnerClient(LocalDevice(tmp_path / "device"), {})
    work, into = tmp_path / "device" / "work", tmp_path / "into"
    work.mkdir()
    into.mkdir()
    make(work / "file")
    file = answers.RemoteFile(name="file", sha256=digest_bytes(b"right"), size_bytes=5)
    with pytest.raises(DeviceError):
        client.fetch(str(work), [file], into)
    assert list(into.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("import os; os.kill(os.getpid(), 11)", RunnerFailed),
        ("sys.exit(9)", RunnerFailed),
        ("import time; time.sleep(600)", RunnerFailed),
        ('print(\'{"error": {"kind": "runtime", "message": "oops"}}\')', RunnerFailed),
        ('print(\'{"error": {"kind": "device", "message": "oops"}}\')', DeviceError),
        ("sys.exit(3)", DeviceError),
        ("print('hello')", DeviceError),
    ],
)
def test_a_runner_that_fails_on_a_model_is_told_from_a_device_that_fails(
    tmp_path: Path, program: str, kind: type[EdgebuildError]
) -> None:
    client = RunnerClient(Rogue(tmp_path / "device", "import sys; sys.stdin.readline()\n" + program), {})
    with pytest.raises(DeviceError) as caught:
        client.call("evaluate", {}, time_limit_s=2.0)
    assert type(caught.value) is kind
    with pytest.raises(DeviceError) as caught:
        client.call("probe", {}, time_limit_s=2.0)
    assert type(caught.value) is DeviceError


def test_a_runner_that_is_damaged_on_the_device_is_sent_again(tmp_path: Path) -> None:
    """It checks all else there, and is compared with its digest by the host."""
    first = RunnerClient(LocalDevice(tmp_path / "device"), {})
    runner = Path(first._installed())
    content = runner.read_bytes()
    runner.chmod(0o644)
    runner.write_bytes(flipped(content, 1))
    again = RunnerClient(LocalDevice(tmp_path / "device"), {})
    assert again.call("probe", {}, time_limit_s=60)
    assert runner.read_bytes() == content


class Slow(StubChannel):
    """A program that is not ready before somebody knocked three times."""

    knocks = 0

    def send(self, line: str) -> None:
        super().send(line)
        self.knocks += not line

    def receive(self, timeout_s: float) -> str | None:
        if self.knocks < 3:
            raise TimeoutError
        return super().receive(timeout_s)


def test_a_live_run_is_knocked_for_while_it_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a link that can be cut a runner takes silence for the end of its host."""
    monkeypatch.setattr("edgebuild.devices.client.HEARTBEAT_S", 0.0)
    device = StubDevice({"bursts": {}})
    monkeypatch.setattr(device, "open", lambda *_: Slow(device))
    anything: Any = device
    run = RunnerClient(anything, {}).live({}, time_limit_s=20.0, silence_s=20.0)
    assert run.ready() == 1 << 30
    run.close()
