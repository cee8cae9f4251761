"""Keyless signatures, by the real `sigstore`: against a pretended Sigstore, and one signature of its staging instance.

`sigstore_staging.json` is `a.dsse.staging-rekor-v2.txt.sigstore.json` of github.com/sigstore/sigstore-python (27db13d,
Apache-2.0): a signature by a real certificate, in a real log of the second kind, with a real timestamp.
"""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.values import canonical_json
from edgebuild.errors import EnvironmentGap, ReleaseError
from edgebuild.releasing.bundle import read_bundle
from edgebuild.releasing.dsse import parse_bundle
from edgebuild.releasing.keyless import Identity, hint_of
from edgebuild.releasing.referrers import read_signed
from edgebuild.releasing.signing import sign
from edgebuild.releasing.trust import Policy, Signer, policy_of
from edgebuild.releasing.verifying import Verified, verify
from tests.releasing.bundles import PROVENANCE, attach, make_bundle, write_key
from tests.releasing.keyless.client import known, signer, statement, unplug
from tests.releasing.keyless.pretend_sigstore import ALICE, ISSUER, MINUTES, PretendSigstore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOB = "https://ci.example/doors/release.yml@refs/heads/main"
OTHER = "https://other.example"


def by(identity: Identity) -> Policy:
    return policy_of([], [identity])


def over_index(folder: Path) -> bytes:
    """Return the signature over the release index of a bundle that one signed."""
    found, stored = read_signed(folder)
    (one,) = [each for each in stored if each.part is None]
    return found.layout.read(one.blob)


def changed(folder: Path, change: Callable[[dict[str, Any]], object], into: Path) -> Path:
    """Return a bundle with one signature, which was changed."""
    value = json.loads(over_index(folder))
    change(value)
    made = make_bundle(into)
    attach(made, canonical_json(value).encode(), read_bundle(made).descriptor)
    return made


