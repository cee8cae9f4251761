"""Odd streams, options and surroundings: every command ends with its code and a sentence, never with a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.cli import console
from edgebuild.cli.app import app
from edgebuild.errors import EdgebuildError, Interrupted, UsageError

from .example import PIPES, command, environment, finished, write_project

if TYPE_CHECKING:
    from pathlib import Path

#: Values that options are given, each of them wrong for at least one.
ODD_VALUES = ("", " ", "nan", "inf", "-inf", "1e999h", "²", "-1", "0", "9" * 400, "\x1b[31m", "é\u202e", "a=²", "../..")
OPTIONS = (
    ("plan", "--time"),
    ("plan", "--budget"),
    ("plan", "--target"),
    ("plan", "--recipe"),
    ("plan", "--device"),
    ("plan", "--project"),
    ("build", "--time"),
    ("build", "--target"),
    ("bench", "model.onnx", "--backend"),
    ("bench", "model.onnx", "--device"),
    ("bench", "model.onnx", "--against"),
    ("bench", "nothing.onnx", "--threads"),
    ("bench", "nothing.onnx", "--shape"),
    ("bench",),
    ("report", "--build"),
    ("report", "--output"),
    ("explain",),
    ("targets",),
    ("init", "nothing.onnx", "--project"),
    ("init",),
    ("store", "gc", "--quota-gb"),
    ("device", "check"),
    ("device", "add", "x", "--ssh"),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("surroundings") / "project")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Return what runs the command line within this process: its exit code and what it said on stderr."""
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*args: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["edgebuild", *args])
        code = console.run(app)
        return code, capsys.readouterr().err

    return call


def refuse(*_: object, **__: object) -> None:
    raise UsageError("enough was read")


