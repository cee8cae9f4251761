"""Installs that are killed, at random moments and before each of their writes: what is current always works."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from .installs import assert_answers, bundle_of, installed, status, version_of, versions
from .script import command

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def killed_somewhere(tmp_path: Path, first: Path, second: Path, kills: int, seed: int) -> set[str]:
    """Kill installs of either release at random moments; return the versions that were current after one."""
    root, generator = tmp_path / "root", random.Random(seed)
    started = time.monotonic()
    installed(tmp_path, first)
    whole_s = time.monotonic() - started
    seen = set()
    for _ in range(kills):
        bundle = generator.choice((first, second))
        words = command(tmp_path, "install", bundle, "--root", root, "--allow-downgrade", "--keep", "1")
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(generator.uniform(0.0, whole_s))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = status(tmp_path)
        assert found.code == 0, found
        assert_answers(root)
        seen.add(str(found.report["current"]["version"]))
    installed(tmp_path, second, "--allow-downgrade", "--keep", "1")
    assert not list((root / "tmp").iterdir())
    assert len(versions(tmp_path)) <= 2
    assert len(list((root / "releases").iterdir())) == 2 * len(versions(tmp_path))
    assert min(path.stat().st_nlink for path in (root / "blobs" / "sha256").iterdir()) > 1
    return seen


def test_a_kill_at_any_moment_leaves_a_working_release(
    tmp_path: Path, real: Mapping[str, bytes], other: Mapping[str, bytes]
) -> None:
    first, second = bundle_of(tmp_path, real, "1.0"), bundle_of(tmp_path, other, "2.0")
    assert killed_somewhere(tmp_path, first, second, 6, seed=1) <= {"1.0", "2.0"}


@pytest.mark.proof
def test_two_hundred_kills_leave_a_working_release(
    tmp_path: Path, real: Mapping[str, bytes], other: Mapping[str, bytes]
) -> None:
    first, second = bundle_of(tmp_path, real, "1.0"), bundle_of(tmp_path, other, "2.0")
    assert killed_somewhere(tmp_path, first, second, 200, seed=2) == {"1.0", "2.0"}


#: Runs verify.py, and ends it by SIGKILL right before the n-th time that it writes, renames, links or removes.
KILLED = """
import os, runpy, signal, sys
left = int(sys.argv[1])
WRITES = os.O_WRONLY | os.O_RDWR

def hook(event, arguments):
    global left
    if event == "open" and not arguments[2] & WRITES:
        return
    if event in ("open", "os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.argv = sys.argv[2:]
sys.addaudithook(hook)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


#: Runs verify.py, and keeps the inodes that are on the disk when ``current`` is switched.
SYNCED = """
import json, os, runpy, sys
fsync, synced = os.fsync, []

def record(handle):
    fsync(handle)
    synced.append(os.fstat(handle).st_ino)

def hook(event, arguments):
    if event == "os.rename" and os.fspath(arguments[1]).endswith("/current"):
        with open(told, "w") as file:
            json.dump(synced, file)

os.fsync = record
told, sys.argv = sys.argv[1], sys.argv[2:]
sys.addaudithook(hook)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_everything_is_on_the_disk_before_the_switch(tmp_path: Path, parrot: dict[str, bytes]) -> None:
    """What a power cut can undo is what wasn't written yet: nothing of the new release, its folders' names included."""
    (tmp_path / "synced.py").write_text(SYNCED)
    root, told = tmp_path / "root", tmp_path / "told.json"
    python, *words = command(tmp_path, "install", bundle_of(tmp_path, parrot), "--root", root)
    subprocess.run([python, *words[:2], str(tmp_path / "synced.py"), str(told), *words[2:]], check=True)
    slot = (root / "current").resolve()
    needed = [root, root / "releases", root / "blobs" / "sha256", slot, slot.with_suffix(".json"), *slot.rglob("*")]
    assert {path.stat().st_ino for path in needed} <= set(json.loads(told.read_bytes()))


def killed_at_each(tmp_path: Path, parrot: Mapping[str, bytes], every: int) -> int:
    """Kill an install that replaces and removes releases before each of its writes; return how many there are."""
    for version in ("1.0", "2.0"):
        installed(tmp_path, bundle_of(tmp_path, parrot, version))
    start, root = tmp_path / "start", tmp_path / "root"
    root.rename(start)
    newest = bundle_of(tmp_path, {**parrot, "artifact/more": b"more"}, "3.0")
    (tmp_path / "killed.py").write_text(KILLED)
    for number in range(1, 10_000, every):
        subprocess.run(["cp", "-a", str(start), str(root)], check=True)
        python, *words = command(tmp_path, "install", newest, "--root", root, "--keep", "1")
        ended = subprocess.run(
            [python, *words[:2], str(tmp_path / "killed.py"), str(number), *words[2:]], capture_output=True, check=False
        )
        assert ended.returncode in (0, -signal.SIGKILL), ended
        assert version_of(tmp_path) in ("2.0", "3.0")
        assert status(tmp_path).code == 0
        assert_answers(root)
        installed(tmp_path, newest, "--keep", "1")
        assert (version_of(tmp_path), version_of(tmp_path, "previous")) in (("3.0", "2.0"), ("3.0", "1.0"))
        assert not list((root / "tmp").iterdir())
        assert min(path.stat().st_nlink for path in (root / "blobs" / "sha256").iterdir()) > 1
        shutil.rmtree(root)
        if ended.returncode == 0:
            return number
    raise AssertionError("it never ended")


def test_a_kill_before_any_of_its_writes_leaves_a_working_release(tmp_path: Path, parrot: dict[str, bytes]) -> None:
    assert killed_at_each(tmp_path, parrot, every=37) > 50


@pytest.mark.proof
def test_a_kill_before_each_of_its_writes_leaves_a_working_release(tmp_path: Path, parrot: dict[str, bytes]) -> None:
    assert killed_at_each(tmp_path, parrot, every=1) > 50
