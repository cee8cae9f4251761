"""Deltas beside their releases: pulled instead of what they make, where they are smaller and fit what is here."""

from __future__ import annotations

import io
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.values import canonical_json, digest_bytes
from edgebuild.errors import EnvironmentGap, ReleaseError, UsageError
from edgebuild.releasing import delta_plan
from edgebuild.releasing.delta import delta
from edgebuild.releasing.delta_travel import DELTA_TYPE, push_delta
from edgebuild.releasing.layout import MANIFEST_TYPE, Descriptor, Layout, Manifest, descriptor_of, oci_bytes
from edgebuild.releasing.pull import pull
from edgebuild.releasing.push import push
from edgebuild.releasing.registries.folder import FolderRegistry
from edgebuild.releasing.registry import listed
from tests import needs
from tests.releasing.registries.bundles import make_bundle, sbom, tree
from tests.releasing.registries.servers import Wire, real_registry

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 200_000
OLD = random.Random(1).randbytes(SIZE)
NEW = OLD[:50_000] + random.Random(2).randbytes(3_000) + OLD[53_000:]
BLOB = digest_bytes(NEW)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "old", {"pi": {"artifact/model.bin": OLD, "sbom.cdx.json": sbom(onnxruntime="1")}})


@pytest.fixture
def new(tmp_path: Path) -> Path:
    files = {"artifact/model.bin": NEW, "sbom.cdx.json": sbom(onnxruntime="1")}
    return make_bundle(tmp_path / "new", {"pi": files}, version="1.5.0")


@pytest.fixture
def share(old: Path, new: Path, tmp_path: Path) -> str:
    """A folder of releases with the new one and its delta from the old one."""
    place = f"{tmp_path}/share"
    push(new, place)
    delta(old, new, tmp_path / "delta")
    push_delta(tmp_path / "delta", place)
    return place


