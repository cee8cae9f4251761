"""Bundles whose documents say anything at all, with digests that agree: read, or refused with a sentence."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.core.values import canonical_json, digest_bytes
from edgebuild.releasing.board.documents import Problem
from edgebuild.releasing.board.printing import harmless
from edgebuild.releasing.board.reading import Bundle
from edgebuild.releasing.board.running import Source, golden_of
from edgebuild.releasing.board.signatures import opened_envelope, trust_of_policy

from .bundles import SIGNATURE_TYPE, Key, make_key, tiny

ENVELOPE = json.dumps(
    {
        "mediaType": SIGNATURE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": "0" * 64}},
        "dsseEnvelope": {
            "payload": "e30=",
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": "AAAA", "keyid": ""}],
        },
    }
).encode()
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-10, 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8), st.sampled_from(["", "..", "a/b", "sha256:" + "0" * 64, "application/json"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, by the keys that lead to it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inner for place in places(each, (*at, key)))]


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    held = value
    for key in place[:-1]:
        held = held[key]
    held[place[-1]] = new
    return value


def changed(data: st.DataObject, content: bytes) -> bytes:
    """Put another value somewhere in a document."""
    value = json.loads(content)
    place = data.draw(st.sampled_from(places(value)))
    return canonical_json(put(value, place, data.draw(VALUES))).encode()


@settings(max_examples=150)
@given(st.data())
def test_a_document_that_says_anything_is_read_or_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        bundle = tiny(Path(scratch, "bundle"))
        blobs = bundle / "blobs" / "sha256"
        index = json.loads((bundle / "index.json").read_bytes())
        top = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
        manifest = json.loads((blobs / top["manifests"][0]["digest"][7:]).read_bytes())
        layers = {each["annotations"]["org.cncf.model.filepath"]: each for each in manifest["layers"]}
        chain = [
            (layers["release.json"], None),
            (top["manifests"][0], manifest),
            (index["manifests"][0], top),
            (None, index),
        ]
        start = data.draw(st.integers(0, 3))
        for number, (descriptor, value) in enumerate(chain):
            if number < start:
                continue
            path = bundle / "index.json" if descriptor is None else blobs / descriptor["digest"][7:]
            content = path.read_bytes() if number == start or value is None else canonical_json(value).encode()
            content = changed(data, content) if number == start else content
            if descriptor is not None:
                path.unlink()
                path = blobs / digest_bytes(content)
                descriptor.update(digest=f"sha256:{digest_bytes(content)}", size=len(content))
            path.write_bytes(content)
        with contextlib.suppress(Problem):
            found = Bundle(bundle)
            (target,) = found.targets.values()
            golden_of(Source(target, {path: found.path(blob) for path, blob in target.files.items()}))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("key"), "team")


@settings(max_examples=100)
@given(data=st.data())
def test_a_signature_or_a_policy_that_says_anything_is_read_or_refused(key: Key, data: st.DataObject) -> None:
    with contextlib.suppress(Problem):
        opened_envelope(changed(data, ENVELOPE))
    signer = {"name": "anna", "public_key": key.public.read_text(), "targets": ["pi"], "projects": None}
    whole = {"schema_version": 1, "threshold": 1, "signers": [{**signer, "revoked": False}]}
    with tempfile.NamedTemporaryFile() as policy:
        Path(policy.name).write_bytes(changed(data, json.dumps(whole).encode()))
        with contextlib.suppress(Problem):
            assert trust_of_policy(policy.name).threshold >= 1


@given(st.text(), st.sampled_from(["ascii", "utf-8", "latin-1"]))
def test_what_is_printed_is_harmless(text: str, encoding: str) -> None:
    line = harmless(text, encoding)
    assert line.isprintable()
    assert line.encode(encoding).decode(encoding) == line
