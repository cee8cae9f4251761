"""Others agree: `model-signing`, the reference of OpenSSF Model Signing, openssl, and what is sent to boards."""

from __future__ import annotations

import base64
import importlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.errors import ReleaseError
from edgebuild.releasing.board import reading, signatures
from edgebuild.releasing.board.documents import Problem
from edgebuild.releasing.bundle import read_bundle
from edgebuild.releasing.dsse import parse_bundle, parse_statement
from edgebuild.releasing.keys import load_public_key
from edgebuild.releasing.model_signing import signed_files
from edgebuild.releasing.referrers import digests_of, read_signed
from edgebuild.releasing.signing import sign
from edgebuild.releasing.trust import Policy, Signer
from edgebuild.releasing.verifying import verify
from tests import needs
from tests.releasing.bundles import CURVES, FILES, KINDS, PROVENANCE, attach, make_bundle, unpack, write_key

if TYPE_CHECKING:
    from pathlib import Path

_HASH = {"P-256": "-sha256", "P-384": "-sha384", "P-521": "-sha512"}
model_signing_needed = needs.marked(
    needs.module("model_signing", "model-signing==1.1.1"), needs.module("OpenSSL", "pyOpenSSL")
)


def _they_verify(model: Path, signature: Path, key: Path) -> None:
    # A fresh configuration each time: one keeps what it read of the last signature (model-transparency#650).
    configuration = importlib.import_module("model_signing.verifying").Config()
    configuration.use_elliptic_key_verifier(public_key=key).verify(model, signature)


def _they_sign(model: Path, signature: Path, key: Path) -> None:
    configuration = importlib.import_module("model_signing.signing").Config()
    configuration.use_elliptic_key_signer(private_key=key).sign(model, signature)


def _signature_of(bundle: Path, target: str | None) -> bytes:
    found, signatures = read_signed(bundle)
    (one,) = [each for each in signatures if (each.part.release.target if each.part else None) == target]
    return found.layout.read(one.blob)


