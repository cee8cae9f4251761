from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import Interrupted, StoreError
from edgebuild.execution.lock import BuildLock, FileLock, guard, waiting_lock
from edgebuild.execution.store import Store

from .example import contents, key, python, wait_for

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys, time
from pathlib import Path
from edgebuild.execution.lock import BuildLock
with BuildLock(Path(sys.argv[1])):
    Path(sys.argv[2]).touch()
    time.sleep(60)
"""


def test_a_second_build_is_told_who_runs_the_first(tmp_path: Path) -> None:
    path = tmp_path / ".edgebuild" / "build.lock"
    child = python(HOLD, path, tmp_path / "holds")
    wait_for((tmp_path / "holds").exists, child)
    with pytest.raises(StoreError) as caught, BuildLock(path):
        pass
    assert re.search(
        rf"another build of this project is running \(pid {child.pid}, since 20\d\d-[-T:\d]+\+00:00; lock file",
        str(caught.value),
    )
    child.kill()
    child.communicate()
    with BuildLock(path):  # a killed holder blocks nobody
        assert f'"pid": {os.getpid()}' in path.read_text()
    assert not path.exists()


def test_a_build_lock_is_free_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "build.lock"
    with pytest.raises(ValueError, match="inside"), BuildLock(path):
        raise ValueError("inside")
    with BuildLock(path):
        pass


def test_a_project_that_cannot_be_written_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="locking the project failed"), BuildLock(tmp_path / "file" / "build.lock"):
        pass


def test_an_unreadable_note_of_the_holder_does_no_harm(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    (tmp_path / "lock").write_text("[")
    assert not second.acquire()
    assert second.holder() == "a process that just started or ended"
    first.release()
    first.release()
    assert second.acquire()
    second.release()


def test_waiting_can_be_stopped(tmp_path: Path) -> None:
    first, told = FileLock(tmp_path / "lock"), list[str]()
    assert first.acquire()

    def stop() -> None:
        raise Interrupted("enough")

    with pytest.raises(Interrupted, match="enough"), waiting_lock(tmp_path / "lock", stop, told.append):
        pass
    assert told == [first.holder()]
    first.release()


def test_the_guard_is_shared_by_readers_and_alone_for_a_writer(tmp_path: Path) -> None:
    path, inside = tmp_path / "guard", threading.Event()
    path.touch()

    def write() -> None:
        with guard(path, exclusive=True):
            inside.set()

    writer = threading.Thread(target=write)
    with guard(path, exclusive=False), guard(path, exclusive=False):
        writer.start()
        assert not inside.wait(0.2)
    writer.join(30)
    assert inside.is_set()


BUILD = """
import sys, time
from pathlib import Path
from tests.execution.example import Repeat, executor
from edgebuild.execution.store import Store

here = Path(sys.argv[2])

def act(inputs, out_dir, ctx):
    (here / "started").touch()
    while not (here / "go").exists():
        time.sleep(0.01)

build = executor(Store.open(sys.argv[1]))
result = build.run(Repeat(text="x", ran=here / "ran", act=act), {}, label="slow")
print(result.reused, (result.path / "data").read_text())
"""


def test_of_two_builds_of_one_step_the_second_waits_and_reuses(tmp_path: Path) -> None:
    children = [python(BUILD, tmp_path / "store", tmp_path) for _ in range(3)]
    wait_for((tmp_path / "started").exists, children[0])
    (tmp_path / "go").touch()
    outputs = [child.communicate() for child in children]
    assert sorted(out for out, _ in outputs) == ["False x\n", "True x\n", "True x\n"], outputs
    assert len((tmp_path / "ran").read_text().split()) == 1


def test_a_killed_build_hands_its_step_to_the_one_that_waits(tmp_path: Path) -> None:
    first = python(BUILD, tmp_path / "store", tmp_path)
    wait_for((tmp_path / "started").exists, first)
    second = python(BUILD, tmp_path / "store", tmp_path)
    first.kill()
    first.communicate()
    (tmp_path / "go").touch()
    out, err = second.communicate()
    assert out == "False x\n", err
    assert len((tmp_path / "ran").read_text().split()) == 2


COMMITS = """
import random, sys
from edgebuild.execution.store import Store
from tests.execution.example import commit, contents, key
store, chance = Store.open(sys.argv[1]), random.Random(int(sys.argv[2]))
for _ in range(60):
    index = chance.randrange(12)
    commit(store, str(index), b"%d" % (index % 4) * 3000)
    found = store.lookup(key(str(chance.randrange(12))))
    if found is not None:
        contents(found.path)
    if chance.random() < 0.1:
        store.gc(quota_bytes=0)
assert store.damaged == [], store.damaged
"""


def test_many_processes_at_once_do_no_harm(tmp_path: Path) -> None:
    children = [python(COMMITS, tmp_path / "store", seed) for seed in range(4)]
    assert [child.communicate()[1] for child in children] == [""] * 4
    store = Store.open(tmp_path / "store")
    for index in range(12):
        found = store.lookup(key(str(index)))
        if found is not None:
            assert contents(found.path) == {"data": b"%d" % (index % 4) * 3000}
    assert store.damaged == []
