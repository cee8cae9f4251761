"""Keys that sign releases: EC P-256, P-384, P-521 and Ed25519, in PEM.

A key is named by its *hint*: the SHA-256, in hex, of its public key's PEM, as `model-signing` names keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from edgebuild.core.files import read_plain
from edgebuild.core.values import digest_bytes
from edgebuild.errors import EnvironmentGap, UsageError
from edgebuild.releasing.dsse import PAYLOAD_TYPE, bundle_bytes, pae

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
except ImportError as error:
    raise EnvironmentGap("cryptography is not installed.", hint="pip install 'edgebuild[release]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from edgebuild.releasing.dsse import SignatureBundle

#: A key file has a few hundred bytes.
MAX_KEY_BYTES = 64 << 10
SUPPORTED = "EC P-256, P-384, P-521 and Ed25519"
_MAKE = "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -out team.key` makes one."
_PUBLIC = "`openssl pkey -in team.key -pubout -out team.pub` makes the public one."
#: The curve's name → what people call it, and the hash that goes with it.
_CURVES: dict[str, tuple[str, type[hashes.HashAlgorithm]]] = {
    "secp256r1": ("P-256", hashes.SHA256),
    "secp384r1": ("P-384", hashes.SHA384),
    "secp521r1": ("P-521", hashes.SHA512),
}

_Public: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_Private: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class PublicKey:
    """A public key; ``pem`` is the one form of it, whatever file it came from, ``kind`` such as ``P-256``."""

    def __init__(self, key: _Public) -> None:
        self._key = key
        self.pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode(
            "ascii"
        )
        self.hint = digest_bytes(self.pem.encode())
        self.kind = _CURVES[key.curve.name][0] if isinstance(key, ec.EllipticCurvePublicKey) else "Ed25519"

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether the private key that belongs to this one signed ``data``."""
        try:
            if isinstance(self._key, ec.EllipticCurvePublicKey):
                self._key.verify(signature, data, ec.ECDSA(_CURVES[self._key.curve.name][1]()))
            else:
                self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    @property
    def label(self) -> str:
        """The key, as people are told it."""
        return label_of(self.hint)

    def is_named_by(self, signature: SignatureBundle) -> bool:
        """Whether a signature says that it is this key's; where it names none, whether it turns out to be."""
        if signature.method != "key":
            return False
        return signature.hint == self.hint if signature.hint is not None else not self.why_wrong(signature)

    def why_wrong(self, signature: SignatureBundle) -> str:
        """Return why a signature isn't this key's, or nothing where it is."""
        return "" if self.verifies(signature.signature, signature.signed) else "another key made it, or it was changed"


class SigningKey:
    """A private key. It shows itself nowhere, only its public half does."""

    def __init__(self, key: _Private) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    def sign(self, data: bytes) -> bytes:
        """Return the signature of ``data``: for EC in DER, over SHA-256, SHA-384 or SHA-512 by the curve's size.

        The same key and data give the same bytes wherever OpenSSL knows RFC 6979.
        """
        if not isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(data)
        return self._key.sign(data, _ecdsa(_CURVES[self._key.curve.name][1]()))

    def bundle(self, payload: bytes) -> bytes:
        """Return the Sigstore bundle, in canonical JSON, of a payload that this key signs."""
        return bundle_bytes(payload, self.sign(pae(PAYLOAD_TYPE, payload)), self.public.hint)


def label_of(hint: str | None) -> str:
    """Return a key as people are told it."""
    return f"key {hint[:16]}" if hint else "no key named"


def load_signing_key(path: Path, passphrase: Callable[[], bytes] | None = None) -> SigningKey:
    """Return the private key in a PEM file; ``passphrase`` is only called where the file is protected by one.

    Raises ``UsageError``, in a sentence, for anything else.
    """
    data = _read(path)
    if b"PRIVATE KEY-----" not in data:
        what = "holds a public key, and only the private one signs" if b"PUBLIC KEY-----" in data else "is no PEM key"
        raise UsageError(f"The key {path} {what}.", hint=_MAKE)
    if b"BEGIN OPENSSH" in data:
        raise UsageError(
            f"The key {path} is in OpenSSH's own form.", hint="`ssh-keygen -p -m PKCS8 -f COPY` turns a copy into PEM."
        )
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        key = _unlocked(data, path, passphrase)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"The key {path} is damaged, or of a kind that isn't known.", hint=_MAKE) from error
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return SigningKey(key)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return SigningKey(key)
    raise UsageError(f"The key {path} {_unsupported(key)}.", hint=_MAKE)


def load_public_key(path: Path) -> PublicKey:
    """Return the public key in a PEM file; raises ``UsageError``, in a sentence, for anything else."""
    try:
        return public_key(_read(path))
    except ValueError as error:
        raise UsageError(f"The key {path} {error}.", hint=_PUBLIC) from error


def public_key(pem: bytes) -> PublicKey:
    """Return the public key of a PEM text; raises ``ValueError`` with the end of a sentence that begins with it."""
    if b"PRIVATE KEY-----" in pem:
        raise ValueError("holds a private key where the public one belongs")
    if b"PUBLIC KEY-----" not in pem:
        raise ValueError("is no public key in PEM")
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("is damaged, or of a kind that isn't known") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return PublicKey(key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return PublicKey(key)
    raise ValueError(_unsupported(key))


def _read(path: Path) -> bytes:
    try:
        data = read_plain(path, MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"The key {path} can't be read: {error.strerror or error}.") from error
    if len(data) > MAX_KEY_BYTES:
        raise UsageError(f"The key {path} is larger than any key.", hint="Is it really a PEM file?")
    return data


def _unlocked(data: bytes, path: Path, passphrase: Callable[[], bytes] | None) -> PrivateKeyTypes:
    if passphrase is None:
        raise UsageError(
            f"The key {path} is protected by a passphrase.", hint="EDGEBUILD_KEY_PASSPHRASE is where it is looked for."
        )
    try:
        return serialization.load_pem_private_key(data, passphrase())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"The passphrase doesn't open the key {path}.", hint="Or the file is damaged.") from error


def _unsupported(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        what = f"is of the curve {key.curve.name}"
    else:
        name = type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey")
        what = f"is an {name} key" if name == "RSA" else f"is a key of the kind {name}"
    return f"{what}; releases are signed with {SUPPORTED}"


def _ecdsa(algorithm: hashes.HashAlgorithm) -> ec.ECDSA:
    try:
        return ec.ECDSA(algorithm, deterministic_signing=True)
    except UnsupportedAlgorithm:
        return ec.ECDSA(algorithm)
