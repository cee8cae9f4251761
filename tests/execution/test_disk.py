"""Full and read-only disks, for real: a small tmpfs in a mount namespace of its own where the machine allows that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import StoreError
from edgebuild.execution.disk import disk_errors, write_atomically
from tests import needs

from .example import python

if TYPE_CHECKING:
    from pathlib import Path


IN_NAMESPACE = """
import os, subprocess, sys
from pathlib import Path
import pytest
from edgebuild.errors import StoreError
from edgebuild.execution.store import Store
from tests.execution.example import Repeat, commit, executor, key, whole_store

def again_as_root_of_a_namespace():
    if "IN_NAMESPACE" not in os.environ:
        os.environ["IN_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "-rm", sys.executable, "-c", sys.orig_argv[2], *sys.argv[1:]])

again_as_root_of_a_namespace()
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
root = disk / "store"
"""

FULL = (
    IN_NAMESPACE
    + """
store = Store.open(root)
commit(store, "small", b"x" * 1000)
before = whole_store(root)
with pytest.raises(StoreError, match=f"the disk under the store {root} is full: inflate failed") as caught:
    executor(store).run(Repeat(text="z" * 1000, times=2000), {}, label="inflate")
assert "free some disk space" in caught.value.hint
assert whole_store(root) == before
assert store.lookup(key("small")) is not None

# Room for the content, but none for the copy that is made of a folder from elsewhere.
mine = disk / "mine"
mine.mkdir()
(mine / "data").write_bytes(os.urandom(700_000))
with pytest.raises(StoreError, match=f"the disk under the store {root} is full: keeping a result failed"):
    store.commit(key("big"), mine, {})
assert whole_store(root) == before
assert len(list((root / "tmp").iterdir())) == 1 and not list((root / "tmp").glob("*/work-*"))
(mine / "data").unlink()
commit(store, "big", b"y" * 700_000)
assert store.lookup(key("big")) is not None

made = executor(store).run(Repeat(text="made"), {}, label="made")
with pytest.raises(OSError, match="No space left"):
    (disk / "filler").write_bytes(bytes(2_000_000))
again = executor(store).run(Repeat(text="made"), {}, label="another label")
assert again.reused and again.entry == made.entry
print("as it should be")
"""
)

READ_ONLY = (
    IN_NAMESPACE
    + """
with Store.open(root) as store:
    made = executor(store).run(Repeat(text="made"), {}, label="made")
    damaged = commit(store, "damaged", b"1")
    (root / "entries" / damaged).write_bytes(b"{")
subprocess.run(["mount", "-o", "remount,ro", "tmpfs", str(disk)], check=True)
before = whole_store(root)
store = Store.open(root)
assert executor(store).run(Repeat(text="made"), {}, label="made").reused
assert store.lookup(damaged) is None and [found.key for found in store.damaged] == [damaged]
assert store.usage().entries == 2
attempts = {
    "keeping a result": lambda: store.commit(key("new"), Path("/etc/default"), {}),
    "running new": lambda: executor(store).run(Repeat(text="new", act=lambda *a: os.abort()), {}, label="new"),
    "collecting": lambda: store.gc(),
}
for doing, attempt in attempts.items():
    with pytest.raises(StoreError, match=f"the store {root} is read-only: {doing} isn't possible") as caught:
        attempt()
    assert "choose another store" in caught.value.hint
with pytest.raises(StoreError, match="can't be written: opening it failed .Read-only file system."):
    Store.open(disk / "new")
assert whole_store(root) == before
print("as it should be")
"""
)


@pytest.mark.skipif(bool(needs.no_namespaces()), reason=needs.no_namespaces())
@pytest.mark.parametrize("script", [FULL, READ_ONLY], ids=["full", "read-only"])
def test_a_disk_that_refuses_leaves_the_store_as_it_was(tmp_path: Path, script: str) -> None:
    child = python(script, tmp_path)
    out, err = child.communicate()
    assert (out, child.returncode) == ("as it should be\n", 0), err


LIMITED = """
import resource, sys
from pathlib import Path
from edgebuild.errors import StoreError
from edgebuild.execution.store import Store
from tests.execution.example import whole_store, key
store = Store.open(sys.argv[1])
before = whole_store(store.root)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    store.commit(key("a"), Path(sys.argv[2]), {})
except StoreError as error:
    print(error)
assert whole_store(store.root) == before
"""


def test_a_limit_on_file_sizes_reads_like_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data").write_bytes(b"x" * 10_000)
    child = python(LIMITED, tmp_path / "store", tmp_path / "mine")
    out, err = child.communicate()
    assert (err, out) == ("", f"the disk under the store {tmp_path}/store is full: keeping a result failed\n")


def test_every_other_failure_names_the_store_and_the_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match=r"can't be used: a test failed \(Is a directory\)"),
        disk_errors(tmp_path, "a test"),
    ):
        tmp_path.read_bytes()


def test_a_failed_atomic_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="Is a directory"):
        write_atomically(tmp_path / "folder", b"new", staging=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
