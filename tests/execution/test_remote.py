from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import fsspec
import pytest

from edgebuild.errors import StoreError
from edgebuild.execution.remote import Remote
from edgebuild.execution.store import Store

from .example import Repeat, commit, contents, executor, folder_with, key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"file://{tmp_path}/shared"


@pytest.fixture
def colleague(url: str, tmp_path: Path) -> Callable[[str], Store]:
    """Open the shared store as somebody with a local folder of their own."""
    return lambda name: Store.open(url, cache=tmp_path / name)


def everything(url: str) -> dict[str, bytes]:
    fs, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(root): fs.cat_file(path) for path in fs.find(root)}


def test_what_one_makes_another_finds(url: str, colleague: Callable[[str], Store], tmp_path: Path) -> None:
    with colleague("anna").work_folder() as folder:
        made = colleague("anna").commit(key("a"), folder_with(folder, top=b"1", sub__deep=b"2" * 9999), {"n": 1})
    bens = colleague("ben")
    found = bens.lookup(key("a"))
    assert found is not None
    assert contents(found.path) == {"top": b"1", "sub/deep": b"2" * 9999}
    assert (found.digest, found.meta, found.created) == (made.digest, made.meta, made.created)
    assert found.path.is_relative_to(tmp_path / "ben")
    assert bens.lookup(key("b")) is None


def test_what_was_fetched_once_is_local(url: str, colleague: Callable[[str], Store]) -> None:
    commit(colleague("anna"), "a", b"1")
    assert colleague("ben").lookup(key("a")) is not None
    fs, root = fsspec.core.url_to_fs(url)
    fs.rm(f"{root}/blobs", recursive=True)
    fs.rm(f"{root}/entries", recursive=True)
    assert colleague("ben").lookup(key("a")) is not None
    assert colleague("carl").lookup(key("a")) is None


def test_a_build_reuses_what_a_colleague_built(colleague: Callable[[str], Store], tmp_path: Path) -> None:
    step = Repeat(text="x", times=3, ran=tmp_path / "ran")
    executor(colleague("anna")).run(step, {}, label="it")
    assert executor(colleague("ben")).run(step, {}, label="it").reused
    assert len((tmp_path / "ran").read_text().split()) == 1


def test_contents_come_before_the_manifest_and_leave_no_litter(
    url: str, colleague: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    put = Remote._put

    def noted(self: Remote, source: Path | bytes, *names: str) -> None:
        order.append(names[0])
        put(self, source, *names)

    monkeypatch.setattr(Remote, "_put", noted)
    commit(colleague("anna"), "a", b"1")
    assert order == ["VERSION", "blobs", "entries"]
    assert {path.split("/")[1] for path in everything(url)} == {"VERSION", "blobs", "entries"}


@pytest.mark.parametrize("harm", ["flip", "truncate", "grow", "remove"])
@pytest.mark.parametrize("part", ["blobs", "entries"])
def test_damage_at_the_url_is_found_dropped_and_built_again(
    url: str, colleague: Callable[[str], Store], part: str, harm: str
) -> None:
    commit(colleague("anna"), "a", b"precious")
    fs, root = fsspec.core.url_to_fs(url)
    (path,) = fs.find(f"{root}/{part}")
    data = fs.cat_file(path)
    if harm == "remove":
        fs.rm_file(path)
    else:
        fs.pipe_file(
            path, {"flip": data[:3] + bytes([data[3] ^ 1]) + data[4:], "truncate": data[:-2], "grow": data + b"x"}[harm]
        )
    bens = colleague("ben")
    found = bens.lookup(key("a"))
    assert found is None
    assert bool(bens.damaged) == ((part, harm) != ("entries", "remove"))
    assert not fs.exists(f"{root}/entries/{key('a')}")
    commit(bens, "a", b"precious")
    again = colleague("carl").lookup(key("a"))
    assert again is not None
    assert contents(again.path) == {"data": b"precious"}


def test_a_newer_format_at_the_url_is_refused(url: str, colleague: Callable[[str], Store]) -> None:
    colleague("anna")
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/VERSION", b"edgebuild-store 9\n")
    with pytest.raises(StoreError, match="format 9, written by a newer edgebuild"):
        colleague("ben")


@pytest.mark.parametrize("bad", ["nosuchprotocol://x/y", "file:///proc/nothing/store"])
def test_a_url_that_cannot_be_used_is_said_plainly(bad: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the store .* can't be used: opening it failed") as caught:
        Store.open(bad, cache=tmp_path)
    assert "local folder" in caught.value.hint


def test_the_default_local_folder_follows_the_user(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    commit(Store.open(url), "a", b"1")
    assert Store.open(url).lookup(key("a")) is not None
    assert Store.open(url).root.is_relative_to(tmp_path / "cache" / "edgebuild" / "stores")
    assert Store.open(url).root != Store.open(url + "2").root


@pytest.mark.parametrize("name", ["holiday.jpg", "sub/deep.txt", "entries/notes"])
def test_a_place_with_something_else_in_it_is_never_made_a_store(
    name: str, url: str, colleague: Callable[[str], Store]
) -> None:
    fs, root = fsspec.core.url_to_fs(url)
    fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
    fs.pipe_file(f"{root}/{name}", b"mine")
    before = everything(url)
    with pytest.raises(StoreError, match=r"isn't empty .* and isn't an edgebuild store"):
        colleague("anna")
    assert everything(url) == before


def test_a_store_that_another_is_just_making_is_one(url: str, colleague: Callable[[str], Store]) -> None:
    fs, root = fsspec.core.url_to_fs(url)
    fs.makedirs(f"{root}/tmp", exist_ok=True)  # noqa: S108  a folder at the URL
    fs.pipe_file(f"{root}/tmp/0123456789abcdef", b"edgebuild-store 1")  # noqa: S108
    commit(colleague("anna"), "a", b"1")
    assert colleague("ben").lookup(key("a")) is not None
