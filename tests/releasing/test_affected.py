"""Which releases carry a component: in folders, bundles and registries, and nothing is passed over in silence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.core.values import digest_bytes
from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.affected import _components, affected
from edgebuild.releasing.push import push
from edgebuild.releasing.registries.http import Unavailable
from edgebuild.releasing.registry import promote
from tests.releasing.registries.bundles import make_bundle, sbom
from tests.releasing.registries.servers import Asked, client, liar, reply

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path


def document(*components: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components, **more}).encode()


@pytest.fixture
def share(tmp_path: Path) -> str:
    """Two releases: the older runs ONNX Runtime 1.32 on both targets, the newer 1.33 on one of them."""
    for version, runtimes in (("1.0", ("1.32.0", "1.32.1")), ("1.1", ("1.32.0", "1.33.0"))):
        files = dict(zip(("nano", "pi"), ({"sbom.cdx.json": sbom(onnxruntime=each)} for each in runtimes), strict=True))
        push(make_bundle(tmp_path / version, files, version=version), f"{tmp_path}/share")
    promote(f"{tmp_path}/share:1.1", "prod")
    return f"{tmp_path}/share"


def test_every_release_and_target_is_looked_at(share: str, tmp_path: Path) -> None:
    found = affected("onnxruntime<1.33", [share])
    assert (found.releases, found.targets) == (2, 4)
    assert [(each.version, each.tags, each.target, each.found) for each in found.carried] == [
        ("1.0", ("1.0",), "nano", "1.32.0"),
        ("1.0", ("1.0",), "pi", "1.32.1"),
        ("1.1", ("1.1", "prod"), "nano", "1.32.0"),
    ]
    assert not any(each.unclear for each in found.carried)
    assert [each.target for each in affected("ONNXRuntime>=1.33", [f"{share}:prod"]).carried] == ["pi"]
    assert affected("openvino", [share]).carried == ()
    both = affected("onnxruntime", [str(tmp_path / "1.0"), f"{share}@{found.carried[2].digest}"])
    assert (both.releases, len(both.carried)) == (2, 4)


@pytest.mark.parametrize(
    ("content", "found", "unclear"),
    [
        (document({"name": "onnxruntime", "version": "1.32.0.dev1+cu12"}), "1.32.0.dev1+cu12", ""),
        (document({"name": "onnxruntime", "version": "n/a"}), "n/a", "can't be compared"),
        (document({"name": "onnxruntime"}), "", "can't be compared"),
        (document({"name": "a", "components": [{"name": "onnxruntime", "version": "1.2"}]}), "1.2", ""),
        (document(metadata={"component": {"components": [{"name": "onnxruntime", "version": "1.2"}]}}), "1.2", ""),
        (document({"name": "onnxruntime", "version": 5}), "", "no text"),
        (document(components="x"), "", "can't be read"),
        (document(components=[[]]), "", "can't be read"),
        (document(metadata=[]), "", "can't be read"),
        (b'{"spdxVersion": "SPDX-2.3"}', "", "no CycloneDX"),
        (b"[", "", "isn't readable"),
        (b"[" * 100_000, "", "isn't readable"),
    ],
)
def test_what_cant_be_said_is_said(tmp_path: Path, content: bytes, found: str, unclear: str) -> None:
    made = make_bundle(tmp_path / "made", {"pi": {"sbom.cdx.json": content}})
    (carried,) = affected("onnxruntime<1.33", [str(made)]).carried
    assert carried.found == found
    assert unclear in carried.unclear
    assert bool(unclear) == bool(carried.unclear)


def test_tools_that_built_it_arent_shipped(tmp_path: Path) -> None:
    tools = {"tools": {"components": [{"name": "onnxruntime", "version": "1.0"}]}}
    made = make_bundle(tmp_path / "made", {"pi": {"sbom.cdx.json": document(metadata=tools)}})
    assert affected("onnxruntime", [str(made)]).carried == ()


def test_a_missing_or_changed_sbom_is_a_doubt(share: str, tmp_path: Path) -> None:
    without = make_bundle(tmp_path / "without", {"pi": {}})
    changed = make_bundle(tmp_path / "changed", {"pi": {"sbom.cdx.json": sbom(onnxruntime="1.40")}})
    path = changed / "blobs" / "sha256" / digest_bytes(sbom(onnxruntime="1.40"))
    path.write_bytes(sbom(onnxruntime="1.41"))
    found = affected("onnxruntime<1.33", [str(without), str(changed), share]).carried
    assert ["no sbom" in each.unclear or "another content" in each.unclear for each in found[:2]] == [True, True]
    assert len(found) == 5


def test_a_place_that_cant_be_read_is_an_error(share: str, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="holds no releases"):
        affected("onnxruntime", [share, str(tmp_path / "nowhere")])

    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        reply(handler, 503)

    with liar(answer) as server, pytest.raises(Unavailable, match="503"):
        affected("onnxruntime", [f"{server.host}/doors"], opened=lambda reference: client(reference.host))


@pytest.mark.parametrize(
    "spec", ["", "<1.33", "onnxruntime 1.33", "a[b]", "a; python_version<'3'", "a @ https://x/y", "a<" + "9" * 5000]
)
def test_a_component_that_is_none_is_said(spec: str, share: str) -> None:
    with pytest.raises(UsageError) as caught:
        affected(spec, [share])
    assert caught.value.hint


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "version", "components", "metadata", "component"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(values, values)
def test_any_document_is_read_or_refused(components: Any, metadata: Any) -> None:
    sbom = {"bomFormat": "CycloneDX", "components": components, "metadata": metadata}
    try:
        found = _components(sbom)
    except ReleaseError:
        return
    assert all(isinstance(each, str) for pair in found for each in pair)
