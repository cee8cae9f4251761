from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.core.artifact import FileEntry
from edgebuild.core.values import digest_bytes, digest_json
from edgebuild.execution import manifest as manifests
from edgebuild.execution.manifest import Damaged, Manifest, decode, encode
from edgebuild.execution.store import Store

from .example import contents, key

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"path": "model.onnx", "sha256": digest_bytes(b"x"), "size_bytes": 1}


def sealed(files: list[dict[str, Any]], **other: Any) -> bytes:
    """A manifest with a right seal, as somebody with bad intentions would make one."""
    body = {"schema_version": 1, "key": key("a"), "created": "now", "files": files, "meta": {}} | other
    return json.dumps({"sha256": digest_json(body), "manifest": body}).encode()


def test_a_manifest_survives_the_round_trip() -> None:
    manifest = Manifest(key=key("a"), created="now", files=(FileEntry(**GOOD),), meta={"é": [1, None, {"x": 0.5}]})
    assert decode(encode(manifest), key("a")) == manifest
    assert encode(decode(encode(manifest), key("a"))) == encode(manifest)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../up", "a/../../up", "a/./b", "a//b", "", ".", "..", "a/", "a\\b", "a\x00b", "a\nb", "x" * 2000],
)
def test_a_path_that_leaves_the_folder_is_refused(path: str) -> None:
    with pytest.raises(Damaged, match="the manifest is invalid"):
        decode(sealed([GOOD | {"path": path}]), key("a"))


@pytest.mark.parametrize(
    ("files", "other"),
    [
        ([], {}),
        ([GOOD, GOOD], {}),
        ([GOOD | {"path": "a"}, GOOD | {"path": "a/b"}], {}),
        ([GOOD | {"path": "b"}, GOOD | {"path": "a"}], {}),
        ([GOOD | {"sha256": "../../../etc/passwd"}], {}),
        ([GOOD | {"sha256": "A" * 64}], {}),
        ([GOOD | {"size_bytes": -1}], {}),
        ([GOOD | {"size_bytes": 1 << 60}], {}),
        ([GOOD | {"mode": "executable"}], {}),
        ([GOOD], {"schema_version": 2}),
        ([GOOD], {"key": "../x"}),
        ([GOOD], {"surprise": 1}),
        ([GOOD], {"meta": []}),
        ([GOOD], {"created": "x" * 1000}),
    ],
)
def test_a_manifest_that_says_nonsense_is_refused(files: list[dict[str, Any]], other: dict[str, Any]) -> None:
    with pytest.raises(Damaged, match="the manifest is invalid"):
        decode(sealed(files, **other), key("a"))


def test_a_manifest_for_another_key_is_refused() -> None:
    with pytest.raises(Damaged, match="another key"):
        decode(sealed([GOOD]), key("b"))


def test_an_enormous_manifest_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(Damaged, match="too large"):
        decode(b" " * 101, key("a"))


@given(st.binary(max_size=60) | st.text(alphabet='[]{}":,0-1eNa', max_size=60).map(str.encode))
def test_garbage_is_damage_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Damaged):
        decode(data, key("a"))


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"sha256":"x","manifest":{"a":NaN}}', b'{"sha256":1,"manifest":"\\ud800"}']
)
def test_json_that_breaks_readers_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged):
        decode(data, key("a"))


@given(st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    manifest = Manifest(key=key("a"), created="now", files=(FileEntry(**GOOD),), meta={"n": 10})
    raw = bytearray(encode(manifest))
    position = data.draw(st.integers(0, len(raw) - 2))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Damaged):
        decode(bytes(raw), key("a"))


def test_a_hostile_manifest_writes_nothing_outside(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    before = contents(tmp_path)
    (store.root / "entries" / key("a")).write_bytes(sealed([GOOD | {"path": "../../../escaped"}]))
    assert store.lookup(key("a")) is None
    assert len(store.damaged) == 1
    assert {name for name in contents(tmp_path) if not name.startswith("store/tmp/")} == before.keys()