def blob_of(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest


@needs.marked(needs.program("docker-registry", "docker-registry"))
def test_through_a_real_registry_the_delta_comes_instead_of_the_whole(old: Path, new: Path, tmp_path: Path) -> None:
    delta(old, new, tmp_path / "delta")
    with real_registry(tmp_path / "registry") as registry:
        place = f"{registry.host}/doors"
        with pytest.raises(ReleaseError, match="hasn't got the release that this delta makes"):
            push_delta(tmp_path / "delta", place)
        push(old, place)
        push(new, place)
        before = listed(place)
        sent = push_delta(tmp_path / "delta", place)
        assert 3_000 < sent.sent_bytes < 6_000
        assert push_delta(tmp_path / "delta", place).sent_bytes == 0
        assert listed(place) == before
        wire = Wire(registry.host)
        found = pull(f"{wire.host}/doors:1.5.0", tmp_path / "pulled", older=old)
        wire.close()
    assert tree(tmp_path / "pulled") == tree(new)
    assert (found.patched_bytes, found.fetched_bytes < 10_000) == (SIZE, True)
    assert wire.down < 30_000  # manifests with their headers; the blob alone has 200 kB
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_is_installed_is_a_base_too(share: str, old: Path, new: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(old / "blobs", root / "blobs")  # as slots keep them
    found = pull(f"{share}:1.5.0", tmp_path / "pulled", older=root)
    assert (found.patched_bytes, tree(tmp_path / "pulled") == tree(new)) == (SIZE, True)


def test_without_what_it_is_a_delta_to_the_whole_comes(share: str, new: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", {"pi": {"artifact/model.bin": OLD[::-1]}}, version="1.3.0")
    for name, older in (("nothing", None), ("other", other)):
        found = pull(f"{share}:1.5.0", tmp_path / f"with-{name}", older=older)
        assert (found.patched_bytes, found.fetched_bytes >= SIZE) == (0, True)
        assert tree(tmp_path / f"with-{name}") == tree(new)


@pytest.mark.parametrize("harm", ["changed", "short", "empty", "link"])
def test_a_base_that_was_changed_is_found_by_what_comes_out(
    share: str, old: Path, new: Path, tmp_path: Path, harm: str
) -> None:
    base = blob_of(old, digest_bytes(OLD))
    if harm == "link":
        base.rename(tmp_path / "elsewhere")
        base.symlink_to(tmp_path / "elsewhere")
    else:
        base.write_bytes({"changed": OLD[::-1], "short": OLD[:1000], "empty": b""}[harm])
    found = pull(f"{share}:1.5.0", tmp_path / "pulled", older=old)
    assert (found.patched_bytes, found.fetched_bytes >= SIZE) == (0, True)
    assert tree(tmp_path / "pulled") == tree(new)


def test_a_patch_that_was_spoilt_or_lost_there_is_not_needed(share: str, old: Path, new: Path, tmp_path: Path) -> None:
    (patch,) = (tmp_path / "delta" / "patches").iterdir()
    there = blob_of(tmp_path / "share", digest_bytes(patch.read_bytes()))
    there.write_bytes(patch.read_bytes()[:-1] + b"!")
    found = pull(f"{share}:1.5.0", tmp_path / "spoilt", older=old)
    assert (found.patched_bytes, tree(tmp_path / "spoilt") == tree(new)) == (0, True)
    there.unlink()
    pull(f"{share}:1.5.0", tmp_path / "lost", older=old)
    assert tree(tmp_path / "lost") == tree(new)


def hostile(share: str, new: Path, delta_folder: Path, change: Any) -> None:
    """Attach another delta whose plan and manifest ``change`` has changed, everything else being right."""
    registry = FolderRegistry(share)
    plan = delta_plan.read_plan(delta_folder)
    release = Layout(new).index.manifests[0]
    (path,) = (delta_folder / "patches").iterdir()
    patch = Descriptor(mediaType="application/zstd", digest=f"sha256:{digest_bytes(path.read_bytes())}", size=0)
    patch = patch.model_copy(update={"size": path.stat().st_size})
    subject = Descriptor(mediaType=release.mediaType, digest=release.digest, size=release.size)
    text, patch = change(plan, patch)
    config = descriptor_of(text, DELTA_TYPE)
    registry.put_blob(config, lambda: io.BytesIO(text), lambda _: None)
    data = oci_bytes(Manifest(artifactType=DELTA_TYPE, config=config, layers=(patch,), subject=subject))
    registry.attach(descriptor_of(data, MANIFEST_TYPE, artifactType=DELTA_TYPE), data, release.digest)


def other_blob(plan: delta_plan.Plan, patch: Descriptor) -> tuple[bytes, Descriptor]:
    """A plan that has the patch make something else."""
    changed = [each.model_copy(update={"size": SIZE - 1} if each.how == "patch" else {}) for each in plan.blobs]
    return plan.model_copy(update={"blobs": tuple(changed)}).text(), patch


def other_release(plan: delta_plan.Plan, patch: Descriptor) -> tuple[bytes, Descriptor]:
    return plan.model_copy(update={"end": plan.start}).text(), patch


def no_plan(plan: delta_plan.Plan, patch: Descriptor) -> tuple[bytes, Descriptor]:
    return canonical_json({"blobs": [], "end": "../..", "start": 1}).encode(), patch


def larger(plan: delta_plan.Plan, patch: Descriptor) -> tuple[bytes, Descriptor]:
    return plan.text(), patch.model_copy(update={"size": patch.size + 1})


def a_file_of_the_release(plan: delta_plan.Plan, patch: Descriptor) -> tuple[bytes, Descriptor]:
    """A plan whose patch is called like a file that the release needs, and would be thrown away after use."""
    small = min((each for each in plan.blobs if each.how != "patch" and each.size), key=lambda each: each.size)
    changed = [each.model_copy(update={"frames": (small.size,)} if each.how == "patch" else {}) for each in plan.blobs]
    said = plan.model_copy(update={"blobs": tuple(changed)})
    return said.text(), patch.model_copy(update={"digest": small.digest, "size": small.size})


@pytest.mark.parametrize("change", [other_blob, other_release, no_plan, larger, a_file_of_the_release])
def test_deltas_that_were_made_up_do_no_harm(old: Path, new: Path, tmp_path: Path, change: Any) -> None:
    share = f"{tmp_path}/share"
    push(new, share)
    delta(old, new, tmp_path / "delta")
    hostile(share, new, tmp_path / "delta", change)
    found = pull(f"{share}:1.5.0", tmp_path / "pulled", older=old)
    assert (found.patched_bytes, tree(tmp_path / "pulled") == tree(new)) == (0, True)


def test_a_delta_goes_to_its_repository_and_nothing_of_it_may_be_changed(share: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a delta belongs to the one it makes"):
        push_delta(tmp_path / "delta", f"{share}:1.5.0")
    (patch,) = (tmp_path / "delta" / "patches").iterdir()
    patch.write_bytes(patch.read_bytes() + b"x")
    with pytest.raises(ReleaseError, match="aren't those of its plan"):
        push_delta(tmp_path / "delta", share)
    patch.unlink()
    with pytest.raises(ReleaseError, match="can't be used"):
        push_delta(tmp_path / "delta", share)


def test_without_zstd_the_whole_comes(
    share: str, old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise EnvironmentGap("Deltas need zstd.")

    monkeypatch.setattr("edgebuild.releasing.delta_travel.require_zstd", missing)
    assert pull(f"{share}:1.5.0", tmp_path / "pulled", older=old).patched_bytes == 0
    assert tree(tmp_path / "pulled") == tree(new)
