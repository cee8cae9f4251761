"""Keys: what signs, what is refused and how, and that the openssl of a board agrees."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.errors import UsageError
from edgebuild.releasing.keys import load_public_key, load_signing_key, public_key
from tests import needs
from tests.releasing.bundles import KINDS, private_key, write_key

if TYPE_CHECKING:
    from pathlib import Path

_HASH = {"P-256": "-sha256", "P-384": "-sha384", "P-521": "-sha512"}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_signs_and_its_public_key_verifies(kind: str, tmp_path: Path) -> None:
    key = write_key(tmp_path / "team.key", kind)
    public = load_public_key(tmp_path / "team.pub")
    signature = key.sign(b"release")
    assert public.kind == kind
    assert public.hint == key.public.hint
    assert public.verifies(signature, b"release")
    assert not public.verifies(signature, b"Release")
    assert not public.verifies(signature[:-1], b"release")
    assert not public.verifies(b"", b"release")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_key_and_data_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    key = write_key(tmp_path / "team.key", kind)
    assert key.sign(b"release") == key.sign(b"release")


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_verifies_what_we_sign(kind: str, tmp_path: Path) -> None:
    needs.skip_without(needs.program("openssl", "openssl"))
    key = write_key(tmp_path / "team.key", kind)
    (tmp_path / "data").write_bytes(b"DSSEv1 of a release")
    (tmp_path / "sig").write_bytes(key.sign(b"DSSEv1 of a release"))
    if kind == "Ed25519":
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "team.pub", "-rawin", "-in", "data"]
        command += ["-sigfile", "sig"]
    else:
        command = ["openssl", "dgst", _HASH[kind], "-verify", "team.pub", "-signature", "sig", "data"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "data").write_bytes(b"DSSEv1 of a reIease")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(
    "make",
    [
        ["ecparam", "-name", "prime256v1", "-genkey"],  # SEC1, behind a block of parameters
        ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-aes256", "-pass", "pass:secret"],
        ["genpkey", "-algorithm", "ed25519"],
    ],
)
def test_keys_that_openssl_makes_are_read(make: list[str], tmp_path: Path) -> None:
    needs.skip_without(needs.program("openssl", "openssl"))
    path = tmp_path / "team.key"
    subprocess.run(["openssl", *make, "-out", str(path)], capture_output=True, check=True)
    public = ["openssl", "pkey", "-in", str(path), "-passin", "pass:secret", "-pubout", "-out", str(tmp_path / "p")]
    subprocess.run(public, capture_output=True, check=True)
    assert load_signing_key(path, lambda: b"secret").public.hint == load_public_key(tmp_path / "p").hint


def test_a_passphrase_is_asked_only_where_there_is_one(tmp_path: Path) -> None:
    def unexpected() -> bytes:
        raise AssertionError("asked")

    write_key(tmp_path / "open.key")
    assert load_signing_key(tmp_path / "open.key", unexpected)
    key = write_key(tmp_path / "team.key", passphrase=b"secret")
    assert load_signing_key(tmp_path / "team.key", lambda: b"secret").public.hint == key.public.hint
    with pytest.raises(UsageError, match=r"team\.key is protected by a passphrase\.$"):
        load_signing_key(tmp_path / "team.key")
    for wrong in (b"Secret", b"", b"\x00" * 2000):
        with pytest.raises(UsageError, match=r"The passphrase doesn't open the key .*team\.key\.$"):
            load_signing_key(tmp_path / "team.key", lambda wrong=wrong: wrong)  # type: ignore[misc]


def test_what_is_no_signing_key_is_refused_in_a_sentence(tmp_path: Path) -> None:
    write_key(tmp_path / "team.key")
    path = tmp_path / "a.key"

    def refused(data: bytes, match: str) -> None:
        path.write_bytes(data)
        with pytest.raises(UsageError, match=match):
            load_signing_key(path)

    refused(b"", r"is no PEM key\.$")
    refused(b"\x00\xff" * 50, r"is no PEM key\.$")
    refused((tmp_path / "team.pub").read_bytes(), "holds a public key, and only the private one signs")
    refused((tmp_path / "team.key").read_bytes()[:-60], "is damaged")
    refused(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is damaged")
    refused(_pem(private_key("RSA")), r"is an RSA key; releases are signed with EC P-256, P-384, P-521 and Ed25519\.$")
    refused(_pem(ec.generate_private_key(ec.SECP256K1())), "is of the curve secp256k1; releases")
    refused(_pem(ed448.Ed448PrivateKey.generate()), "is a key of the kind Ed448; releases")
    openssh = private_key("Ed25519").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    refused(openssh, "is in OpenSSH's own form")
    refused(b"-----BEGIN PRIVATE KEY-----" + b"A" * (65 << 10), "is larger than any key")
    with pytest.raises(UsageError, match=r"can't be read: No such file or directory\.$"):
        load_signing_key(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"can't be read: it is a folder"):
        load_signing_key(tmp_path)


def test_what_is_no_public_key_is_refused_in_a_sentence(tmp_path: Path) -> None:
    write_key(tmp_path / "team.key")
    path = tmp_path / "a.pub"

    def refused(data: bytes, match: str) -> None:
        path.write_bytes(data)
        with pytest.raises(UsageError, match=match):
            load_public_key(path)

    refused(b"ssh-ed25519 AAAA", "is no public key in PEM")
    refused((tmp_path / "team.key").read_bytes(), "holds a private key where the public one belongs")
    refused(_public_pem(private_key("RSA")), "is an RSA key; releases are signed with")
    refused(_public_pem(ec.generate_private_key(ec.SECP256K1())), "is of the curve secp256k1")
    refused((tmp_path / "team.pub").read_bytes().replace(b"M", b"!"), "is damaged")


def test_a_public_key_has_one_form(tmp_path: Path) -> None:
    write_key(tmp_path / "team.key")
    data = (tmp_path / "team.pub").read_bytes()
    assert public_key(b"# of the team\r\n" + data.replace(b"\n", b"\r\n")).pem == data.decode()


@given(data=st.binary(max_size=200), at=st.integers(0, 200), flipped=st.integers(0, 255))
def test_no_bytes_make_it_fail_otherwise(data: bytes, at: int, flipped: int) -> None:
    whole = bytearray(_PUBLIC)
    whole[at % len(whole)] ^= flipped
    for each in (data, bytes(whole), b"-----BEGIN PUBLIC KEY-----\n" + data):
        with suppress(ValueError):
            public_key(each)


def test_without_cryptography_it_is_said_what_brings_it() -> None:
    code = "import sys; sys.modules['cryptography'] = None; import edgebuild.releasing.keys"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "EnvironmentGap: cryptography is not installed." in done.stderr


def _pem(key: ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


_PUBLIC = _public_pem(private_key("P-256"))
