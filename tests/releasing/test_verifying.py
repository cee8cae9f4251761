"""What is verified of a bundle, what counts, and that whatever is wrong is found and said."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.bundle import Bundle, read_bundle
from edgebuild.releasing.dsse import Statement
from edgebuild.releasing.layout import VERSION_NAME, Index, oci_bytes, write_index
from edgebuild.releasing.model_signing import model_statement
from edgebuild.releasing.provenance import PREDICATE_TYPE
from edgebuild.releasing.referrers import digests_of, release_name
from edgebuild.releasing.signing import sign
from edgebuild.releasing.trust import Policy, Signer
from edgebuild.releasing.verifying import verify
from tests.releasing.bundles import PROVENANCE, attach, make_bundle, signed, write_key

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.releasing.keys import SigningKey


class Team:
    """Three people with a key each."""

    def __init__(self, folder: Path) -> None:
        self.alice, self.bob, self.carol = (
            write_key(folder / f"{name}.key", kind)
            for name, kind in (("alice", "P-256"), ("bob", "Ed25519"), ("carol", "P-384"))
        )

    def policy(self, threshold: int = 1, **signers: dict[str, Any]) -> Policy:
        """Return a policy of those named, with what is said of them."""
        listed = tuple(
            Signer(name=name, public_key=getattr(self, name).public.pem, **fields) for name, fields in signers.items()
        )
        return Policy(schema_version=1, threshold=threshold, signers=listed)


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


@pytest.fixture
def bundle(tmp_path: Path, team: Team) -> Path:
    """A bundle that alice signed."""
    folder = make_bundle(tmp_path / "bundle")
    sign(folder, team.alice, provenance=PROVENANCE)
    return folder


def _index_statement(release: Bundle, **fields: Any) -> Statement:
    whole = {"name": release_name(release), "sha256": release.descriptor.sha256, "predicate_type": PREDICATE_TYPE}
    return Statement(**{**whole, "predicate": PROVENANCE, **fields})


def test_what_was_verified_is_said(bundle: Path, team: Team) -> None:
    verified = verify(bundle, policy=team.policy(alice={}, bob={}))
    assert (verified.project, verified.version, verified.targets) == ("doors", "1.4.0", ("jetson", "pi5"))
    assert verified.index_digest == read_bundle(bundle).descriptor.sha256
    assert {(each.kind, each.target, each.signer, each.counts_for) for each in verified.signatures} == {
        ("release index", None, "alice", ("jetson", "pi5")),
        ("model files", "jetson", "alice", ("jetson",)),
        ("model files", "pi5", "alice", ("pi5",)),
    }
    assert {each.hint for each in verified.signatures} == {team.alice.public.hint}
    assert [each.provenance for each in verified.signatures if each.kind == "release index"] == [PROVENANCE]
    assert verified.unverified == ("when it was signed: keys say who, and no log or timestamp was asked",)


def test_keys_will_do_without_a_policy(bundle: Path, team: Team) -> None:
    sign(bundle, team.bob, provenance=PROVENANCE)
    verified = verify(bundle, keys=[team.alice.public, team.carol.public])
    assert [each.signer for each in verified.signatures] == [None] * 6
    assert sum(each.counts for each in verified.signatures) == 3
    assert sum("by a key that isn't known" in each for each in verified.unverified) == 3
    for both in ({}, {"keys": [team.alice.public], "policy": team.policy(alice={})}):
        with pytest.raises(UsageError, match="by public keys or by a trust policy, one of the two"):
            verify(bundle, **both)  # type: ignore[arg-type]


def test_unsigned_is_refused(tmp_path: Path, team: Team) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(ReleaseError, match=r"^doors:1\.4\.0 isn't signed: no signature is over its index\.$"):
        verify(bundle, keys=[team.alice.public])
    release = read_bundle(bundle)
    for part in release.targets:
        statement = model_statement(part.release.target, digests_of(part))
        attach(bundle, signed(team.alice, statement), part.descriptor)
    with pytest.raises(ReleaseError, match="no signature is over its index"):
        verify(bundle, keys=[team.alice.public])


def test_an_unknown_signer_doesnt_count(bundle: Path, team: Team) -> None:
    with pytest.raises(ReleaseError, match=r"0 of 1 signers needed; .*: by a key that isn't known\.$"):
        verify(bundle, keys=[team.bob.public])


def test_a_revoked_key_doesnt_count_and_two_overlap_while_one_is_replaced(bundle: Path, team: Team) -> None:
    policy = team.policy(alice={"revoked": True}, bob={})
    with pytest.raises(ReleaseError, match=r"alice \(key [0-9a-f]{16}\) doesn't count: its key is revoked\.$"):
        verify(bundle, policy=policy)
    sign(bundle, team.bob, provenance=PROVENANCE)
    verified = verify(bundle, policy=policy)
    assert {(each.signer, each.counts) for each in verified.signatures} == {("alice", False), ("bob", True)}
    assert sum("its key is revoked" in each for each in verified.unverified) == 3


def test_a_threshold_counts_names_not_keys(bundle: Path, team: Team) -> None:
    sign(bundle, team.bob, provenance=PROVENANCE)
    assert verify(bundle, policy=team.policy(2, alice={}, bob={}, carol={}))
    with pytest.raises(ReleaseError, match="2 of 3 signers needed"):
        verify(bundle, policy=team.policy(3, alice={}, bob={}, carol={}))
    both = team.policy(2, alice={}, bob={}, carol={})
    one = both.model_copy(update={"signers": tuple(each.model_copy(update={"name": "alice"}) for each in both.signers)})
    with pytest.raises(ReleaseError, match="1 of 2 signers needed"):
        verify(bundle, policy=one)


def test_a_signer_counts_where_the_policy_lets_them(bundle: Path, team: Team) -> None:
    with pytest.raises(ReleaseError, match=r"target 'pi5': 0 of 1 .*alice .* doesn't let this signer sign for 'pi5'"):
        verify(bundle, policy=team.policy(alice={"targets": ("jetson",)}))
    with pytest.raises(ReleaseError, match="the policy doesn't let this signer sign it"):
        verify(bundle, policy=team.policy(alice={"projects": ("windows",)}))
    sign(bundle, team.bob, provenance=PROVENANCE)
    each_their_own = team.policy(alice={"targets": ("jetson",), "projects": ("doors",)}, bob={"targets": ("pi5",)})
    verified = verify(bundle, policy=each_their_own)
    assert {(each.kind, each.target, each.signer, each.counts_for) for each in verified.signatures} == {
        ("release index", None, "alice", ("jetson",)),
        ("release index", None, "bob", ("pi5",)),
        ("model files", "jetson", "alice", ("jetson",)),
        ("model files", "jetson", "bob", ()),
        ("model files", "pi5", "alice", ()),
        ("model files", "pi5", "bob", ("pi5",)),
    }


def test_a_wrong_signature_is_refused_whoever_else_signed(bundle: Path, team: Team) -> None:
    release = read_bundle(bundle)
    forged = signed(team.carol, _index_statement(release), hint=team.bob.public.hint)
    attach(bundle, forged, release.descriptor)
    with pytest.raises(
        ReleaseError,
        match=r"in the name of bob \(key [0-9a-f]{16}\) is wrong: another key made it, or it was",
    ):
        verify(bundle, policy=team.policy(alice={}, bob={}))
    with pytest.raises(ReleaseError, match=r"in the name of key [0-9a-f]{16} is wrong: another key made it, or it was"):
        verify(bundle, keys=[team.alice.public, team.bob.public])


def test_signatures_over_something_else_are_refused(bundle: Path, team: Team, tmp_path: Path) -> None:
    release = read_bundle(bundle)
    jetson, pi5 = release.targets
    index = release.descriptor
    whole = digests_of(pi5)
    cases = [
        (_index_statement(release, sha256="ab" * 32), index, "is over another release: 'doors:1.4.0', whose index"),
        (_index_statement(release, name="doors:1.5.0"), index, "is over another release: 'doors:1.5.0'"),
        (_index_statement(release, predicate_type="https://spdx.dev/Document"), index, "of the type 'https://spdx.dev"),
        (model_statement("pi5", whole), index, "of the type 'https://model_signing/signature"),
        (_index_statement(release), pi5.descriptor, "is of the type 'https://slsa.dev/provenance/v1', not https"),
        (
            model_statement("jetson", digests_of(jetson)),
            pi5.descriptor,
            "is of others: 'release.json' isn't what was signed",
        ),
        (model_statement("pi5", {**whole, "x": "ab" * 32}), pi5.descriptor, "'x' was signed, but isn't there"),
        (model_statement("pi5", {"artifact.json": whole.pop("artifact.json")}), pi5.descriptor, "wasn't signed"),
    ]
    for number, (statement, subject, match) in enumerate(cases):
        copy = shutil.copytree(bundle, tmp_path / str(number))
        attach(copy, signed(team.alice, statement), subject)
        with pytest.raises(ReleaseError, match=match):
            verify(copy, keys=[team.alice.public])


def test_signatures_of_another_release_dont_come_along(bundle: Path, team: Team, tmp_path: Path) -> None:
    newer = make_bundle(tmp_path / "newer", files={"artifact.json": b"worse"}, version="1.5.0")
    shutil.copytree(bundle / "blobs", newer / "blobs", dirs_exist_ok=True)
    theirs = read_bundle(bundle)
    write_index(newer, [read_bundle(newer).descriptor, *(descriptor for descriptor, _ in theirs.signatures)])
    with pytest.raises(ReleaseError, match="is of something that isn't in this bundle"):
        verify(newer, keys=[team.alice.public])
    write_index(newer, [read_bundle(bundle).descriptor])
    with pytest.raises(ReleaseError, match="isn't signed"):
        verify(newer, keys=[team.alice.public])


def test_a_signature_that_names_no_key_is_tried_with_those_that_are_known(tmp_path: Path, team: Team) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    release = read_bundle(bundle)
    value = json.loads(signed(team.bob, _index_statement(release)))
    value["verificationMaterial"] = {"publicKey": {"rawBytes": "TUZr"}}
    attach(bundle, json.dumps(value).encode(), release.descriptor)
    verified = verify(bundle, policy=team.policy(alice={}, bob={}))
    assert [(each.signer, each.hint) for each in verified.signatures] == [("bob", team.bob.public.hint)]
    with pytest.raises(ReleaseError, match=r"one signature \(no key named\) doesn't count: by a key that isn't known"):
        verify(bundle, policy=team.policy(alice={}))


def test_a_certificate_doesnt_count(bundle: Path, team: Team) -> None:
    release = read_bundle(bundle)
    value = json.loads(signed(team.bob, _index_statement(release)))
    value["verificationMaterial"] = {"x509CertificateChain": {"certificates": [{"rawBytes": "TUZr"}]}}
    attach(bundle, json.dumps(value).encode(), release.descriptor)
    verified = verify(bundle, keys=[team.alice.public])
    assert sum("by a certificate of no Sigstore's" in each for each in verified.unverified) == 1


def test_what_is_no_signature_is_refused(bundle: Path, team: Team) -> None:
    attach(bundle, b'{"mediaType":1}', read_bundle(bundle).descriptor)
    with pytest.raises(ReleaseError, match=r"The signature is no Sigstore bundle v0[.]3"):
        verify(bundle, keys=[team.alice.public])


def test_other_files_changed_and_missing_ones_are_found(bundle: Path, team: Team, tmp_path: Path) -> None:
    blobs = "blobs/sha256"
    some = read_bundle(bundle).targets[0].manifest.layers[0].sha256

    def refused(match: str, change: Any) -> None:
        copy = shutil.copytree(bundle, tmp_path / "copy")
        change(copy)
        with pytest.raises(ReleaseError, match=match):
            verify(copy, keys=[team.alice.public])
        shutil.rmtree(copy)

    refused("was changed", lambda copy: (copy / blobs / some).write_bytes(b"other"))
    refused("is missing", lambda copy: (copy / blobs / some).unlink())
    refused("belongs to no part", lambda copy: (copy / "notes.txt").write_bytes(b""))
    refused("belongs to no part", lambda copy: (copy / blobs / ("ab" * 32)).write_bytes(b""))
    refused("belongs to no part", lambda copy: (copy / "more").mkdir())
    refused("belongs to no part", lambda copy: (copy / ".index.json.new").symlink_to("/etc/passwd"))
    refused("can't be read", lambda copy: _replace(copy / blobs / some, lambda path: path.symlink_to("/etc/passwd")))
    refused("can't be read", lambda copy: _replace(copy / blobs / some, os.mkfifo))
    refused("belongs to no part", lambda copy: _replace(copy / blobs / some, lambda path: path.mkdir()))


def _replace(path: Path, make: Any) -> None:
    path.unlink()
    make(path)


def test_what_says_another_thing_than_was_signed_is_found(bundle: Path, team: Team) -> None:
    """Nothing of ``index.json`` is signed itself: it may only say what follows from what is."""
    release = read_bundle(bundle)
    first, *others = release.layout.index.manifests

    def refused(match: str, *listed: Any) -> None:
        write_index(bundle, listed)
        with pytest.raises(ReleaseError, match=match):
            verify(bundle, keys=[team.alice.public])

    newer = first.model_copy(update={"annotations": {VERSION_NAME: "1.5.0"}})
    refused("says more than where the release is", newer, *others)
    refused("says more than where the release is", first.model_copy(update={"artifactType": "application/x"}), *others)
    refused("isn't sorted, or lists a signature twice", first, *reversed(others))
    refused("isn't sorted, or lists a signature twice", first, *others, others[-1])
    refused("should be a", *others)
    refused("holds no release")
    refused("should be a", first, first)
    refused("is no signature of it", first, others[0].model_copy(update={"annotations": {"by": "you"}}))
    refused("is no signature of it", first, release.targets[0].descriptor)
    whole = Index(manifests=(first, *others))
    (bundle / "index.json").write_bytes(oci_bytes(whole.model_copy(update={"annotations": {"by": "you"}})))
    with pytest.raises(ReleaseError, match="says more than where the release is"):
        verify(bundle, keys=[team.alice.public])
    (bundle / "index.json").write_bytes(oci_bytes(whole))
    assert verify(bundle, keys=[team.alice.public])


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"../evil": b""}, "names a file '../evil'"),
        ({"/etc/evil": b""}, "names a file"),
        ({"a": b"", "a/b": b""}, "both as a file and as a folder"),
        ({"a\nb": b""}, "names a file"),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(files: dict[str, bytes], match: str, tmp_path: Path, team: Team) -> None:
    bundle = make_bundle(tmp_path / "bundle", ("pi5",), files)
    for action in (
        lambda: sign(bundle, team.alice, provenance=PROVENANCE),
        lambda: verify(bundle, keys=[team.alice.public]),
    ):
        with pytest.raises(ReleaseError, match=match):
            action()


@pytest.mark.parametrize("targets", [(), ("pi5", "jetson"), ("pi5", "pi5"), ("",), ("a\nb",), ("a" * 201,)])
def test_targets_have_names_of_their_own(targets: tuple[str, ...], tmp_path: Path, team: Team) -> None:
    bundle = make_bundle(tmp_path / "bundle", targets)
    with pytest.raises(ReleaseError):
        verify(bundle, keys=[team.alice.public])


def _flip(path: Path, at: int, bits: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    path.write_bytes(data)


def _flips_found(bundle: Path, key: SigningKey, every: int) -> int:
    verify(bundle, keys=[key.public])
    places = [(path, at) for path in sorted(bundle.rglob("*")) if path.is_file() for at in range(path.stat().st_size)]
    for number, (path, at) in enumerate(places[::every]):
        bits = 1 << number % 8
        _flip(path, at, bits)
        try:
            verify(bundle, keys=[key.public])
        except ReleaseError:
            pass
        else:
            raise AssertionError(f"bit {bits:#x} of byte {at} of {path}: {path.read_bytes()!r}")
        _flip(path, at, bits)
    verify(bundle, keys=[key.public])
    return len(places[::every])


def test_flipped_bits_are_found(tmp_path: Path) -> None:
    key = write_key(tmp_path / "team.key", "Ed25519")
    bundle = make_bundle(tmp_path / "bundle", ("pi5",))
    sign(bundle, key, provenance=PROVENANCE)
    assert _flips_found(bundle, key, 23) > 200


@pytest.mark.proof
def test_a_flipped_bit_in_any_byte_is_found(tmp_path: Path) -> None:
    key = write_key(tmp_path / "team.key", "P-256")
    bundle = make_bundle(tmp_path / "bundle")
    sign(bundle, key, provenance=PROVENANCE)
    assert _flips_found(bundle, key, 1) > 8000
