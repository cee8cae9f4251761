"""A build that changes nothing only looks up: it must not read what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core import values
from edgebuild.execution import entries, verification
from edgebuild.execution.store import Store

from .example import folder_with, key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def test_what_was_verified_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path / "store") as store:
        for index in range(30):
            with store.work_folder() as folder:
                store.commit(key(str(index)), folder_with(folder, own=b"%d" % index * 999, other=b"shared" * 999), {})
        for index in range(30):  # contents that were shared meanwhile are read once more here
            assert store.lookup(key(str(index))) is not None
    read: list[Path] = []

    def noted(path: Path) -> str:
        read.append(path)
        return values.digest_file(path)

    for module in (entries, verification):
        monkeypatch.setattr(module, "digest_file", noted)
    again = Store.open(store.root)
    for index in range(30):
        assert again.lookup(key(str(index))) is not None
    assert read == []


def test_a_fresh_result_is_not_read_again_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path / "store")
    with store.work_folder() as folder:
        store.commit(key("a"), folder_with(folder, data=b"x" * 999), {})

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is read")

    digest: Callable[[Path], str] = refuse
    monkeypatch.setattr(verification, "digest_file", digest)
    assert Store.open(store.root).lookup(key("a")) is not None
