"""One measurement at a time, whoever starts it; the lock goes with its holder."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from edgebuild.core.steps import NoProgress
from edgebuild.devices.lock import measurement_lock
from edgebuild.devices.runner.turns import NAME, OVERRIDE, MachineLock, lock_path
from edgebuild.errors import EnvironmentGap, Interrupted, NoTimeToWait

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOLD = """
import sys, time
from pathlib import Path
from edgebuild.devices.lock import measurement_lock
with measurement_lock("the other build", path=Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


class Heard(NoProgress):
    """Keeps the titles and notes of what was shown."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.notes: set[str] = set()

    def task(self, title: str, total: float | None = None) -> NoProgress:
        del total
        self.titles.append(title)
        return self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        del amount
        self.notes.add(note)


def test_waits_and_says_who_holds_it_then_takes_it_when_the_holder_is_killed(tmp_path: Path) -> None:
    path, heard, polls = tmp_path / "lock", Heard(), 0
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

        def check() -> None:
            nonlocal polls
            polls += 1
            if polls == 2:
                holder.kill()

        with measurement_lock("mine", progress=heard, check=check, path=path):
            assert polls >= 2
        assert heard.titles == [f"waiting: process {holder.pid} (the other build) is measuring on this machine"]
        assert not any(str(holder.pid) in note for note in heard.notes)  # it was named already
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


def test_waiting_can_be_interrupted_and_leaves_the_lock_to_its_holder(tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted("Stopped.")

    path = tmp_path / "lock"
    with measurement_lock("first", path=path):
        with pytest.raises(Interrupted), measurement_lock("second", check=stop, path=path):
            pass
        assert b"first" in path.read_bytes()


def test_nobody_waits_longer_than_asked_and_hears_for_whom(tmp_path: Path) -> None:
    path, heard = tmp_path / "lock", Heard()
    with measurement_lock("first", path=path):
        until_s = time.monotonic() + 0.3
        with (
            pytest.raises(NoTimeToWait, match=rf"over while process {os.getpid()} \(first\) is measuring on this"),
            measurement_lock("second", progress=heard, until_s=until_s, path=path),
        ):
            raise AssertionError("it isn't alone")
        assert time.monotonic() > until_s
    assert heard.titles == [f"waiting: process {os.getpid()} (first) is measuring on this machine"]
    with measurement_lock("late, but nobody is there", until_s=time.monotonic() - 1, path=path):
        pass


def test_a_free_lock_is_taken_at_once_in_silence(tmp_path: Path) -> None:
    heard = Heard()
    for _ in range(2):
        with measurement_lock("mine", progress=heard, path=tmp_path / "lock"):
            pass
    assert heard.titles == []


def test_the_lock_is_one_for_all_users_and_shells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE)
    one = lock_path()
    for name in ("TMPDIR", "XDG_RUNTIME_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert lock_path() == one
    assert one in {f"/run/lock/{NAME}", f"/tmp/{NAME}"}  # noqa: S108


def test_the_file_is_everybodys_whatever_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with measurement_lock("mine", path=tmp_path / "lock"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o666


def _link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def _dangling(path: Path, outside: Path) -> None:
    path.symlink_to(outside.with_name("nothing"))


def _second_name(path: Path, outside: Path) -> None:
    path.hardlink_to(outside)


def _folder(path: Path, outside: Path) -> None:
    del outside
    path.mkdir()


def _fifo(path: Path, outside: Path) -> None:
    del outside
    os.mkfifo(path)


def _socket(path: Path, outside: Path) -> None:
    del outside
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("plant", [_link, _dangling, _second_name, _folder, _fifo, _socket])
def test_what_lies_in_the_locks_place_is_a_sentence_and_stays_as_it_is(
    plant: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    plant(tmp_path / "lock", outside)
    with (
        pytest.raises(EnvironmentGap, match="Can't open the measurement lock"),
        measurement_lock("x", path=tmp_path / "lock"),
    ):
        pass
    assert outside.read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("mode", [0o444, 0o666])
def test_a_file_of_another_user_serves_in_a_sticky_folder(mode: int, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become two users")
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    for parent in [folder, *folder.parents]:
        parent.chmod(parent.stat().st_mode | 0o111)
    (folder / "lock").write_text("")
    os.chown(folder / "lock", 12345, 12345)
    (folder / "lock").chmod(mode)
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, str(folder / "lock")], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("held\n", "")


AS_ANOTHER_USER = """
import os, sys
from edgebuild.devices.runner.turns import MachineLock
os.setgid(54321); os.setuid(54321)
lock = MachineLock(sys.argv[1])
assert lock.take()
lock.note("mine")
print("held")
"""


def test_a_file_that_was_tidied_away_is_no_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = MachineLock(path)
    (tmp_path / "lock").unlink()
    second = MachineLock(path)
    assert second.take()
    assert not first.take(), "it holds nothing that anybody else would look at"
    assert not first.take()
    second.close()
    assert first.take()
    first.close()


@pytest.mark.parametrize("note", ["[" * 4000, '{"pid": 1}', '{"pid": "x", "what": 1}', "\x00\xff", "", "7"])
def test_any_note_at_all_is_read(note: str, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(note)
    lock = MachineLock(str(tmp_path / "lock"))
    assert lock.holder() == "another process"
    lock.note("\x1b[2J\u202e")
    assert lock.holder() == f"process {os.getpid()} (?[2J?)"
    lock.close()