@model_signing_needed
@pytest.mark.parametrize("kind", CURVES)
def test_model_signing_verifies_what_we_sign(kind: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    sign(bundle, write_key(tmp_path / "team.key", kind), provenance=PROVENANCE)
    signature = tmp_path / "model.sig"
    signature.write_bytes(_signature_of(bundle, "pi5"))
    model = unpack(FILES, "pi5", tmp_path / "pi5")
    _they_verify(model, signature, tmp_path / "team.pub")

    (model / "artifact/model.bin").write_bytes(b"Weights")
    with pytest.raises(ValueError, match=r"Hash mismatch for 'artifact/model[.]bin'"):
        _they_verify(model, signature, tmp_path / "team.pub")
    unpack(FILES, "pi5", model)
    (model / "more").write_bytes(b"")
    with pytest.raises(ValueError, match="Extra files found"):
        _they_verify(model, signature, tmp_path / "team.pub")
    (model / "more").unlink()
    write_key(tmp_path / "other.key", kind)
    with pytest.raises(ValueError, match="Key mismatch"):
        _they_verify(model, signature, tmp_path / "other.pub")


@model_signing_needed
@pytest.mark.parametrize("kind", CURVES)
def test_we_verify_what_model_signing_signs(kind: str, tmp_path: Path) -> None:
    key = write_key(tmp_path / "team.key", kind)
    model = unpack(FILES, "pi5", tmp_path / "pi5")
    _they_sign(model, tmp_path / "model.sig", tmp_path / "team.key")
    data = (tmp_path / "model.sig").read_bytes()
    found = parse_bundle(data)
    assert (found.method, found.hint) == ("key", key.public.hint), "keys have the same names"
    assert load_public_key(tmp_path / "team.pub").verifies(found.signature, found.signed)

    bundle = make_bundle(tmp_path / "bundle", ("pi5",))
    (part,) = read_bundle(bundle).targets
    assert signed_files(parse_statement(found.payload)) == digests_of(part)
    sign(bundle, write_key(tmp_path / "release.key"), provenance=PROVENANCE)
    attach(bundle, data, part.descriptor)
    keys = [load_public_key(tmp_path / name) for name in ("team.pub", "release.pub")]
    assert [each.hint for each in verify(bundle, keys=keys).signatures if each.kind == "model files"].count(
        key.public.hint
    ) == 1


@model_signing_needed
def test_we_find_what_was_changed_of_what_model_signing_signed(tmp_path: Path) -> None:
    write_key(tmp_path / "team.key")
    model = unpack({**FILES, "artifact/model.bin": b"Weights"}, "pi5", tmp_path / "pi5")
    _they_sign(model, tmp_path / "model.sig", tmp_path / "team.key")
    bundle = make_bundle(tmp_path / "bundle", ("pi5",))
    attach(bundle, (tmp_path / "model.sig").read_bytes(), read_bundle(bundle).targets[0].descriptor)
    public = load_public_key(tmp_path / "team.pub")
    with pytest.raises(ReleaseError, match=r"'artifact/model\.bin' isn't what was signed"):
        verify(bundle, keys=[public])

    value = json.loads((tmp_path / "model.sig").read_bytes())
    payload = base64.b64decode(value["dsseEnvelope"]["payload"]).replace(b"pi5", b"pi6")
    value["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    found = parse_bundle(json.dumps(value).encode())
    assert not public.verifies(found.signature, found.signed)


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_verifies_both_signatures_of_a_bundle(kind: str, tmp_path: Path) -> None:
    """With nothing but a JSON reader and openssl, as a board does it."""
    needs.skip_without(needs.program("openssl", "openssl"))
    bundle = make_bundle(tmp_path / "bundle")
    sign(bundle, write_key(tmp_path / "team.key", kind), provenance=PROVENANCE)
    for target in (None, "jetson", "pi5"):
        envelope: dict[str, Any] = json.loads(_signature_of(bundle, target))["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"])
        head = f"DSSEv1 {len(envelope['payloadType'])} {envelope['payloadType']} {len(payload)} "
        (tmp_path / "signed").write_bytes(head.encode() + payload)
        (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
        command = ["openssl", "dgst", _HASH.get(kind, ""), "-verify", "team.pub", "-signature", "sig", "signed"]
        if kind == "Ed25519":
            command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "team.pub", "-rawin", "-in", "signed"]
            command += ["-sigfile", "sig"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
        (tmp_path / "signed").write_bytes(head.encode() + payload.replace(b"sha256", b"sha255"))
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def _board(bundle: Path, trust: Path, target: str) -> set[str]:
    found = reading.Bundle(bundle)
    policy = signatures.trust_of_policy(str(trust))
    vouched = signatures.verify_signatures(found, found.targets[target], policy, files=True)
    names = {each.name for each in vouched.over_index}
    assert names == {each.name for each in vouched.over_files}
    return names


def test_a_board_believes_whom_the_host_believes(tmp_path: Path) -> None:
    needs.skip_without(needs.program("openssl", "openssl"))
    bundle = make_bundle(tmp_path / "bundle")
    signers = []
    for kind in KINDS:
        key = write_key(tmp_path / f"{kind}.key", kind)
        sign(bundle, key, provenance=PROVENANCE)
        signers.append(Signer(name=kind, public_key=key.public.pem))
    policy = Policy(schema_version=1, threshold=4, signers=tuple(signers))
    trust = tmp_path / "trust.json"
    trust.write_text(policy.to_json())
    verified = verify(bundle, policy=policy)
    assert {each.signer for each in verified.signatures if each.counts} == set(KINDS)
    assert _board(bundle, trust, "pi5") == set(KINDS)

    signers[0] = signers[0].model_copy(update={"targets": ("jetson",)})
    signers[1] = signers[1].model_copy(update={"revoked": True})
    signers[2] = signers[2].model_copy(update={"projects": ("windows",)})
    policy = Policy(schema_version=1, threshold=2, signers=tuple(signers))
    trust.write_text(policy.to_json())
    assert _board(bundle, trust, "jetson") == {"P-256", "Ed25519"}
    with pytest.raises(Problem, match="1 of the asked signers signed the release index, 2 must have"):
        _board(bundle, trust, "pi5")
    with pytest.raises(ReleaseError, match="'pi5': 1 of 2 signers needed"):
        verify(bundle, policy=policy)
