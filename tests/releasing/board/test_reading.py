"""Reading bundles of strangers: no byte can change, nothing can be added or hidden, nothing outside is read."""

from __future__ import annotations

import functools
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.values import canonical_json, digest_bytes
from edgebuild.releasing.board.documents import Problem, load_json
from edgebuild.releasing.board.reading import Bundle, artifact_digest

from .bundles import HERE, Maker, make_key, release, tiny, tiny_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgebuild.releasing.layout import Descriptor


#: The digest of an artifact.json without fields.
NO_FIELDS = digest_bytes(b"{}")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed")
    key = make_key(folder, "team")
    return tiny(folder / "bundle", by=(key,), files_by=(key,))


@pytest.fixture
def bundle(signed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed, tmp_path / "bundle")


def refused(folder: Path, match: str) -> None:
    with pytest.raises(Problem, match=match) as caught:
        Bundle(folder)
    assert caught.value.code == 7


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object], chosen: int = 0) -> None:
    """Change a manifest of the index of the layout and everything that leads to it, as whoever has no key can."""
    index = json.loads((folder / "index.json").read_bytes())
    descriptor = index["manifests"][chosen]
    blob = folder / "blobs" / "sha256" / descriptor["digest"][7:]
    value = json.loads(blob.read_bytes())
    change(value)
    data = canonical_json(value).encode()
    blob.unlink()
    blob.with_name(digest_bytes(data)).write_bytes(data)
    descriptor.update(digest=f"sha256:{digest_bytes(data)}", size=len(data))
    first, *others = index["manifests"]
    index["manifests"] = [first, *sorted(others, key=lambda each: str(each["digest"]))]
    (folder / "index.json").write_text(canonical_json(index))


def test_it_reads_what_was_made(signed: Path) -> None:
    found = Bundle(signed)
    assert (found.project, found.version, list(found.targets)) == ("doors", "1.4.0", ["pi"])
    assert sorted(found.targets["pi"].files) == sorted([*tiny_files(), "release.json"])
    assert {each.subject for each in found.signatures} == {found.index.sha256, found.targets["pi"].manifest.sha256}


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.proof)])
def test_no_single_byte_can_change(bundle: Path, every: int) -> None:
    count = 0
    for path in files_of(bundle):
        data = path.read_bytes()
        for at in range(0, len(data), every):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            with pytest.raises(Problem):
                Bundle(bundle)
            count += 1
        path.write_bytes(data)
    assert count > 5_000 / every
    Bundle(bundle)


def test_no_file_can_be_shortened_lengthened_removed_or_renamed(bundle: Path) -> None:
    for path in files_of(bundle):
        data = path.read_bytes()
        for wrong in (data[:-1], data + b"\n", b""):
            path.write_bytes(wrong)
            with pytest.raises(Problem):
                Bundle(bundle)
        path.write_bytes(data)
        for other in (path.with_name("0" * 64), path.with_name(path.name + "x")):
            path.rename(other)
            with pytest.raises(Problem):
                Bundle(bundle)
            other.rename(path)
    Bundle(bundle)


def test_no_two_blobs_can_be_swapped(bundle: Path) -> None:
    one, *others = files_of(bundle / "blobs")
    for other in others:
        mine, theirs = one.read_bytes(), other.read_bytes()
        one.write_bytes(theirs)
        other.write_bytes(mine)
        refused(bundle, "was changed|not what was written")
        one.write_bytes(mine)
        other.write_bytes(theirs)


@pytest.mark.parametrize("name", ["more", "blobs/more", f"blobs/sha256/{'0' * 64}", "blobs/sha256/x", ".hidden"])
def test_nothing_else_may_lie_there(bundle: Path, name: str) -> None:
    path = bundle / name
    path.write_bytes(b"more")
    refused(bundle, "belongs to no part of the bundle")
    path.unlink()
    path.mkdir()
    refused(bundle, "belongs to no part of the bundle")
    path.rmdir()
    os.mkfifo(path)
    refused(bundle, "belongs to no part of the bundle")


def test_no_link_pipe_or_folder_stands_for_a_file(bundle: Path, tmp_path: Path) -> None:
    for path in files_of(bundle):
        kept = tmp_path / "kept"
        path.rename(kept)
        makers: list[Callable[[Path], None]] = [os.mkfifo, os.mkdir, functools.partial(os.symlink, kept)]
        for make in makers:
            make(path)
            with pytest.raises(Problem):
                Bundle(bundle)
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        kept.rename(path)
    blobs = bundle / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    refused(bundle, "belongs to no part of the bundle")


