"""A Sigstore for tests: a certificate authority, a certificate log and a signature log, served on this machine.

It is believed by whom its trusted root is given, and by nobody else. What it lacks of a real one: it is asked for
nothing but certificates and entries, tokens are signed with a shared secret, and nobody witnesses its logs.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator

ISSUER = "https://issuer.example"
ALICE = "alice@example.org"
SECRET = "only this process checks tokens with it"  # noqa: S105
MINUTES = datetime.timedelta(minutes=10)
_EC = ec.ECDSA(hashes.SHA256())
_START = {"start": "2020-01-01T00:00:00Z"}
_ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_SCT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


class LogKey:
    """The key of a log, and the name that logs give it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.der = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.id = hashlib.sha256(self.der).digest()

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data, _EC)

    def described(self) -> dict[str, Any]:
        """Return the log as a trusted root has it."""
        key = {"rawBytes": b64(self.der), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": _START}
        log = {"baseUrl": "https://log.example", "hashAlgorithm": "SHA2_256", "publicKey": key}
        return {**log, "logId": {"keyId": b64(self.id)}}


@dataclass
class PretendSigstore:
    """What issues, logs and answers. ``late`` is how long after a certificate was made out its use is logged."""

    late: datetime.timedelta = datetime.timedelta(0)
    #: What the next answers are instead of right ones: an HTTP status and a body.
    instead: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    leaves: list[bytes] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PretendSigstore")])
        self.certificates, self.log = LogKey(), LogKey()
        self.root = self._root()

    def token(self, identity: str = ALICE, issuer: str = ISSUER, *, valid_s: float = 600, **claims: object) -> str:
        """Return an identity token of an issuer's."""
        now = datetime.datetime.now(datetime.UTC)
        whole = {"iss": issuer, "sub": identity, "aud": "sigstore", "iat": now - MINUTES}
        return jwt.encode({**whole, "exp": now + datetime.timedelta(seconds=valid_s), **claims}, SECRET, "HS256")

    def trusted_root(self) -> dict[str, Any]:
        """Return what believes it."""
        chain = {"certificates": [{"rawBytes": b64(self.root.public_bytes(serialization.Encoding.DER))}]}
        subject = {"organization": "example", "commonName": "PretendSigstore"}
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self.log.described()],
            "ctlogs": [self.certificates.described()],
            "certificateAuthorities": [
                {"subject": subject, "uri": "https://ca.example", "certChain": chain, "validFor": _START}
            ],
            "timestampAuthorities": [],
        }

    def trust_config(self, url: str) -> dict[str, Any]:
        """Return the configuration of clients that sign by it."""
        service = [{"url": url, "majorApiVersion": 1, "validFor": _START, "operator": "example"}]
        signing = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": service,
            "oidcUrls": service,
            "rekorTlogUrls": service,
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": [],
            "tsaConfig": {"selector": "ANY"},
        }
        kind = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
        return {"mediaType": kind, "trustedRoot": self.trusted_root(), "signingConfig": signing}

    @contextmanager
    def served(self) -> Iterator[str]:
        """Answer on this machine, and yield the address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def certificate(self, request: bytes, token: str) -> list[bytes]:
        """Return the certificate for a request in PEM, and the authority's; raises ``ValueError`` for a bad token."""
        self.tokens.append(token)
        try:
            claims = jwt.decode(token, SECRET, ["HS256"], audience="sigstore")
        except jwt.InvalidTokenError as error:
            raise ValueError(f"There was an error processing the identity token: {error}") from error
        if claims["iss"] not in (ISSUER, "https://other.example"):
            raise ValueError(f"There was an error processing the identity token: unknown issuer {claims['iss']}")
        key = x509.load_pem_x509_csr(request).public_key()
        made = self._leaf(key, claims["sub"], claims["iss"])
        return [each.public_bytes(serialization.Encoding.PEM) for each in (made, self.root)]

    def entry(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """Note a DSSE envelope in the log, and return what Rekor answers."""
        content = proposed["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        spec = {
            "envelopeHash": _hash(content["envelope"].encode()),
            "payloadHash": _hash(base64.b64decode(envelope["payload"])),
            "signatures": [{"signature": envelope["signatures"][0]["sig"], "verifier": content["verifiers"][0]}],
        }
        body = _json({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        self.leaves.append(body)
        index = len(self.leaves) - 1
        at = int((datetime.datetime.now(datetime.UTC) + self.late).timestamp())
        promise = {"body": b64(body), "integratedTime": at, "logID": self.log.id.hex(), "logIndex": index}
        verification = {
            "inclusionProof": self._proof(index),
            "signedEntryTimestamp": b64(self.log.sign(_json(promise))),
        }
        return {"ab" * 32: {**promise, "verification": verification}}

    def _proof(self, index: int) -> dict[str, Any]:
        root, size = _tree(self.leaves), len(self.leaves)
        note = f"log.example - 1\n{size}\n{b64(root)}\n"
        signed = b64(self.log.id[:4] + self.log.sign(note.encode()))
        return {
            "logIndex": index,
            "rootHash": root.hex(),
            "treeSize": size,
            "hashes": [each.hex() for each in _path(index, self.leaves)],
            "checkpoint": f"{note}\n\N{EM DASH} log.example {signed}\n",
        }

    def _root(self) -> x509.Certificate:
        key = self._key.public_key()
        usage = _usage(key_cert_sign=True, crl_sign=True)
        builder = self._builder(key, datetime.timedelta(days=3650)).subject_name(self._name)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        return builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())

    def _leaf(self, key: Any, identity: str, issuer: str) -> x509.Certificate:
        kind = x509.UniformResourceIdentifier if "://" in identity else x509.RFC822Name
        signing = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = self._builder(key, MINUTES).subject_name(x509.Name([]))
        for extension, critical in (
            (_usage(digital_signature=True), True),
            (signing, False),
            (authority, False),
            (x509.SubjectAlternativeName([kind(identity)]), True),
            (x509.UnrecognizedExtension(_ISSUER_OID, issuer.encode()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        unlogged = builder.sign(self._key, hashes.SHA256())
        timestamps = x509.UnrecognizedExtension(_SCT_OID, self._sct(unlogged.tbs_certificate_bytes))
        return builder.add_extension(timestamps, critical=False).sign(self._key, hashes.SHA256())

    def _builder(self, key: Any, valid: datetime.timedelta) -> x509.CertificateBuilder:
        start = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        return (
            x509.CertificateBuilder()
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + valid)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )

    def _sct(self, certificate: bytes) -> bytes:
        """Return the list of timestamps of the certificates' log (RFC 6962), as an extension holds it."""
        at = int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
        issuer = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        entry = hashlib.sha256(issuer).digest() + struct.pack("!I", len(certificate))[1:] + certificate
        signature = self.certificates.sign(struct.pack("!BBQH", 0, 0, at, 1) + entry + b"\0\0")
        one = b"\0" + self.certificates.id + struct.pack("!QHBBH", at, 0, 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(one) + 2, len(one)) + one
        return bytes([0x04, len(listed)]) + listed


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _hash(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}


def _usage(**which: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    more = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{**dict.fromkeys((*names, *more), False), **which})


def _tree(leaves: list[bytes]) -> bytes:
    """Return the root of a Merkle tree (RFC 6962)."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    left, right = _halves(leaves)
    return hashlib.sha256(b"\1" + _tree(left) + _tree(right)).digest()


def _path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    left, right = _halves(leaves)
    if index < len(left):
        return [*_path(index, left), _tree(right)]
    return [*_path(index - len(left), right), _tree(left)]


def _halves(leaves: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    at = 1 << (len(leaves) - 1).bit_length() - 1
    return leaves[:at], leaves[at:]


def _handler(pretend: PretendSigstore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = pretend.instead.get(self.path) or self._answer(asked)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _answer(self, asked: dict[str, Any]) -> tuple[int, bytes]:
            if self.path == "/api/v1/log/entries":
                return 201, _json(pretend.entry(asked))
            request = base64.b64decode(asked["certificateSigningRequest"])
            token = self.headers["Authorization"].removeprefix("Bearer ")
            try:
                chain = [each.decode() for each in pretend.certificate(request, token)]
            except ValueError as error:
                return 401, _json({"code": 16, "message": str(error)})
            return 200, _json({"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}})

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
