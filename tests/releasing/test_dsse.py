"""Sigstore bundles and statements: those of the specification's kinds are read, everything else is refused.

The vectors are shaped as ossf/model-signing-spec's (test-vectors/v1.0), with keys and payloads of our own.
"""

from __future__ import annotations

import base64
import copy
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.errors import ReleaseError
from edgebuild.releasing.dsse import (
    BUNDLE_TYPE,
    PAYLOAD_TYPE,
    Statement,
    bundle_bytes,
    pae,
    parse_bundle,
    parse_statement,
    statement_bytes,
)
from edgebuild.releasing.model_signing import model_statement, signed_files

FILES = {"signme-1": "ab" * 32, "signme-2": "cd" * 32}
PAYLOAD = statement_bytes(model_statement("model", FILES))
_CERTIFICATE = {"rawBytes": base64.b64encode(b"DER").decode()}
_LOG = [{"logIndex": "598151086", "logId": {"keyId": "wNI9"}, "integratedTime": "1760062340", "inclusionProof": {}}]


def _bundle(payload: bytes = PAYLOAD, **material: Any) -> dict[str, Any]:
    return {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": material or {"publicKey": {"hint": "e8" * 32}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(b"signature").decode(), "keyid": ""}],
        },
    }


def _refused(value: Any, match: str) -> None:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(ReleaseError, match=match):
        parse_bundle(data)


def test_the_encoding_is_that_of_the_specification_of_dsse() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


@pytest.mark.parametrize(
    ("material", "method", "hint"),
    [
        ({"publicKey": {"hint": "e8" * 32}, "tlogEntries": []}, "key", "e8" * 32),
        ({"publicKey": {"hint": "e8" * 32}}, "key", "e8" * 32),
        ({"publicKey": {"rawBytes": "TUZr", "keyDetails": "PKIX_ECDSA_P256_SHA_256"}}, "key", None),
        ({"x509CertificateChain": {"certificates": [_CERTIFICATE] * 2}, "tlogEntries": []}, "certificate", None),
        ({"certificate": _CERTIFICATE, "tlogEntries": _LOG}, "sigstore", None),
        (
            {
                "certificate": _CERTIFICATE,
                "tlogEntries": _LOG,
                "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": "MIIE"}]},
            },
            "sigstore",
            None,
        ),
    ],
)
def test_valid_vectors_parse(material: dict[str, Any], method: str, hint: str | None) -> None:
    found = parse_bundle(json.dumps(_bundle(**material), indent=4).encode())
    assert (found.method, found.hint, found.payload, found.signature) == (method, hint, PAYLOAD, b"signature")
    assert signed_files(parse_statement(found.payload)) == FILES


@pytest.mark.parametrize("keyid", [{}, {"keyid": None}, {"keyid": "any"}])
def test_the_id_of_a_key_may_be_absent_and_says_nothing(keyid: dict[str, Any]) -> None:
    value = _bundle()
    value["dsseEnvelope"]["signatures"] = [{"sig": base64.b64encode(b"s").decode(), **keyid}]
    assert parse_bundle(json.dumps(value).encode()).signature == b"s"


def test_invalid_vectors_are_refused() -> None:
    whole = _bundle()
    _refused(b"", "isn't readable as JSON")
    _refused({key: value for key, value in whole.items() if key != "dsseEnvelope"}, "dsseEnvelope: Field required")
    _refused({key: value for key, value in whole.items() if key != "verificationMaterial"}, "verificationMaterial")
    _refused(_bundle(certificate=_CERTIFICATE), "a certificate without an entry of a transparency log")
    wrong = Statement("model", "ab" * 32, "https://example.com/wrong-predicate/v1.0", {"resources": []})
    payload = parse_bundle(json.dumps(_bundle(statement_bytes(wrong))).encode()).payload
    with pytest.raises(ReleaseError, match=r"is of the type 'https://example.com/wrong-predicate/v1.0', not https"):
        signed_files(parse_statement(payload))


def test_other_bundles_are_refused() -> None:
    def changed(path: str, value: Any) -> dict[str, Any]:
        whole = copy.deepcopy(_bundle())
        *folders, name = path.split(".")
        here: Any = whole
        for each in folders:
            here = here[int(each) if isinstance(here, list) else each]
        here[name] = value
        return whole

    _refused(changed("mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.1"), "mediaType")
    _refused(changed("dsseEnvelope.payloadType", "application/json"), "payloadType")
    _refused(changed("dsseEnvelope.signatures", []), "signatures")
    _refused(changed("dsseEnvelope.signatures", [{"sig": "AAAA"}] * 2), "signatures")
    _refused(changed("dsseEnvelope.signatures.0.sig", ""), "sig is empty")
    _refused(changed("dsseEnvelope.payload", "!!!!"), "payload is no base64")
    _refused(changed("dsseEnvelope.payload", "AB=="), "not in base64's one form")
    _refused(changed("dsseEnvelope.payload", 7), "payload: Input should be a valid string")
    _refused(changed("verificationMaterial", {}), "it holds no key")
    _refused(changed("verificationMaterial.publicKey", {}), "doesn't say which key")
    _refused(changed("verificationMaterial.certificate", _CERTIFICATE), "or more than one")
    _refused(changed("messageSignature", {}), "messageSignature")
    _refused([], "valid dictionary")
    _refused(b"\xff\xfe", "isn't readable as JSON")
    _refused(b"[" * 100_000, "isn't readable as JSON")
    _refused(
        json.dumps(_bundle()).replace('"payloadType"', '"payload": "AAAA", "payloadType"').encode(), "isn't readable"
    )
    _refused(json.dumps(changed("messageSignature", "\ud800")).encode(), "isn't readable as JSON")
    _refused(json.dumps(changed("messageSignature", float("nan"))).encode(), "isn't readable as JSON")


def test_statements_are_about_one_thing_with_a_sha256() -> None:
    statement = Statement("doors:1.4.0", "ab" * 32, "https://slsa.dev/provenance/v1", {"a": [1, None, "ü"]})
    assert parse_statement(statement_bytes(statement)) == statement
    value = json.loads(statement_bytes(statement))
    changes: tuple[dict[str, Any], ...] = (
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"subject": []},
        {"subject": value["subject"] * 2},
        {"subject": [{"name": "", "digest": {"sha256": "ab" * 32}}]},
        {"subject": [{"name": "a", "digest": {"sha512": "ab" * 64}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "AB" * 32}}]},
        {"predicate": []},
        {"more": 1},
    )
    for change in changes:
        with pytest.raises(ReleaseError, match="What was signed is no in-toto statement v1"):
            parse_statement(json.dumps({**value, **change}).encode())


def test_our_bundle_is_canonical_and_names_the_key() -> None:
    data = bundle_bytes(PAYLOAD, b"signature", "e8" * 32)
    assert json.loads(data) == _bundle()
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()


@given(data=st.binary(max_size=300), at=st.integers(0, 10_000), flipped=st.integers(1, 255))
def test_no_bytes_make_the_parsers_fail_otherwise(data: bytes, at: int, flipped: int) -> None:
    whole = bytearray(bundle_bytes(PAYLOAD, b"signature", "e8" * 32))
    whole[at % len(whole)] ^= flipped
    payload = bytearray(PAYLOAD)
    payload[at % len(payload)] ^= flipped
    for each in (data, bytes(whole)):
        with suppress(ReleaseError):
            parse_bundle(each)
    for each in (data, bytes(payload)):
        with suppress(ReleaseError):
            signed_files(parse_statement(each))