def test_an_identity_signs_and_is_verified_without_a_network(
    bundle: Path, pretend: PretendSigstore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = sign(bundle, signer(pretend, url), provenance=PROVENANCE)
    assert (done.hint, done.targets, done.replaced) == (f"{ALICE} ({ISSUER})", ("jetson", "pi5"), 0)
    assert len(pretend.tokens) == 1, "one certificate does for all"
    unplug(monkeypatch)
    verified = verify(bundle, policy=by(known(pretend)))
    assert {(each.kind, each.target, each.counts_for) for each in verified.signatures} == {
        ("release index", None, ("jetson", "pi5")),
        ("model files", "jetson", ("jetson",)),
        ("model files", "pi5", ("pi5",)),
    }
    assert {each.hint for each in verified.signatures} == {f"{ALICE} ({ISSUER})"}
    assert [each.provenance for each in verified.signatures if each.target is None] == [PROVENANCE]
    assert verified.unverified == (), "the log says when"


def test_signing_again_replaces_ones_own_and_leaves_others(
    bundle: Path, pretend: PretendSigstore, url: str, tmp_path: Path
) -> None:
    key = write_key(tmp_path / "team.key")
    sign(bundle, key, provenance=PROVENANCE)
    for identity, issuer, replaced in ((ALICE, ISSUER, 0), (ALICE, OTHER, 0), (BOB, ISSUER, 0), (ALICE, ISSUER, 3)):
        assert sign(bundle, signer(pretend, url, identity, issuer), provenance=PROVENANCE).replaced == replaced
    assert len(read_signed(bundle)[1]) == 12
    assert verify(bundle, keys=[key.public])
    assert verify(bundle, policy=by(known(pretend, BOB)))


def test_identities_and_keys_count_alike_by_name(
    bundle: Path, pretend: PretendSigstore, url: str, tmp_path: Path
) -> None:
    key = write_key(tmp_path / "team.key")
    sign(bundle, key, provenance=PROVENANCE)
    sign(bundle, signer(pretend, url), provenance=PROVENANCE)
    root = json.dumps(pretend.trusted_root())

    def found(threshold: int, name: str = "alice", **fields: Any) -> Verified:
        alice = Signer(name=name, identity=ALICE, issuer=ISSUER, trusted_root=root, **fields)
        team = Signer(name="team", public_key=key.public.pem)
        absent = Signer(name="bob", identity=BOB, issuer=ISSUER, trusted_root=root)
        return verify(bundle, policy=Policy(schema_version=1, threshold=threshold, signers=(alice, team, absent)))

    assert {each.signer for each in found(2).signatures} == {"alice", "team"}
    with pytest.raises(ReleaseError, match="2 of 3 signers needed"):
        found(3)
    with pytest.raises(ReleaseError, match="1 of 2 signers needed"):
        found(2, name="team")
    with pytest.raises(ReleaseError, match=r"alice \(alice@example.org .*\) doesn't count: this identity is revoked"):
        found(2, revoked=True)
    with pytest.raises(
        ReleaseError, match=r"'pi5': 1 of 2 .*alice .*the policy doesn't let this signer sign for 'pi5'"
    ):
        found(2, targets=("jetson",))
    unverified = found(1, revoked=True).unverified
    assert sum("this identity is revoked" in each for each in unverified) == 3
    assert "when it was signed: keys say who, and no log or timestamp was asked" in unverified


@pytest.mark.parametrize(("identity", "issuer"), [("mallory@example.org", ISSUER), (ALICE, OTHER)])
def test_another_identity_or_issuer_doesnt_count(
    identity: str, issuer: str, bundle: Path, pretend: PretendSigstore, url: str
) -> None:
    sign(bundle, signer(pretend, url, identity, issuer), provenance=PROVENANCE)
    with pytest.raises(ReleaseError, match=r"0 of 1 signers needed; .* doesn't count: by an identity that isn't known"):
        verify(bundle, policy=by(known(pretend)))


def test_a_name_of_another_sigstores_making_is_wrong(bundle: Path, pretend: PretendSigstore, url: str) -> None:
    sign(bundle, signer(pretend, url), provenance=PROVENANCE)
    for root in (json.dumps(PretendSigstore().trusted_root()), ""):
        with pytest.raises(ReleaseError, match=r"in the name of alice@example\.org .* is wrong: .*chain") as caught:
            verify(bundle, policy=by(Identity(ALICE, ISSUER, root)))
        assert "--trusted-root" in caught.value.hint


def test_what_was_swapped_stripped_or_changed_is_refused(
    bundle: Path, pretend: PretendSigstore, url: str, tmp_path: Path
) -> None:
    sign(bundle, signer(pretend, url), provenance=PROVENANCE)
    other = make_bundle(tmp_path / "other", files={"artifact.json": b"worse"}, version="1.5.0")
    sign(other, signer(pretend, url), provenance=PROVENANCE)
    theirs = json.loads(over_index(other))
    again = json.loads(signer(pretend, url).bundle(statement(bundle)))
    entry = ("verificationMaterial", "tlogEntries", 0)
    cases: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
        ("is over another release: 'doors:1.5.0'", lambda value: value.update(theirs)),
        ("without an entry of a transparency log", lambda value: value["verificationMaterial"].update(tlogEntries=[])),
        ("promise or signed timestamp", lambda value: _at(value, entry).pop("inclusionPromise")),
        ("wrong: .*inclusionProof Field required", lambda value: _at(value, entry).pop("inclusionProof")),
        ("wrong: log entry", lambda value: value["verificationMaterial"].update(tlogEntries=_at(again, entry[:2]))),
        ("wrong: ", lambda value: _at(value, entry[:1]).update(certificate=_at(again, (entry[0], "certificate")))),
        ("wrong: DSSE: invalid signature", lambda value: _restate(value, "example.org/edgebuild", "example.org/else")),
        ("wrong: DSSE: invalid signature", lambda value: value["dsseEnvelope"].update(signatures=_sig(again))),
        ("is over another release: 'doors:1.4.1'", lambda value: _restate(value, "doors:1.4.0", "doors:1.4.1")),
    ]
    for number, (match, change) in enumerate(cases):
        with pytest.raises(ReleaseError, match=match):
            verify(changed(bundle, change, tmp_path / str(number)), policy=by(known(pretend)))
    assert verify(changed(bundle, lambda value: value.update(again), tmp_path / "right"), policy=by(known(pretend)))


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    for each in path:
        value = value[each]
    return value


def _sig(value: dict[str, Any]) -> Any:
    return value["dsseEnvelope"]["signatures"]


