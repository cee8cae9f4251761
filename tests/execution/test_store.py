from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import EdgebuildError, StoreError
from edgebuild.execution.store import Store

from .example import commit, contents, folder_with, key

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def flip(path: Path, *, keep_times: bool = False) -> None:
    """Damage one byte in place, as a bad disk would; optionally with the modification time put back."""
    before = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_is_committed_is_found_whole_also_by_another_process(store: Store, tmp_path: Path) -> None:
    with store.work_folder() as folder:
        made = store.commit(key("a"), folder_with(folder, top=b"1", sub__deep__file=b"2" * 5000), {"note": [1, None]})
    found = Store.open(store.root).lookup(key("a"))
    assert found == made
    assert found is not None
    assert contents(found.path) == {"top": b"1", "sub/deep/file": b"2" * 5000}
    assert found.meta == {"note": [1, None]}
    assert [file.path for file in found.files] == ["sub/deep/file", "top"]


def test_an_unknown_key_is_absent_and_a_malformed_one_is_refused(store: Store) -> None:
    assert store.lookup(key("nothing")) is None
    with pytest.raises(EdgebuildError, match="not a store key"):
        store.lookup("../../etc/passwd")


def test_a_folder_from_elsewhere_is_copied_and_left_alone(store: Store, tmp_path: Path) -> None:
    source = folder_with(tmp_path / "mine", model=b"weights")
    store.commit(key("a"), source, {})
    (source / "model").write_bytes(b"changed!")
    found = store.lookup(key("a"))
    assert found is not None
    assert contents(found.path) == {"model": b"weights"}


def test_the_digest_depends_on_names_and_contents_only(store: Store, tmp_path: Path) -> None:
    one = store.commit(key("a"), folder_with(tmp_path / "1", x=b"x", y=b"y"), {"n": 1})
    same = store.commit(key("b"), folder_with(tmp_path / "2", y=b"y", x=b"x"), {"n": 2})
    renamed = store.commit(key("c"), folder_with(tmp_path / "3", z=b"x", y=b"y"), {})
    assert one.digest == same.digest
    assert one.path == same.path
    assert renamed.digest != one.digest


def test_equal_contents_are_stored_once(store: Store) -> None:
    for name in "abc":
        commit(store, name, b"same" * 1000)
    usage = store.usage()
    assert (usage.entries, usage.blobs, usage.blob_bytes) == (3, 1, 4000)


def test_the_first_commit_of_a_key_stays(store: Store) -> None:
    commit(store, "a", b"first")
    commit(store, "a", b"second")
    found = store.lookup(key("a"))
    assert found is not None
    assert contents(found.path) == {"data": b"first"}


def test_stored_files_and_folders_are_read_only(store: Store) -> None:
    commit(store, "a", b"1")
    found = store.lookup(key("a"))
    assert found is not None
    assert (found.path / "data").stat().st_mode & 0o222 == 0
    assert found.path.stat().st_mode & 0o222 == 0


def test_links_and_empty_results_are_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "model").symlink_to("/etc/hostname")
    with pytest.raises(EdgebuildError, match="not a plain file"):
        store.commit(key("a"), tmp_path / "links", {})
    (tmp_path / "empty" / "folders").mkdir(parents=True)
    with pytest.raises(EdgebuildError, match="nothing to store"):
        store.commit(key("a"), tmp_path / "empty", {})
    assert store.usage().entries == 0


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_flipped_byte_in_a_content_drops_the_entry_and_says_so(store: Store, keep_times: bool) -> None:
    commit(store, "a", b"precious" * 100)
    other = commit(store, "b", b"fine")
    assert store.lookup(key("a")) is not None  # verified and vouched for, and still the flip is seen
    (blob,) = (path for path in (store.root / "blobs").rglob("*") if path.is_file() and path.stat().st_size == 800)
    flip(blob, keep_times=keep_times)
    fresh = Store.open(store.root)
    assert fresh.lookup(key("a")) is None
    assert [damage.key for damage in fresh.damaged] == [key("a")]
    assert "doesn't match its digest" in fresh.damaged[0].reason
    assert fresh.lookup(other) is not None
    commit(fresh, "a", b"precious" * 100)
    again = fresh.lookup(key("a"))
    assert again is not None
    assert contents(again.path) == {"data": b"precious" * 100}