@pytest.mark.parametrize("option", OPTIONS, ids=" ".join)
def test_any_value_of_an_option_is_taken_or_refused_in_a_sentence(
    option: tuple[str, ...], called: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What comes after the options were read is another matter, and slow.
    for work in ("build", "plan", "bench"):
        monkeypatch.setattr(f"edgebuild.pipeline.{work}", refuse)
    write_project(tmp_path / "p")
    monkeypatch.chdir(tmp_path / "p")
    for value in ODD_VALUES:
        code, said = called(*option, value)
        assert code in {0, 2, 6}, (option, value, said)
        assert "Traceback" not in said, (option, value)
        assert len(said) < 4_000, (option, value)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(36, "File name too long", "xxx"), 2, "xxx: File name too long."),
        (OSError(28, "No space left on device"), 6, "No space left on device."),
        (PermissionError(13, "Permission denied", "/etc/x"), 6, "/etc/x: Permission denied."),
        (MemoryError(), 6, "There is too little memory on this machine."),
        (EdgebuildError("x" * 9_000), 1, "x" * 1_000 + "…"),
        (KeyboardInterrupt(), 130, "Interrupted; what was finished is kept."),
        (Interrupted("interrupted during it"), 130, "interrupted during it"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(**_: object) -> None:
        raise error

    assert console.run(raising) == code
    assert f"edgebuild: {said}\n" in capsys.readouterr().err


def test_a_bug_leaves_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def raising(**_: object) -> None:
        raise IndexError("7")

    assert console.run(raising) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "This is a bug in edgebuild" in shown


def test_a_ctrl_c_that_a_library_made_something_else_of_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    def importing(**_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("numpy: Error importing") from error

    assert console.run(importing) == 130
    assert "Traceback" not in capsys.readouterr().err


#: A command that a Ctrl-C meets in code that catches it, and either fails for want of what it was doing or goes on.
CAUGHT = """
import signal, sys
from edgebuild.cli import console

def command(**_):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass
    {after}

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(console.run_process(lambda: command))
"""


@pytest.mark.parametrize(
    "after",
    ["raise SystemError('initialization of _C raised unreported exception')", "console.stop_if_interrupted()"],
    ids=["lost by native code", "swallowed"],
)
def test_a_ctrl_c_of_which_no_trace_is_left_is_one(after: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CAUGHT.format(after=after)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (130, f"edgebuild: {console.STOPPED}")
    assert "Traceback" not in ended.stderr


#: A module that meets a Ctrl-C while it is imported, and says so at its end.
MEETING = """
import signal, time
signal.raise_signal(signal.SIGINT)
print("imported", flush=True)
"""
#: Imports it, and computes on.
IMPORTING = """
import signal, sys, time
from edgebuild.cli import console

def command(**_):
    import meeting
    while True:
        time.sleep(0.01)

sys.path.insert(0, {folder!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(console.run_process(lambda: command))
"""


@pytest.mark.parametrize(("place", "out"), [("site-packages", "imported\n"), ("project", "")])
def test_a_ctrl_c_waits_until_an_installed_package_is_imported(place: str, out: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir()
    (tmp_path / place / "meeting.py").write_text(MEETING)
    code = IMPORTING.format(folder=str(tmp_path / place))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (130, out)
    assert ended.stderr.startswith(f"edgebuild: {console.STOPPED}")


def shell(line: str, project: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which ``$E`` is the command line."""
    words = " ".join(command(driver=False))
    return subprocess.run(
        ["bash", "-c", line.replace("$E", words)],
        cwd=project,
        env=environment(env),
        capture_output=True,
        check=False,
        timeout=300,
    )


#: What a line of bash ends with, and what it says on stderr.
LINES: dict[str, tuple[str, int, bytes]] = {
    "closed output": ("$E targets >&-", 0, b""),
    "all streams closed": ("$E targets <&- >&- 2>&-", 0, b""),
    "a reader that leaves": ("$E targets | head -1; exit ${PIPESTATUS[0]}", 0, b""),
    "a full disk as output": ("$E targets >/dev/full", 6, b"The output can't be written: No space left on device."),
    "a full disk as errors": ("$E plan -p /nothing 2>/dev/full", 2, b""),
    "no folder any more": (
        "mkdir gone && cd gone && rmdir ../gone && $E plan",
        2,
        b"The working directory doesn't exist",
    ),
    "ASCII only": ("PYTHONIOENCODING=ascii LC_ALL=C $E targets raspberry-pi-5", 0, b""),
    "a pipe for a project": ("mkfifo pipe; $E plan -p pipe", 2, b"it is a named pipe, not a file"),
    "a device for a model": ("$E bench /dev/zero", 2, b"/dev/zero is a device, not a file."),
    "no home": ("env -u HOME $E plan | head -1", 0, b""),
    "an empty home": ("env HOME= $E plan | head -1", 0, b""),
}


@pytest.mark.parametrize("name", LINES)
def test_odd_streams_and_places(name: str, project: Path) -> None:
    line, code, said = LINES[name]
    ended = shell(line, project)
    assert (ended.returncode, said in ended.stderr) == (code, True), ended
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr


#: Says that edgebuild's own code begins: what comes before is Python's.
BEGIN = "import edgebuild.cli, sys; print('now', flush=True); sys.argv = ['edgebuild', 'plan']; edgebuild.cli.main()"
#: What Python says where nothing of edgebuild's runs.
BEFORE = 'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\nKeyboardInterrupt\n'


@pytest.mark.parametrize("after_s", [0.0, 0.2, 0.5, 1.0])
def test_a_ctrl_c_at_any_moment_is_one_line_and_130(after_s: float, project: Path) -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen([sys.executable, "-c", BEGIN], cwd=project, env=environment(), **PIPES)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    ended = finished(process)
    if ended.err == BEFORE:
        return  # a busy machine hadn't called edgebuild yet
    assert "Traceback" not in ended.err
    # A fast machine may be done by then, or about to end.
    assert ended.code in {0, -signal.SIGINT} or (ended.code == 130 and ended.err.startswith("edgebuild: Interrupted"))