def listed(change: Callable[[list[Descriptor]], list[Descriptor]]) -> Maker:
    return Maker({"pi": (tiny_files(), release())}, layers=change)


def at_path(path: str) -> Callable[[list[Descriptor]], list[Descriptor]]:
    def change(layers: list[Descriptor]) -> list[Descriptor]:
        moved = layers[0].model_copy(update={"annotations": {"org.cncf.model.filepath": path}})
        return sorted([moved, *layers[1:]], key=lambda each: each.annotations["org.cncf.model.filepath"])

    return change


BAD_PATHS = [
    "../x", "/etc/passwd", "a/../../x", "./x", "a//b", "a/", "", "a\\b", "a\nb", "x" * 256, "/".join(["a"] * 600),
    "release.json/x", "a\u202eb",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_no_path_leaves_the_target_or_hides_in_it(tmp_path: Path, path: str) -> None:
    refused(listed(at_path(path)).make(tmp_path / "bundle"), "path|artifact")


def retyped(media_type: str) -> Callable[[list[Descriptor]], list[Descriptor]]:
    return lambda layers: [layers[0].model_copy(update={"mediaType": media_type}), *layers[1:]]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda layers: [layers[0], *layers], "a path twice"),
        (lambda layers: layers[::-1], "order of paths"),
        (lambda layers: layers[:-2], "files: .* is missing"),
        (lambda layers: layers[:0], "files: release.json is missing"),
        (retyped("application/vnd.cncf.model.weight.v1.tar+gzip"), "media type of artifact/artifact.json"),
        (retyped("application/octet-stream"), "media type"),
        (lambda layers: [each.model_copy(update={"annotations": {}}) for each in layers], "path None"),
        (lambda layers: [layers[0].model_copy(update={"size": 1 << 36}), *layers[1:]], "are read at most"),
        (lambda layers: [layers[0], layers[1].model_copy(update={"size": 1 << 36}), *layers[2:]], "was changed"),
        (
            lambda layers: [layers[0], layers[1].model_copy(update={"digest": f"sha256:{'0' * 64}"}), *layers[2:]],
            "belongs|missing",
        ),
        (lambda layers: [layers[0].model_copy(update={"digest": "sha512:" + "0" * 64}), *layers[1:]], "wrong digest"),
        (lambda layers: [layers[0].model_copy(update={"size": layers[0].size + 1}), *layers[1:]], "was changed"),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, change: Any, match: str) -> None:
    refused(listed(change).make(tmp_path / "bundle"), match)


def test_a_size_beyond_any_is_refused_unread(bundle: Path) -> None:
    rewritten(bundle, lambda index: index["manifests"][0].update(size=1 << 40))
    refused(bundle, "wrong size")