def test_a_truncated_or_missing_content_drops_every_entry_that_needs_it(store: Store) -> None:
    commit(store, "a", b"shared")
    commit(store, "b", b"shared")
    (blob,) = (path for path in (store.root / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"shar")
    assert store.lookup(key("a")) is None
    assert store.lookup(key("b")) is None
    assert [damage.key for damage in store.damaged] == [key("a"), key("b")]


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "garbage"])
def test_a_damaged_manifest_drops_the_entry(store: Store, harm: str) -> None:
    commit(store, "a", b"1")
    manifest = store.root / "entries" / key("a")
    if harm == "flip":
        flip(manifest)
    else:
        manifest.write_bytes({"truncate": manifest.read_bytes()[:-20], "empty": b"", "garbage": b"\xff\x00{["}[harm])
    assert store.lookup(key("a")) is None
    assert len(store.damaged) == 1
    assert not manifest.exists()


def test_damaged_records_of_verification_cost_only_time(store: Store) -> None:
    commit(store, "a", b"1")
    for data in (b"", b"[1, 2]", b"\xff", b'{"x": "y"}'):
        (store.root / "verified" / key("a")).write_bytes(data)
        assert store.lookup(key("a")) is not None
    assert store.damaged == []


def test_a_change_through_the_handed_out_folder_is_noticed(store: Store) -> None:
    commit(store, "a", b"original")
    found = store.lookup(key("a"))
    assert found is not None
    assert store.intact(found)
    flip(found.path / "data", keep_times=True)
    assert not store.intact(found)
    assert store.lookup(key("a")) is None
    assert [damage.key for damage in store.damaged] == [key("a")]


@pytest.mark.parametrize("harm", ["extra file", "missing file", "replaced file", "no folder"])
def test_a_handed_out_folder_is_put_right_from_the_contents(store: Store, harm: str) -> None:
    commit(store, "a", b"original")
    found = store.lookup(key("a"))
    assert found is not None
    found.path.chmod(0o755)
    if harm == "extra file":
        (found.path / "extra").write_bytes(b"?")
    elif harm == "replaced file":
        (found.path / "data").unlink()
        (found.path / "data").write_bytes(b"0riginal")
    else:
        (found.path / "data").unlink()
        if harm == "no folder":
            found.path.rmdir()
    assert not store.intact(found)
    assert contents(store.materialise(found)) == {"data": b"original"}
    assert store.damaged == []


def test_an_entry_that_is_gone_cannot_be_materialised(store: Store) -> None:
    commit(store, "a", b"1")
    found = store.lookup(key("a"))
    assert found is not None
    (store.root / "entries" / key("a")).unlink()
    with pytest.raises(StoreError, match="gone from"):
        store.materialise(found)


def test_a_newer_format_is_refused(store: Store) -> None:
    (store.root / "VERSION").write_text("edgebuild-store 2\n")
    with pytest.raises(StoreError, match=r"has format 2, written by a newer edgebuild; this one reads up to 1"):
        Store.open(store.root)


def test_a_folder_with_something_else_in_it_is_never_made_a_store(tmp_path: Path) -> None:
    folder_with(tmp_path, photos=b"mine")
    with pytest.raises(StoreError, match="isn't empty and isn't an edgebuild store"):
        Store.open(tmp_path)
    assert contents(tmp_path) == {"photos": b"mine"}


def test_a_damaged_version_file_is_refused_with_the_way_out(store: Store) -> None:
    (store.root / "VERSION").write_bytes(b"\xff\xff")
    with pytest.raises(StoreError, match="VERSION file is damaged") as caught:
        Store.open(store.root)
    assert "edgebuild-store 1" in caught.value.hint


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be used: opening it failed"):
        Store.open(tmp_path / "file" / "store")
