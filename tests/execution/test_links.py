"""A store with links, folders and fifos where its own files should be: nothing outside is touched."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from edgebuild.core.values import digest_json
from edgebuild.errors import EdgebuildError, StoreError
from edgebuild.execution.layout import FOLDERS
from edgebuild.execution.lock import BuildLock
from edgebuild.execution.store import Store

from .example import Repeat, commit, contents, executor, key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.steps import StepContext

COUNTS = (pytest.param(10, id="short"), pytest.param(1000, id="long", marks=pytest.mark.proof))


def outside_of(path: Path) -> Path:
    """Files that look like a store's own, all of which must stay as they are."""
    for name in ("plain", "sub/deep", key("a"), f"sub/{key('b')}", "lock", "held", "tree/data"):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"mine: {name}")
        os.utime(file, (1, 1))
    path.chmod(0o750)
    return path


def seen(folder: Path) -> str:
    """The digest of everything in a folder: names, kinds, modes, times, contents."""
    found = []
    for path in [folder, *sorted(folder.rglob("*"))]:
        stat = path.lstat()
        content = path.read_bytes().hex() if path.is_file() else ""
        found.append([str(path), stat.st_mode, stat.st_mtime_ns, stat.st_nlink, content])
    return digest_json(found)


def used(root: Path) -> list[str]:
    """Use a store in every way, and return what it refused."""
    refused = []

    def resume(inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        del inputs
        (ctx.scratch / "checkpoint").write_text("written")
        (out_dir / "data").write_bytes(b"made")

    def attempt(what: str) -> None:
        with Store.open(root, quota_bytes=10_000) as store:
            if what == "build":
                run = executor(store)
                for text in "ab":
                    run.run(Repeat(text=text, act=resume), {}, label=text)
            elif what == "look":
                for name in "abc":
                    store.lookup(key(name))
            elif what == "commit":
                commit(store, "c", b"c" * 10)
            elif what == "gc":
                store.gc(quota_bytes=0)
            else:
                store.usage()

    for what in ("look", "build", "commit", "usage", "gc"):
        try:
            attempt(what)
        except EdgebuildError as error:
            refused.append(f"{what}: {error.message}")
    return refused


def made(root: Path) -> Path:
    with Store.open(root) as store:
        for name in "ab":
            commit(store, name, name.encode() * 10)
        run = executor(store)
        run.run(Repeat(text="a"), {}, label="a")
        for name in "ab":
            store.layout.scratch(key(name)).mkdir()
            (store.layout.scratch(key(name)) / "checkpoint").write_text("old")
    return root


@pytest.mark.parametrize("name", [*FOLDERS, "guard", "blobs/aa"])
@pytest.mark.parametrize("to", ["outside", "outside/plain", "nowhere"])
def test_a_store_whose_own_folder_is_a_link_is_refused(name: str, to: str, tmp_path: Path) -> None:
    root, outside = made(tmp_path / "store"), outside_of(tmp_path / "outside")
    path = root / name
    if os.path.lexists(path):
        path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / to)
    before = seen(outside)
    with pytest.raises(StoreError, match="is a link") as caught:
        Store.open(root)
    assert str(path) in caught.value.message
    assert seen(outside) == before
    assert not (tmp_path / "nowhere").exists()


def places(root: Path) -> list[Path]:
    """Where a link may lie: in place of what is there, and where something would be made."""
    layout = Store.open(root).layout
    own = [path for path in root.rglob("*") if path != root / "VERSION"]
    return [*sorted(own), layout.entry(key("c")), layout.lock(key("a")), layout.scratch(key("c")), layout.tmp / "dead"]


@pytest.mark.parametrize("count", COUNTS)
def test_no_link_anywhere_in_a_store_leads_out_of_it(count: int, tmp_path: Path) -> None:
    outside = outside_of(tmp_path / "outside")
    before = seen(outside)
    targets = [outside, outside / "plain", outside / "sub", outside / "tree", outside / key("a"), tmp_path / "nowhere"]
    for seed in range(count):
        chance, root = random.Random(seed), made(tmp_path / f"store{seed}")
        for path in chance.sample(places(root), chance.choice((1, 1, 2, 4))):
            if not path.parent.is_dir() or path.parent.is_symlink():
                continue
            path.parent.chmod(0o700)
            if os.path.lexists(path):
                path.rename(tmp_path / f"moved{seed}-{chance.random()}")
            kind = chance.randrange(8)
            if kind == 0:
                os.mkfifo(path)
            elif kind == 1:
                path.mkdir()
            elif kind == 2:
                path.write_bytes(chance.randbytes(20))
            else:
                path.symlink_to(chance.choice(targets))
        used(root)
        assert seen(outside) == before, f"seed {seed}"
        assert not (tmp_path / "nowhere").exists(), f"seed {seed}"


def test_a_project_lock_that_is_a_link_is_refused_and_not_followed(tmp_path: Path) -> None:
    outside = outside_of(tmp_path / "outside")
    before = seen(outside)
    for to in (outside / "plain", tmp_path / "nowhere", outside):
        home = tmp_path / f"home-{to.name}"
        home.mkdir()
        (home / "lock").symlink_to(to)
        with pytest.raises(StoreError, match="locking the project failed"), BuildLock(home / "lock"):
            pass
    assert seen(outside) == before
    assert not (tmp_path / "nowhere").exists()


def test_what_lies_about_in_a_store_does_not_stop_a_collection(tmp_path: Path) -> None:
    root = made(tmp_path / "store")
    strays = ["README", "entries/notes.txt", "blobs/README", "blobs/aa/notes", "trees/notes", "verified/notes", "x/y"]
    strays += ["scratch/notes", "locks/notes", "labels/notes"]
    for name in strays:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("stray")
    for name in ("entries", "trees", "verified", "blobs", "blobs/aa", "scratch"):
        (root / name / "folder").mkdir()
    digest = "a" * 64
    for name in (f"blobs/aa/{digest}", f"entries/{digest}", f"verified/{digest}"):
        (root / name / "inside").mkdir(parents=True)
    (root / "tmp" / "file").write_text("")
    os.mkfifo(root / "tmp" / "fifo")
    with Store.open(root) as store:
        assert store.gc().removed_entries == 0
        assert store.usage().entries == 3
        assert store.lookup(key("a")) is not None
    report = Store.open(root).gc(quota_bytes=0)
    assert report.left_bytes == 0
    assert {name for name in strays if (root / name).is_file()} == set(strays), "they are nobody's to remove"
    assert not (root / f"entries/{digest}").exists()


def test_a_whole_store_may_be_a_link(tmp_path: Path) -> None:
    made(tmp_path / "elsewhere")
    (tmp_path / "store").symlink_to(tmp_path / "elsewhere")
    assert used(tmp_path / "store") == []
    assert "VERSION" in contents(tmp_path / "elsewhere")