@pytest.mark.parametrize(
    "change",
    [
        {"project": "windows"},
        {"version": "1.5.0"},
        {"target": "another"},
        {"artifact_digest": "0" * 64},
        {"artifact_digest": None},
        {"schema_version": 2},
        {"schema_version": "1"},
        {"schema_version": True},
        {"settings": None},
        {"settings": {"threads": 1.5}},
        {"artifact": ".."},
        {"artifact": "golden"},
        {"requires": None},
        {"requires": {**HERE, "isa": "avx2"}},
        {"requires": {**HERE, "isa": [1]}},
        {"requires": {**HERE, "runtime": None}},
        {"requires": {**HERE, "memory_bytes": -1}},
        {"requires": {**HERE, "facts": []}},
        {"requires": {**HERE, "architecture": "riscv64"}},
        {"latency": {"point_ms": "fast"}},
        {"latency": {"point_ms": 1.0, "low_ms": -1}},
        {"latency": {"point_ms": 1.0, "high_ms": 1e308}},
        {"project": "a/b"},
        {"version": "1 0"},
    ],
)
def test_a_release_that_says_nonsense_or_is_of_another_target_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    maker = Maker({"pi": (tiny_files(), release())})
    folder = maker.make(tmp_path / "bundle")
    replaced(folder, "release.json", canonical_json(release(artifact_digest=NO_FIELDS)).encode())
    Bundle(folder)
    replaced(folder, "release.json", canonical_json(release(**{"artifact_digest": NO_FIELDS, **change})).encode())
    refused(folder, "release.json|manifest of target")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\\b", "a\nsigned", "a\x1b[2J", "a\u202eb", "d" * 201])
def test_a_name_that_is_no_plain_one_is_refused(tmp_path: Path, name: str) -> None:
    for field in ("project", "target", "version"):
        said = release(**{field: name})
        folder = Maker({said["target"]: (tiny_files(), said)}).make(tmp_path / field)
        refused(folder, "wrong (title|target|version|annotations|targets)")


@pytest.mark.parametrize("version", ["-1", ".1", "1 0", "1+2", "1/2", "é1", "1" * 65])
def test_a_version_that_no_registry_takes_is_refused(tmp_path: Path, version: str) -> None:
    refused(tiny(tmp_path / "bundle", targets={"pi": (tiny_files(), release(version=version))}), "wrong version")


@pytest.mark.parametrize(
    "artifact", [b'{"a":1,"sha256":"0"}', b'{"a":NaN}', b'{"a":"\\ud800"}', b"[]", b"", b'{"a":' + b"[" * 100_000]
)
def test_an_artifact_that_its_own_seal_denies_is_refused(tmp_path: Path, artifact: bytes) -> None:
    folder = tiny(tmp_path / "bundle")
    replaced(folder, "artifact/artifact.json", artifact)
    refused(folder, "artifact.json is not what was written")


def test_the_digest_of_an_artifact_is_the_one_that_edgebuild_gives(real: Mapping[str, bytes], tmp_path: Path) -> None:
    data = real["artifact/artifact.json"]
    (tmp_path / "artifact.json").write_bytes(data)
    assert artifact_digest(data) == read_artifact(tmp_path).digest()


def replaced(folder: Path, path: str, data: bytes) -> None:
    """Put another content under a path of the only target, with all digests up to the index of the layout."""
    index = json.loads((folder / "index.json").read_bytes())
    blobs = folder / "blobs" / "sha256"
    top = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    manifest = json.loads((blobs / top["manifests"][0]["digest"][7:]).read_bytes())
    (layer,) = (each for each in manifest["layers"] if each["annotations"]["org.cncf.model.filepath"] == path)
    for descriptor, value in ((layer, None), (top["manifests"][0], manifest), (index["manifests"][0], top)):
        content = data if value is None else canonical_json(value).encode()
        (blobs / descriptor["digest"][7:]).unlink(missing_ok=True)
        descriptor.update(digest=f"sha256:{digest_bytes(content)}", size=len(content))
        (blobs / digest_bytes(content)).write_bytes(content)
    (folder / "index.json").write_text(canonical_json(index))


def test_what_replaces_can_also_put_the_same_there(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "bundle")
    replaced(folder, "release.json", canonical_json(release(candidate="other", artifact_digest=NO_FIELDS)).encode())
    assert Bundle(folder).targets["pi"].release["candidate"] == "other"


def test_a_target_under_another_name_or_platform_is_refused(bundle: Path, tmp_path: Path) -> None:
    index = Maker(
        {"pi": (tiny_files(), release())},
        index=lambda index: index.model_copy(
            update={
                "manifests": (index.manifests[0].model_copy(update={"annotations": {"dev.edgebuild.target": "x"}}),)
            }
        ),
    )
    refused(index.make(tmp_path / "renamed"), "wrong project, version or target")
    bare = Maker(
        {"pi": (tiny_files(), release())},
        index=lambda index: index.model_copy(
            update={"manifests": (index.manifests[0].model_copy(update={"platform": None}),)}
        ),
    )
    refused(bare.make(tmp_path / "bare"), "wrong platform")


@pytest.mark.parametrize("chosen", [1, 2])
def test_a_signature_of_something_else_is_refused(bundle: Path, chosen: int) -> None:
    rewritten(bundle, lambda value: value["subject"].update(digest=f"sha256:{'1' * 64}"), chosen)
    refused(bundle, "wrong subject")


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 500_000 + b"1" + b"}" * 500_000,
        b'{"a":1,"a":1}',
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1.0e1}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 1_000_000 + b"}",
        b'{"a":"\\u0061"}',
        b'{"a":"\\ud800"}',
        b"\xff",
        b"[]",
        b"1",
        b"",
        b" " * (9 << 20),
    ],
    ids=range(16),
)
def test_json_of_another_form_is_refused_quickly(data: bytes) -> None:
    with pytest.raises(Problem, match="It is not what was written"):
        load_json(data, "It")


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_deep_or_strange_json_in_place_of_the_first_files(bundle: Path, name: str) -> None:
    for data in (b"[" * 100_000, b"{}", b"\x00" * 100, b'{"imageLayoutVersion":"1.0.1"}'):
        (bundle / name).write_bytes(data)
        refused(bundle, name)
