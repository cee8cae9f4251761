"""One measurement at a time, whoever starts it; the lock goes with its holder."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edgebuild.core.steps import NoProgress
from edgebuild.devices.lock import lock_path, measurement_lock
from edgebuild.errors import EnvironmentGap, Interrupted

if TYPE_CHECKING:
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
    """Keeps the titles of what was shown."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def task(self, title: str, total: float | None = None) -> NoProgress:
        del total
        self.titles.append(title)
        return self


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


def test_a_free_lock_is_taken_at_once_in_silence(tmp_path: Path) -> None:
    heard = Heard()
    for _ in range(2):
        with measurement_lock("mine", progress=heard, path=tmp_path / "lock"):
            pass
    assert heard.titles == []


def test_lock_lies_in_the_runtime_folder_or_tmp_whatever_tmpdir_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert str(lock_path().parent) == "/tmp"  # noqa: S108
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert lock_path().parent == tmp_path


def test_a_lock_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(EnvironmentGap, match="Can't open the measurement lock"),
        measurement_lock("x", path=tmp_path / "lock"),
    ):
        pass
