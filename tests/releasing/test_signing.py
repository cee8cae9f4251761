"""Bundles are signed by several, again and again, and a kill in between leaves them whole."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.errors import ReleaseError, UsageError
from edgebuild.execution import disk
from edgebuild.releasing import signing
from edgebuild.releasing.dsse import BUNDLE_TYPE, parse_bundle
from edgebuild.releasing.layout import MANIFEST_TYPE
from edgebuild.releasing.referrers import read_signed
from edgebuild.releasing.signing import sign
from edgebuild.releasing.verifying import verify
from tests.releasing.bundles import PROVENANCE, make_bundle, write_key

if TYPE_CHECKING:
    from pathlib import Path


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_signature_is_a_referrer_as_the_decision_says(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    before = _tree(bundle)
    unsigned = json.loads(before["index.json"])["manifests"]
    key = write_key(tmp_path / "team.key")
    done = sign(bundle, key, provenance=PROVENANCE)
    assert (done.name, done.targets, done.replaced) == ("doors:1.4.0", ("jetson", "pi5"), 0)
    assert (done.hint, f"sha256:{done.index_digest}") == (key.public.hint, unsigned[0]["digest"])
    after = _tree(bundle)
    assert {path: data for path, data in after.items() if path in before and path != "index.json"} == {
        path: data for path, data in before.items() if path != "index.json"
    }
    listed = json.loads(after["index.json"])["manifests"]
    assert listed[0] == unsigned[0]
    assert [each["digest"] for each in listed[1:]] == sorted(each["digest"] for each in listed[1:])
    subjects = []
    for each in listed[1:]:
        assert set(each) == {"mediaType", "digest", "size", "artifactType"}
        assert (each["mediaType"], each["artifactType"]) == (MANIFEST_TYPE, BUNDLE_TYPE)
        manifest = json.loads(after[f"blobs/sha256/{each['digest'][7:]}"])
        assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
        assert after[f"blobs/sha256/{manifest['config']['digest'][7:]}"] == b"{}"
        assert [layer["mediaType"] for layer in manifest["layers"]] == [BUNDLE_TYPE]
        subjects.append(manifest["subject"]["digest"])
    targets = json.loads(after[f"blobs/sha256/{unsigned[0]['digest'][7:]}"])["manifests"]
    assert sorted(subjects) == sorted([unsigned[0]["digest"], *(each["digest"] for each in targets)])


def test_equal_bundles_signed_by_one_key_are_equal(tmp_path: Path) -> None:
    key = write_key(tmp_path / "team.key")
    trees = []
    for name in ("one", "two"):
        sign(make_bundle(tmp_path / name), key, provenance=PROVENANCE)
        trees.append(_tree(tmp_path / name))
    assert trees[0] == trees[1]


def test_another_key_adds_and_the_same_replaces(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    alice, bob = (write_key(tmp_path / f"{name}.key", "Ed25519") for name in ("alice", "bob"))
    sign(bundle, alice, provenance=PROVENANCE)
    assert sign(bundle, bob, provenance=PROVENANCE).replaced == 0
    both = _tree(bundle)
    assert sign(bundle, alice, provenance=PROVENANCE).replaced == 3
    assert _tree(bundle) == both
    assert sign(bundle, alice, provenance={"runDetails": {"builder": {"id": "again"}}}).replaced == 3
    verified = verify(bundle, keys=[alice.public])
    assert [each.provenance for each in verified.signatures if each.provenance] == [
        {"runDetails": {"builder": {"id": "again"}}}
    ]
    assert len(verified.signatures) == 6
    assert len(_tree(bundle)) == len(both), "what gave way is removed"


def test_a_provenance_that_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    before = _tree(bundle)
    key = write_key(tmp_path / "team.key")
    endless: dict[str, Any] = {}
    endless["itself"] = endless
    for provenance in ({"a": float("nan")}, {"a": {1, 2}}, {"a": "\ud800"}, endless):
        with pytest.raises(UsageError, match="The provenance is no plain JSON"):
            sign(bundle, key, provenance=provenance)
    with pytest.raises(ReleaseError, match="would be read by nobody"):
        sign(bundle, key, provenance={"a": "b" * (7 << 20)})
    assert _tree(bundle) == before


def test_what_is_no_bundle_isnt_signed(tmp_path: Path) -> None:
    key = write_key(tmp_path / "team.key")
    for folder in (tmp_path / "absent", tmp_path / "team.key", tmp_path):
        with pytest.raises(ReleaseError, match="is no bundle"):
            sign(folder, key, provenance=PROVENANCE)
    assert {path.name for path in tmp_path.iterdir()} == {"team.key", "team.pub"}


def test_two_dont_sign_at_once(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    handle = os.open(bundle, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ReleaseError, match="is being changed by another process"):
        sign(bundle, write_key(tmp_path / "team.key"), provenance=PROVENANCE)
    os.close(handle)


def test_nothing_is_written_through_links(tmp_path: Path) -> None:
    key = write_key(tmp_path / "team.key")
    twin = make_bundle(tmp_path / "twin")
    sign(twin, key, provenance=PROVENANCE)
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    bundle = make_bundle(tmp_path / "bundle")
    for path in (twin / "blobs/sha256").iterdir():
        if not (bundle / "blobs/sha256" / path.name).exists():
            (bundle / "blobs/sha256" / path.name).symlink_to(outside)
    (bundle / ".index.json.new").symlink_to(outside)
    sign(bundle, key, provenance=PROVENANCE)
    assert outside.read_bytes() == b"mine"

    moved = tmp_path / "moved"
    (bundle / "blobs").rename(moved)
    (bundle / "blobs").symlink_to(moved)
    before = _tree(moved)
    with pytest.raises(ReleaseError, match="is a link or no folder"):
        sign(bundle, write_key(tmp_path / "bob.key"), provenance=PROVENANCE)
    assert _tree(moved) == before


def test_a_folder_that_takes_no_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    before = _tree(bundle)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def nearly_full(folder: Path, data: bytes, *, durable: bool = True) -> Path:
        if next(calls) == 2:
            full()
        return write_staged(folder, data, durable=durable)

    calls, write_staged = itertools.count(), disk.write_staged
    for each in (full, nearly_full):
        monkeypatch.setattr(disk, "write_staged", each)
        with pytest.raises(ReleaseError, match=r"Nothing can be written into .*: No space left on device\.$"):
            sign(bundle, write_key(tmp_path / "team.key"), provenance=PROVENANCE)
        assert _tree(bundle) == before


_KILLED = """
import os, sys
from pathlib import Path
from edgebuild.releasing.keys import load_signing_key
from edgebuild.releasing.referrers import read_signed
from edgebuild.releasing.signing import sign
left = int(sys.argv[3])
def at(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove") and "{bundle}" in str(arguments[0]):
        left -= 1
        if left <= 0:
            os._exit(9)
sys.addaudithook(at)
sign(Path(sys.argv[1]), load_signing_key(Path(sys.argv[2])), provenance={{"second": True}})
"""


def _kills(folder: Path, every: int) -> int:
    """Kill signing when it opens, renames or removes a file of the bundle; return at how many such moments."""
    key = write_key(folder / "team.key")
    seen: set[bool] = set()
    for number in itertools.count():
        bundle = make_bundle(folder / f"bundle-{number}", ("pi5",))
        sign(bundle, key, provenance={"second": False})
        moment = str(1 + number * every)
        command = [sys.executable, "-c", _KILLED.format(bundle=bundle), str(bundle), str(folder / "team.key"), moment]
        code = subprocess.run(command, check=False, timeout=60).returncode
        found, signatures = read_signed(bundle)
        payloads = [parse_bundle(found.layout.read(each.blob)).payload for each in signatures]
        assert len(payloads) == 2
        seen |= {b'"second":true' in each for each in payloads if b"slsa" in each}
        sign(bundle, key, provenance=PROVENANCE)
        assert len(verify(bundle, keys=[key.public]).signatures) == 2, "signing again puts it right"
        if code == 0:
            break
        assert code == 9
    assert seen == {False, True}
    return number


def test_a_kill_leaves_the_old_signatures_or_the_new(tmp_path: Path) -> None:
    assert _kills(tmp_path, 9) > 2


@pytest.mark.proof
def test_a_kill_at_any_moment_leaves_the_old_signatures_or_the_new(tmp_path: Path) -> None:
    assert _kills(tmp_path, 1) > 30


def test_there_is_a_bound_on_signatures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    monkeypatch.setattr(signing, "MAX_SIGNATURES", 5)
    sign(bundle, write_key(tmp_path / "alice.key"), provenance=PROVENANCE)
    with pytest.raises(ReleaseError, match="5 is the most there may be"):
        sign(bundle, write_key(tmp_path / "bob.key"), provenance=PROVENANCE)