def _restate(value: dict[str, Any], old: str, new: str) -> None:
    payload = base64.b64decode(value["dsseEnvelope"]["payload"])
    assert old.encode() in payload
    value["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(old.encode(), new.encode())).decode()


def _scalars(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _scalars(inner, (*path, key))
    else:
        yield path


def test_every_value_of_a_signature_matters(bundle: Path, pretend: PretendSigstore, url: str, tmp_path: Path) -> None:
    """But for the name of its key: DSSE has it, and with a certificate it says nothing."""
    sign(bundle, signer(pretend, url, BOB), provenance=PROVENANCE)
    sign(bundle, signer(pretend, url), provenance=PROVENANCE)
    value = json.loads(signer(pretend, url).bundle(statement(bundle)))
    paths = [each for each in _scalars(value) if each[-1] != "keyid"]
    assert len(paths) > 15
    for number, path in enumerate(paths):
        copy = json.loads(json.dumps(value))
        where, last = _at(copy, path[:-1]), path[-1]
        where[last] = _altered(where[last])
        made = make_bundle(tmp_path / str(number))
        attach(made, canonical_json(copy).encode(), read_bundle(made).descriptor)
        with pytest.raises(ReleaseError):
            verify(made, policy=by(known(pretend)))


def _altered(value: Any) -> Any:
    if isinstance(value, str) and value.isdigit():
        return str(int(value) + 1)
    if isinstance(value, str):
        middle = len(value) // 2
        return value[:middle] + ("A" if value[middle] != "A" else "B") + value[middle + 1 :]
    return value + 1


def test_a_certificate_that_was_over_when_it_was_used_is_wrong(
    bundle: Path, pretend: PretendSigstore, url: str
) -> None:
    trusting = signer(pretend, url)
    pretend.late = 2 * MINUTES
    with pytest.raises(EnvironmentGap, match=r"is no signature by its trusted root: .*(expired|chain)"):
        trusting.bundle(statement(bundle))
    made = trusting._signer.sign_dsse(_statement(statement(bundle))).to_json()
    attach(bundle, made.encode(), read_bundle(bundle).descriptor)
    with pytest.raises(ReleaseError, match=r"is wrong: .*(expired|not valid|chain)"):
        verify(bundle, policy=by(known(pretend)))


def _statement(payload: bytes) -> Any:
    from sigstore.dsse import Statement as Theirs

    return Theirs(payload)


def test_a_stranger_can_put_any_bytes_into_a_signature(bundle: Path, pretend: PretendSigstore, url: str) -> None:
    data = signer(pretend, url).bundle(statement(bundle))
    identity, chance = known(pretend), random.Random(5)
    assert identity.why_wrong(parse_bundle(data)) == ""
    ended = 0
    for _ in range(400):
        value = json.loads(data)
        path = chance.choice([("verificationMaterial", "certificate", "rawBytes"), *list(_scalars(value))])
        raw = bytearray(str(_at(value, path)).encode())
        if path[-1] in ("rawBytes", "canonicalizedBody", "payload"):
            raw = bytearray(base64.b64decode(raw))
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        text = base64.b64encode(raw).decode() if path[-1] in ("rawBytes", "canonicalizedBody", "payload") else ""
        _at(value, path[:-1])[path[-1]] = text or raw.decode("latin-1")
        try:
            found = parse_bundle(json.dumps(value).encode())
        except ReleaseError:
            continue
        hint_of(found)
        why = identity.why_wrong(found)
        assert len(why) <= 200
        assert "\n" not in why
        ended += bool(why)
    assert ended > 100


def test_a_signature_of_the_real_staging_instance_is_verified() -> None:
    from sigstore._internal.tuf import STAGING_TUF_URL
    from sigstore._utils import read_embedded

    root = read_embedded("trusted_root.json", STAGING_TUF_URL).decode()
    data = Path(__file__).with_name("sigstore_staging.json").read_bytes()
    issuer = "https://token.actions.githubusercontent.com"
    name = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/"
    name += "extremely-dangerous-oidc-beacon.yml@refs/heads/main"
    found = parse_bundle(data)
    assert hint_of(found) == f"{name} ({issuer})"
    assert Identity(name, issuer, root).is_named_by(found)
    assert Identity(name, issuer, root).why_wrong(found) == ""
    assert Identity(name, issuer).why_wrong(found) != "", "the public one isn't the staging one"
    assert "do not match" in Identity(ALICE, issuer, root).why_wrong(found)
    assert "does not match" in Identity(name, ISSUER, root).why_wrong(found)
