"""Signatures as others read them: in-toto statements in DSSE envelopes in Sigstore bundles v0.3.

Parsing believes nothing: JSON without doubled keys, base64 in its one form, one signature, one subject. What is parsed
isn't verified yet.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebuild.core.artifact import is_digest
from edgebuild.core.values import canonical_json
from edgebuild.errors import ReleaseError

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

Method = Literal["key", "certificate", "sigstore"]
#: The field of the verification material that says how a bundle was signed.
_METHODS: dict[str, Method] = {
    "publicKey": "key",
    "x509CertificateChain": "certificate",
    "certificate": "sigstore",
}


@dataclass(frozen=True)
class SignatureBundle:
    """A signature and what it is of. ``hint`` names the key; None where the bundle doesn't, as older ones.

    ``certificate`` is the one that Sigstore issued, in DER; None for other methods. ``data`` is the whole bundle.
    """

    payload: bytes
    signature: bytes
    method: Method
    hint: str | None
    certificate: bytes | None
    data: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        return pae(PAYLOAD_TYPE, self.payload)


@dataclass(frozen=True)
class Statement:
    """An in-toto statement v1 about one subject."""

    name: str
    sha256: str
    predicate_type: str
    predicate: dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", strict=True)


class _Foreign(BaseModel):
    """What others define and may extend."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="ignore", strict=True)


class _PublicKey(_Foreign):
    hint: str | None = Field(default=None, min_length=1)
    rawBytes: str | None = Field(default=None, min_length=1)  # noqa: N815  Sigstore's name


class _Certificate(_Foreign):
    rawBytes: str = Field(min_length=1)  # noqa: N815


class _Chain(_Foreign):
    certificates: list[_Certificate] = Field(min_length=1)


class _Material(_Part):
    publicKey: _PublicKey | None = None  # noqa: N815
    x509CertificateChain: _Chain | None = None  # noqa: N815
    certificate: _Certificate | None = None
    tlogEntries: list[dict[str, Any]] = Field(default_factory=list)  # noqa: N815
    timestampVerificationData: dict[str, Any] | None = None  # noqa: N815


class _Signature(_Part):
    sig: str
    keyid: str | None = None


class _Envelope(_Part):
    payload: str
    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815
    signatures: list[_Signature] = Field(min_length=1, max_length=1)


class _Bundle(_Part):
    mediaType: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]  # noqa: N815
    verificationMaterial: _Material  # noqa: N815
    dsseEnvelope: _Envelope  # noqa: N815


class _Subject(_Foreign):
    name: str = Field(min_length=1)
    digest: dict[str, str]


class _Statement(_Part):
    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[_Subject] = Field(min_length=1, max_length=1)
    predicateType: str  # noqa: N815
    predicate: dict[str, Any]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: what is signed of a payload and its type."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def statement_bytes(statement: Statement) -> bytes:
    """Return the payload that says a statement; raises ``ValueError`` for a predicate that isn't plain JSON."""
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": statement.name, "digest": {"sha256": statement.sha256}}],
            "predicateType": statement.predicate_type,
            "predicate": statement.predicate,
        }
    ).encode()


def bundle_bytes(payload: bytes, signature: bytes, hint: str) -> bytes:
    """Return the Sigstore bundle, in canonical JSON, of a payload signed by a key."""
    material = {"publicKey": {"hint": hint}, "tlogEntries": []}
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode()}],
    }
    bundle = {"mediaType": BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return canonical_json(bundle).encode()


def parse_bundle(data: bytes) -> SignatureBundle:
    """Return what a Sigstore bundle holds, by whichever method it was signed. Raises ``ReleaseError``."""
    found = _parsed(data, _Bundle, "The signature")
    material = found.verificationMaterial
    methods = [method for field, method in _METHODS.items() if getattr(material, field) is not None]
    try:
        if len(methods) != 1:
            raise ValueError("it holds no key, certificate or chain of them, or more than one")
        if methods == ["sigstore"] and not material.tlogEntries:
            raise ValueError("it holds a certificate without an entry of a transparency log")
        key = material.publicKey
        if key is not None and key.hint is None and key.rawBytes is None:
            raise ValueError("it doesn't say which key it is by")
        payload = _base64(found.dsseEnvelope.payload, "payload")
        signature = _base64(found.dsseEnvelope.signatures[0].sig, "sig")
        issued = material.certificate
        certificate = _base64(issued.rawBytes, "rawBytes") if issued is not None else None
    except ValueError as error:
        raise ReleaseError(f"The signature is no Sigstore bundle v0.3: {error}.") from error
    hint = key.hint if key is not None else None
    return SignatureBundle(payload, signature, methods[0], hint, certificate, data)


def parse_statement(payload: bytes) -> Statement:
    """Return the statement that a payload makes. Raises ``ReleaseError``."""
    found = _parsed(payload, _Statement, "What was signed")
    subject = found.subject[0]
    sha256 = subject.digest.get("sha256", "")
    if not is_digest(sha256):
        raise ReleaseError("What was signed is no in-toto statement v1 that we know: its subject has no SHA-256.")
    return Statement(subject.name, sha256, found.predicateType, found.predicate)


def strict_json(data: bytes) -> Any:
    """Return the value of a JSON text in UTF-8; raises ``ValueError`` for doubled keys, NaN and half characters."""
    value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    canonical_json(value).encode()
    return value


def _parsed(data: bytes, kind: type[Any], what: str) -> Any:
    form = "no Sigstore bundle v0.3" if kind is _Bundle else "no in-toto statement v1"
    try:
        return kind.model_validate(strict_json(data), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ReleaseError(f"{what} is {form}: {reason}.") from error
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{what} is {form}: it isn't readable as JSON.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _base64(text: str, field: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{field} is no base64") from error
    if not data or base64.b64encode(data).decode() != text:
        raise ValueError(f"{field} is empty, or not in base64's one form")
    return data
