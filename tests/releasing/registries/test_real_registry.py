"""Bundles through Debian's docker-registry, read by skopeo, over wires that break."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edgebuild.core.values import digest_bytes
from edgebuild.errors import ReleaseError
from edgebuild.releasing.layout import SHA256, Layout
from edgebuild.releasing.pull import pull
from edgebuild.releasing.push import push
from edgebuild.releasing.registries.http import Unavailable
from edgebuild.releasing.registry import listed, promote
from tests import needs
from tests.releasing.registries.bundles import add_signature, make_bundle, sbom, tree
from tests.releasing.registries.servers import RealRegistry, Wire, client, real_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs.marked(needs.program("docker-registry", "docker-registry"))
SKOPEO = needs.program("skopeo", "skopeo")
#: More than the buffers of a connection on loopback hold, so that a cut one is noticed in the middle.
LARGE = 12 << 20
#: Bcrypt's of the password below.
HASH = "$2b$05$abcdefghijklmnopqrstuuEpHRRKIlpAGo.iP7Bpa.htQEJMAAnRe"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def repository(registry: RealRegistry, tmp_path: Path) -> str:
    """A repository for one test alone."""
    return f"{registry.host}/team/{tmp_path.name.replace('_', '-').lower()}"


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def bundle(folder: Path, seed: int = 0, large: int = 200_000, **fields: str) -> Path:
    make_bundle(
        folder,
        {
            "nano": {"artifact/model.bin": noise(seed, large), "sbom.cdx.json": sbom(onnxruntime="1.32.0")},
            "pi": {"artifact/model.bin": noise(1, 100_000), "sbom.cdx.json": sbom(onnxruntime="1.32.0")},
        },
        **fields,  # type: ignore[arg-type]
    )
    return folder


def skopeo(*arguments: str) -> bytes:
    return subprocess.run(["skopeo", *arguments], check=True, capture_output=True).stdout


def test_what_is_pulled_is_what_was_pushed(repository: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "made")
    pushed = push(made, repository)
    pulled = pull(f"{repository}:1.4.0", tmp_path / "pulled")
    assert (pushed.tag, pushed.signatures) == ("1.4.0", 2)
    assert tree(tmp_path / "pulled") == tree(made)
    assert (pulled.digest, pulled.version, pulled.signatures, pulled.left_out) == (pushed.digest, "1.4.0", 2, 0)
    by_digest = pull(f"{repository}@{pushed.digest}", tmp_path / "by-digest")
    assert by_digest == pulled
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@needs.marked(SKOPEO)
def test_skopeo_reads_what_was_pushed(repository: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "made")
    pushed = push(made, repository)
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{repository}:1.4.0")
    assert SHA256 + digest_bytes(raw) == pushed.digest
    index = json.loads(raw)
    assert [each["annotations"]["dev.edgebuild.target"] for each in index["manifests"]] == ["nano", "pi"]
    target = index["manifests"][0]["digest"]
    manifest = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{repository}@{target}"))
    assert manifest["layers"][0]["annotations"]["org.cncf.model.filepath"] == "artifact/model.bin"
    copied = f"dir:{tmp_path}/copied"
    skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{repository}:1.4.0", copied)
    weights = Layout(made).index
    names = {path.name for path in (tmp_path / "copied").iterdir()}
    assert {each["digest"].removeprefix(SHA256) for each in manifest["layers"]} <= names
    assert weights.manifests[0].digest == pushed.digest


@needs.marked(SKOPEO, needs.program("umoci", "umoci"))
def test_a_folder_is_read_by_others_and_an_index_that_they_rewrote_is_refused(repository: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "made")
    digest = push(made, f"{tmp_path}/share").digest
    assert subprocess.check_output(["umoci", "ls", "--layout", str(tmp_path / "share")], text=True) == "1.4.0\n"
    assert SHA256 + digest_bytes(skopeo("inspect", "--raw", f"oci:{tmp_path}/share:1.4.0")) == digest
    # skopeo drops what it doesn't know from an index, and with it goes what was signed.
    skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{tmp_path}/share:1.4.0", f"docker://{repository}:1.4.0")
    with pytest.raises(ReleaseError, match="no part of a release"):
        pull(f"{repository}:1.4.0", tmp_path / "pulled")
    assert push(made, repository, replace=True).sent_bytes < 1000


def test_a_second_push_sends_no_blob(registry: RealRegistry, repository: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "made")
    first = push(made, repository)
    before = len(registry.requests())
    wire = Wire(registry.host)
    second = push(made, repository.replace(registry.host, wire.host))
    wire.close()
    assert (second.sent_bytes, second.there_bytes) == (0, first.sent_bytes)
    asked = registry.requests()[before:]
    assert {method for method, path in asked if "/blobs/" in path} == {"HEAD"}
    assert not [path for method, path in asked if method in ("POST", "PATCH")]
    assert wire.up < 40_000  # heads and manifests; the blobs have 300 kB


def test_the_next_release_sends_what_changed(repository: str, tmp_path: Path) -> None:
    push(bundle(tmp_path / "old"), repository)
    new = push(bundle(tmp_path / "new", seed=9, version="1.5.0"), repository)
    assert 200_000 <= new.sent_bytes < 205_000
    pulled = pull(f"{repository}:1.5.0", tmp_path / "pulled", older=tmp_path / "old")
    assert pulled.fetched_bytes == new.sent_bytes
    assert pulled.taken_bytes == new.there_bytes
    assert tree(tmp_path / "pulled") == tree(tmp_path / "new")


def test_the_tag_comes_last_and_manifests_after_their_blobs(
    registry: RealRegistry, repository: str, tmp_path: Path
) -> None:
    before = len(registry.requests())
    digest = push(bundle(tmp_path / "made"), repository).digest
    asked = [(method, path) for method, path in registry.requests()[before:] if method != "HEAD"]
    puts = [path.rpartition("/")[2] for method, path in asked if method == "PUT" and "/manifests/" in path]
    assert puts[-1] == "1.4.0"
    assert puts[2] == digest
    last_blob = max(at for at, (_, path) in enumerate(asked) if "/blobs/" in path)
    assert last_blob < min(at for at, (method, path) in enumerate(asked) if method == "PUT" and "/manifests/" in path)


def test_a_connection_that_breaks_once_is_taken_up_again(
    registry: RealRegistry, repository: str, tmp_path: Path
) -> None:
    made = bundle(tmp_path / "made", large=LARGE)
    wire = Wire(registry.host)
    name = repository.replace(registry.host, wire.host)
    wire.cut_up = 5 << 20
    pushed = push(made, name, registry=client(wire.host, name.partition("/")[2]))
    assert wire.reached.is_set()
    wire.cut_down = wire.down + (5 << 20)
    begun = wire.down
    pulled = pull(f"{name}:1.4.0", tmp_path / "pulled", registry=client(wire.host, name.partition("/")[2]))
    wire.close()
    assert pulled.digest == pushed.digest
    assert tree(tmp_path / "pulled") == tree(made)
    assert wire.down - begun < LARGE + (2 << 20)  # the part that had come didn't come again


def test_an_interrupted_push_goes_on(registry: RealRegistry, repository: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "made", large=LARGE)
    wire = Wire(registry.host)
    wire.cut_up, wire.dead_when_cut = 5 << 20, True
    name = repository.replace(registry.host, wire.host)
    with pytest.raises(Unavailable, match="broke off"):
        push(made, name, registry=client(wire.host, name.partition("/")[2]))
    wire.close()
    with pytest.raises(ReleaseError, match="There is no release"):
        pull(f"{repository}:1.4.0", tmp_path / "pulled")
    again = push(made, repository)
    assert again.there_bytes > 0
    pull(f"{repository}:1.4.0", tmp_path / "pulled")
    assert tree(tmp_path / "pulled") == tree(made)


def test_a_killed_pull_goes_on_within_the_blob(registry: RealRegistry, repository: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "made", large=LARGE)
    push(made, repository)
    wire = Wire(registry.host)
    wire.cut_down, wire.stall_when_cut = 7 << 20, True
    name = repository.replace(registry.host, wire.host)
    code = f"import pathlib; from edgebuild.releasing.pull import pull; pull('{name}:1.4.0', pathlib.Path('pulled'))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    assert wire.reached.wait(60)
    partial = tmp_path / ".pulled.part" / "partial"
    while not any(path.stat().st_size >= 3 << 20 for path in partial.glob("*")):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    wire.close()
    assert not (tmp_path / "pulled").exists()
    pulled = pull(f"{repository}:1.4.0", tmp_path / "pulled")
    assert pulled.fetched_bytes <= LARGE + 100_000 - (3 << 20) + 10_000
    assert tree(tmp_path / "pulled") == tree(made)


def test_what_a_cut_of_power_spoilt_is_fetched_again(repository: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "made")
    push(made, repository)
    weights = digest_bytes(noise(0, 200_000))
    for place in ("blobs/sha256", "partial"):
        (tmp_path / ".pulled.part" / place).mkdir(parents=True)
    (tmp_path / ".pulled.part" / "partial" / weights).write_bytes(bytes(70_000))
    (tmp_path / ".pulled.part" / "blobs" / "sha256" / digest_bytes(noise(1, 100_000))).write_bytes(bytes(100_000))
    (tmp_path / ".pulled.part" / "blobs" / "sha256" / "of-another-release").write_bytes(b"x")
    pull(f"{repository}:1.4.0", tmp_path / "pulled")
    assert tree(tmp_path / "pulled") == tree(made)


def test_signatures_are_found_by_the_fallback_tag_and_added_later(repository: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "made")
    digest = push(made, repository).digest
    assert [each.signatures for each in listed(repository)] == [1]
    add_signature(made, "boss")
    again = push(made, repository)
    assert (again.digest, again.signatures) == (digest, 3)
    assert again.sent_bytes < 500
    (found,) = listed(repository)
    assert (found.signatures, found.tags, found.targets) == (2, ("1.4.0",), ("nano", "pi"))
    pull(f"{repository}:1.4.0", tmp_path / "pulled")
    assert tree(tmp_path / "pulled") == tree(made)


def test_a_tag_is_promoted_without_a_blob_and_a_version_stays(
    registry: RealRegistry, repository: str, tmp_path: Path
) -> None:
    old = push(bundle(tmp_path / "old", created="2026-01-01T00:00:00Z"), repository)
    new = push(bundle(tmp_path / "new", seed=5, version="1.5.0"), repository)
    before = len(registry.requests())
    assert promote(f"{repository}:1.4.0", "prod") == (old.digest, "")
    assert promote(f"{repository}:1.5.0", "prod") == (new.digest, old.digest)
    assert not [path for _, path in registry.requests()[before:] if "/blobs/" in path]
    assert [(each.version, each.tags) for each in listed(repository)] == [
        ("1.4.0", ("1.4.0",)),
        ("1.5.0", ("1.5.0", "prod")),
    ]
    with pytest.raises(ReleaseError, match="another release already"):
        promote(f"{repository}:1.5.0", "1.4.0")
    other = bundle(tmp_path / "other", seed=6)
    with pytest.raises(ReleaseError, match="another release already"):
        push(other, repository)
    replaced = push(other, repository, replace=True)
    assert pull(f"{repository}:1.4.0", tmp_path / "pulled").digest == replaced.digest


def test_what_isnt_there_is_said(repository: str, registry: RealRegistry, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="There is no release"):
        pull(f"{repository}:9", tmp_path / "pulled")
    with pytest.raises(ReleaseError, match="holds no releases"):
        listed(repository)
    (tmp_path / "there").mkdir()
    with pytest.raises(ReleaseError, match="exists already"):
        pull(f"{repository}:9", tmp_path / "there")


def test_a_registry_with_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users").write_text(f"ann:{HASH}\n")
    auth = f"auth: {{htpasswd: {{realm: here, path: {tmp_path}/users}}}}"
    made = bundle(tmp_path / "made")
    with real_registry(tmp_path / "registry", auth) as found:
        with pytest.raises(ReleaseError, match="asks for credentials"):
            push(made, f"{found.host}/doors")
        monkeypatch.setenv("EDGEBUILD_REGISTRY_USER", "ann")
        monkeypatch.setenv("EDGEBUILD_REGISTRY_PASSWORD", "wrong-word")
        with pytest.raises(ReleaseError, match="doesn't take these credentials") as caught:
            push(made, f"{found.host}/doors")
        assert "wrong-word" not in f"{caught.value!r} {caught.value.hint}"
        monkeypatch.setenv("EDGEBUILD_REGISTRY_PASSWORD", "s3cret-word")
        push(made, f"{found.host}/doors")
        pull(f"{found.host}/doors:1.4.0", tmp_path / "pulled")
    assert tree(tmp_path / "pulled") == tree(made)
