from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import StoreError
from edgebuild.execution.store import Store

from .example import Repeat, commit, contents, executor, folder_with, key, python, wait_for, whole_store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with four entries of 1000 bytes each, used in the order d, c, b, a (a last)."""
    with Store.open(tmp_path / "store") as store:
        for age, name in enumerate("abcd"):
            commit(store, name, name.encode() * 1000)
            used_at = 1_000_000 - age
            os.utime(store.root / "entries" / key(name), (used_at, used_at))
    return store.root


def names(store: Store) -> str:
    return "".join(name for name in "abcdef" if store.layout.entry(key(name)).exists())


def test_usage_counts_what_is_there(root: Path) -> None:
    usage = Store.open(root, quota_bytes=5000).usage()
    assert (usage.entries, usage.blobs, usage.blob_bytes, usage.total_bytes) == (4, 4, 4000, 4000)
    assert (usage.scratch_bytes, usage.staging_bytes, usage.quota_bytes) == (0, 0, 5000)


def test_the_least_recently_used_goes_first(root: Path) -> None:
    store = Store.open(root)
    report = store.gc(quota_bytes=2500)
    assert names(store) == "ab"
    assert (report.removed_entries, report.removed_bytes, report.left_bytes) == (2, 2000, 2000)
    assert report.within_quota
    assert store.usage().blob_bytes == 2000
    assert sorted(contents(root / "trees").values()) == [b"a" * 1000, b"b" * 1000]


def test_a_look_up_is_a_use(root: Path) -> None:
    with Store.open(root) as user:
        assert user.lookup(key("d")) is not None
    store = Store.open(root)
    store.gc(quota_bytes=2000)
    assert names(store) == "ad"


def test_what_is_to_be_kept_stays_whatever_the_quota(root: Path) -> None:
    store = Store.open(root)
    report = store.gc(quota_bytes=0, keep={key("c"), key("d")})
    assert names(store) == "cd"
    assert not report.within_quota


def test_without_a_quota_nothing_whole_is_removed(root: Path) -> None:
    store = Store.open(root)
    orphan = folder_with(root / "blobs" / "ab", **{"ab" * 32: b"orphan"}) / ("ab" * 32)
    (root / "tmp" / "dead").mkdir()
    folder_with(root / "trees" / ("0" * 64), data=b"left behind")
    (root / "verified" / key("z")).write_bytes(b"{}")
    (root / "entries" / key("broken")).write_bytes(b"{")
    report = store.gc()
    assert names(store) == "abcd"
    assert report.removed_bytes == len(b"orphan")
    assert not orphan.exists()
    assert not list((root / "tmp").iterdir())
    assert len(list((root / "trees").iterdir())) == 4
    assert not (root / "entries" / key("broken")).exists()
    assert {path.name for path in (root / "verified").iterdir()} <= {key(name) for name in "abcd"}


def test_contents_that_another_entry_needs_stay(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        commit(store, "a", b"shared" * 100)
        commit(store, "b", b"shared" * 100)
        os.utime(store.layout.entry(key("a")), (1, 1))
    store = Store.open(store.root)
    store.gc(quota_bytes=700, keep={key("b")})
    found = store.lookup(key("b"))
    assert found is not None
    assert contents(found.path) == {"data": b"shared" * 100}


HOLD = """
import sys, time
from pathlib import Path
from tests.execution.example import key
from edgebuild.execution.store import Store
store = Store.open(sys.argv[1])
assert store.lookup(key("d")) is not None
Path(sys.argv[2]).touch()
time.sleep(60)
"""


def test_what_a_living_process_uses_is_never_removed_and_what_a_dead_one_used_is(root: Path, tmp_path: Path) -> None:
    child = python(HOLD, root, tmp_path / "holds")
    wait_for((tmp_path / "holds").exists, child)
    store = Store.open(root)
    store.gc(quota_bytes=0)
    assert names(store) == "d"
    child.kill()
    child.communicate()
    store.gc(quota_bytes=0)
    assert names(store) == ""
    assert not list((root / "tmp").iterdir())


def test_a_commit_makes_room_among_the_unused(root: Path) -> None:
    store = Store.open(root, quota_bytes=4500)
    commit(store, "e", b"e" * 1501)
    assert names(store) == "abe"
    found = store.lookup(key("e"))
    assert found is not None
    assert contents(found.path) == {"data": b"e" * 1501}


def test_a_commit_that_reuses_contents_of_what_has_to_go_is_whole(root: Path) -> None:
    store = Store.open(root, quota_bytes=4000)
    with store.work_folder() as folder:
        store.commit(key("f"), folder_with(folder, old=b"d" * 1000, new=b"f" * 3000), {})
    found = store.lookup(key("f"))
    assert found is not None
    assert contents(found.path) == {"old": b"d" * 1000, "new": b"f" * 3000}
    assert names(store) == "f"


def test_a_quota_that_cannot_be_met_refuses_the_commit(root: Path) -> None:
    store = Store.open(root, quota_bytes=4500)
    for name in "abcd":
        assert store.lookup(key(name)) is not None
    before = whole_store(root)
    with pytest.raises(StoreError, match=r"of 4,500 bytes 4,000 are in use by running builds, and 1,000 more"):
        commit(store, "e", b"e" * 1000)
    assert whole_store(root) == before


def test_unfinished_work_counts_and_goes_when_it_is_old(root: Path) -> None:
    scratch = folder_with(root / "scratch" / key("old"), checkpoint=b"x" * 3000)
    os.utime(scratch, (1, 1))
    store = Store.open(root)
    assert store.usage().total_bytes == 7000
    store.gc(quota_bytes=4000)
    assert names(store) == "abcd"
    assert not scratch.exists()


def test_unfinished_work_of_a_running_step_stays(root: Path) -> None:
    store = Store.open(root)

    def act(inputs: object, out_dir: Path, ctx: object) -> None:
        assert Store.open(root).gc(quota_bytes=0).removed_entries == 4
        assert out_dir.is_dir()
        assert len(list((root / "scratch").iterdir())) == 1

    assert executor(store).run(Repeat(text="x", act=act), {}, label="it").path.is_dir()


def test_the_order_of_use_does_not_go_back_with_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    with Store.open(tmp_path / "store") as store:
        for name, ahead in (("a", 0), ("b", 10**18), ("c", -(10**18)), ("d", 5)):
            monkeypatch.setattr("edgebuild.execution.entries.time.time_ns", lambda ahead=ahead: now + ahead)
            commit(store, name, name.encode() * 1000)
        assert store.lookup(key("b")) is not None
    store = Store.open(tmp_path / "store")
    store.gc(quota_bytes=2500)
    assert names(store) == "bd", "used last, whatever the clock said"
