"""The farm's private authority: its certificate is what clients trust, and it signs the server's own."""

from __future__ import annotations

import datetime
import ipaddress
import os
from typing import TYPE_CHECKING

from edgebuild.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY, AUTHORITY_KEY = "ca.pem", "ca.key"
SERVER, SERVER_KEY = "server.pem", "server.key"
#: What a server may always be called from its own machine.
ALWAYS = ("localhost", "127.0.0.1", "::1")
AUTHORITY_DAYS = 3650
SERVER_DAYS = 90
#: A server's certificate that ends sooner is made anew.
RENEW_DAYS = 30
#: Clocks of clients may be behind.
_BEFORE = datetime.timedelta(days=1)


def make_authority(folder: Path) -> None:
    """Write a new authority into a folder; its key is readable by its owner only."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    # Told apart from those of other farms: a client says which one it doesn't know.
    number = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgebuild farm {number % 16**8:08x}")])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    made = _builder(name, name, key.public_key(), AUTHORITY_DAYS).serial_number(number)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(usage, critical=True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    _write(folder, AUTHORITY_KEY, AUTHORITY, key, made, key)


def renew_server(folder: Path, names: Sequence[str]) -> bool:
    """Make the server's certificate where there is none for these names that is good for a while; say whether

    Raises ``StoreError`` where the authority can't be read.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    wanted = tuple(dict.fromkeys((*names, *ALWAYS)))
    try:
        issuer = x509.load_pem_x509_certificate((folder / AUTHORITY).read_bytes())
        signer = load_pem_private_key((folder / AUTHORITY_KEY).read_bytes(), None)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"The farm's authority in {folder} can't be read: {error}.", hint="`edgebuild farm init` makes a farm."
        ) from error
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise StoreError(f"{folder / AUTHORITY_KEY} isn't a key of `edgebuild farm init`.")
    if _still_good(folder, issuer, wanted):
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted[0][:64])])
    made = _builder(subject, issuer.subject, key.public_key(), SERVER_DAYS)
    made = made.serial_number(x509.random_serial_number())
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(_usage(digital_signature=True), critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    made = made.add_extension(x509.SubjectAlternativeName([_alternative(name) for name in wanted]), critical=False)
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    made = made.add_extension(authority_key, critical=False)
    _write(folder, SERVER_KEY, SERVER, key, made, signer)
    return True


def _still_good(folder: Path, issuer: x509.Certificate, wanted: Sequence[str]) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        certificate = x509.load_pem_x509_certificate((folder / SERVER).read_bytes())
        key = load_pem_private_key((folder / SERVER_KEY).read_bytes(), None)
        certificate.verify_directly_issued_by(issuer)
    except (OSError, ValueError, InvalidSignature):
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    enough = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RENEW_DAYS)
    fits = key.public_key() == certificate.public_key()
    return fits and set(names) == {_alternative(name) for name in wanted} and certificate.not_valid_after_utc > enough


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return made.not_valid_before(now - _BEFORE).not_valid_after(now + datetime.timedelta(days=days))


def _usage(**allowed: bool) -> x509.KeyUsage:
    from cryptography import x509

    nothing = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**{**nothing, **allowed})


def _alternative(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(
    folder: Path,
    key_name: str,
    name: str,
    key: ec.EllipticCurvePrivateKey,
    made: x509.CertificateBuilder,
    signer: ec.EllipticCurvePrivateKey,
) -> None:
    """Write a key and its certificate; a kill in between leaves a pair that doesn't fit and is made anew."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(folder / key_name, secret)
    write_private(folder / name, made.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / name).chmod(0o644)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner ever could read, whole or not at all."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
