"""A folder as a registry: what the tests of the callers use, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.layout import MANIFEST_TYPE, Layout
from edgebuild.releasing.pull import pull
from edgebuild.releasing.push import push
from edgebuild.releasing.registries.folder import MARKER, FolderRegistry
from edgebuild.releasing.registry import listed, promote
from tests.releasing.registries.bundles import add_signature, make_bundle, sbom, tree

if TYPE_CHECKING:
    from pathlib import Path


def bundle(folder: Path, version: str, runtime: str = "1.32.0") -> Path:
    files = {"pi": {"artifact/model.bin": version.encode() * 9000, "sbom.cdx.json": sbom(onnxruntime=runtime)}}
    make_bundle(folder, files, version=version, created=f"2026-01-01T00:00:0{version[-1]}Z")
    return folder


def test_releases_go_in_and_out(tmp_path: Path) -> None:
    share = f"{tmp_path}/share"
    for version in ("1.0", "1.1"):
        made = bundle(tmp_path / version, version)
        assert push(made, share).sent_bytes > 9000
        assert push(made, share).sent_bytes == 0
    old, new = listed(share)
    assert (old.version, old.tags, old.targets, old.signatures) == ("1.0", ("1.0",), ("pi",), 1)
    assert promote(f"{share}:1.0", "prod") == (old.digest, "")
    assert promote(f"{share}:1.1", "prod") == (new.digest, old.digest)
    pull(f"{share}:prod", tmp_path / "pulled", older=tmp_path / "1.0")
    assert tree(tmp_path / "pulled") == tree(tmp_path / "1.1")
    Layout(tmp_path / "share")
    with pytest.raises(ReleaseError, match="listed as another type"):
        push(tmp_path / "share", f"{tmp_path}/other")


def test_a_tag_that_moves_is_told_and_what_is_no_release_stays(tmp_path: Path) -> None:
    share = tmp_path / "share"
    old, new = (bundle(tmp_path / version, version) for version in ("1.0", "1.1"))
    first = push(old, f"{share}:prod")
    assert (first.before, push(old, f"{share}:prod").before) == ("", first.digest)
    assert push(new, f"{share}:prod").before == first.digest
    image = b'{"config":{},"schemaVersion":2}'
    FolderRegistry(str(share)).put_manifest("tool", image, MANIFEST_TYPE)
    with pytest.raises(ReleaseError, match="tool is something else than a release"):
        push(new, f"{share}:tool")
    with pytest.raises(ReleaseError, match="tool is something else than a release"):
        promote(f"{share}:prod", "tool")
    assert FolderRegistry(str(share)).manifest("tool") == image


def test_a_bundle_is_a_registry_of_one(tmp_path: Path) -> None:
    made = bundle(tmp_path / "made", "1.0")
    pull(f"{made}:1.0", tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(made)


def test_a_signature_comes_later(tmp_path: Path) -> None:
    made, share = bundle(tmp_path / "made", "1.0"), f"{tmp_path}/share"
    push(made, share)
    add_signature(made, "boss")
    push(made, share)
    assert [each.signatures for each in listed(share)] == [2]
    pull(f"{share}:1.0", tmp_path / "pulled")
    assert tree(tmp_path / "pulled") == tree(made)


def test_what_the_older_bundle_has_is_taken_and_checked(tmp_path: Path) -> None:
    share, made = f"{tmp_path}/share", bundle(tmp_path / "made", "1.0")
    push(made, share)
    older = bundle(tmp_path / "older", "1.0")
    for path in (older / "blobs" / "sha256").iterdir():
        if path.stat().st_size == 27_000:
            path.write_bytes(bytes(27_000))
            spoilt = path.name
    pulled = pull(f"{share}:1.0", tmp_path / "pulled", older=older)
    assert (pulled.fetched_bytes, pulled.taken_bytes > 0) == (27_000, True)
    assert tree(tmp_path / "pulled") == tree(made)
    assert (tmp_path / "pulled" / "blobs" / "sha256" / spoilt).stat().st_nlink == 1


def test_a_spoilt_share_is_found_when_pulled(tmp_path: Path) -> None:
    share, made = tmp_path / "share", bundle(tmp_path / "made", "1.0")
    push(made, str(share))
    whole = tree(share)
    assert whole.pop(MARKER) == b""
    for at, (name, data) in enumerate(whole.items()):
        path = share / name
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ReleaseError):
            pull(f"{share}:1.0", tmp_path / f"pulled-{at}")
        path.write_bytes(data)
    pull(f"{share}:1.0", tmp_path / "pulled")


def test_a_bundle_that_was_changed_isnt_pushed(tmp_path: Path) -> None:
    made, share = bundle(tmp_path / "made", "1.0"), tmp_path / "share"
    for at, path in enumerate((made / "blobs" / "sha256").iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ReleaseError):
            push(made, f"{share}-{at}")
        path.write_bytes(data)
        with pytest.raises(ReleaseError, match="holds no releases"):
            listed(f"{share}-{at}")
    push(made, f"{share}")


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    made = bundle(tmp_path / "made", "1.0")
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("kept")
    with pytest.raises(ReleaseError, match="isn't empty"):
        push(made, f"{home}")
    assert tree(home) == {"letter.txt": b"kept"}
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "oci-layout").write_bytes((made / "oci-layout").read_bytes())
    (tmp_path / "linked" / MARKER).write_bytes(b"")
    (tmp_path / "linked" / "blobs").symlink_to(home)
    with pytest.raises(ReleaseError, match="is a link"):
        push(made, f"{tmp_path}/linked")
    with pytest.raises(ReleaseError, match="can't be used"):
        push(made, f"{home}/letter.txt/x")
    with pytest.raises(ReleaseError, match="There is no release"):
        pull(f"{tmp_path}/nowhere:1", tmp_path / "pulled")
    assert not list(tmp_path.glob(".*"))


def test_two_pulls_into_one_folder_dont_meet(tmp_path: Path) -> None:
    from edgebuild.releasing.blobs import staged

    share, made = f"{tmp_path}/share", bundle(tmp_path / "made", "1.0")
    push(made, share)
    with staged(tmp_path / "pulled"), pytest.raises(ReleaseError, match="Another process"):
        pull(f"{share}:1.0", tmp_path / "pulled")
    (tmp_path / ".linked.part").symlink_to(tmp_path)
    with pytest.raises(ReleaseError, match="can't be used"):
        pull(f"{share}:1.0", tmp_path / "linked")


def test_progress_and_stopping_reach_the_caller(tmp_path: Path) -> None:
    from edgebuild.core.steps import NoProgress
    from edgebuild.errors import Interrupted

    class Counting(NoProgress):
        done = 0.0
        total = 0.0

        def task(self, title: str, total: float | None = None) -> Counting:
            del title
            self.total += total or 0
            return self

        def advance(self, amount: float = 1.0, note: str = "") -> None:
            del note
            self.done += amount

    made, share, counting = bundle(tmp_path / "made", "1.0"), f"{tmp_path}/share", Counting()
    push(made, share, progress=counting)
    pull(f"{share}:1.0", tmp_path / "pulled", progress=counting)
    assert counting.done == counting.total > 50_000

    def stop() -> None:
        raise Interrupted("Stopped.")

    with pytest.raises(Interrupted):
        pull(f"{share}:1.0", tmp_path / "stopped", check=stop)
    with pytest.raises(Interrupted):
        push(made, f"{tmp_path}/other", check=stop)


def test_what_makes_no_sense_is_said(tmp_path: Path) -> None:
    made = bundle(tmp_path / "made", "1.0")
    with pytest.raises(UsageError, match="names a digest"):
        push(made, f"r/a@sha256:{0:064x}")
    with pytest.raises(UsageError, match="no release in it"):
        pull(f"{made}", tmp_path / "x")
    with pytest.raises(UsageError, match="can't be a tag"):
        promote(f"{made}:1.0", "-x")
    odd = bundle(tmp_path / "odd", "1.0+local1")
    with pytest.raises(ReleaseError, match="as no release does"):
        push(odd, f"{tmp_path}/share")


def test_a_release_is_never_taken_for_a_folder_of_them(tmp_path: Path) -> None:
    made, other = bundle(tmp_path / "made", "1.0"), bundle(tmp_path / "other", "2.0")
    before = tree(other)
    with pytest.raises(ReleaseError, match="is never written into"):
        push(made, f"{other}")
    with pytest.raises(ReleaseError, match="is never written into"):
        promote(f"{other}:2.0", "prod")
    assert tree(other) == before
