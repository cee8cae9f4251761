"""Small bundles and keys for tests of signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from edgebuild.core.values import digest_bytes
from edgebuild.releasing.chain import FILE_PATH, MODEL_TYPE, TARGET, TITLE, VERSION, signature_manifest
from edgebuild.releasing.dsse import BUNDLE_TYPE, PAYLOAD_TYPE, Statement, bundle_bytes, pae, statement_bytes
from edgebuild.releasing.keys import SigningKey, load_signing_key
from edgebuild.releasing.layout import (
    EMPTY,
    MANIFEST_TYPE,
    VERSION_NAME,
    Descriptor,
    Index,
    Layout,
    LayoutWriter,
    Manifest,
    Platform,
    descriptor_of,
    oci_bytes,
    write_index,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: A dot sorts before a slash by code point, and after it by the parts of a path.
FILES = {
    "artifact/model.bin": b"weights",
    "artifact.json": b"{}",
    "golden/inputs/0.npy": b"\x93NUMPY",
    "release.json": b'{"target":"any"}',
    "übung/€.txt": b"",
}
PROVENANCE: dict[str, Any] = {"buildDefinition": {"buildType": "https://example.org/edgebuild"}, "runDetails": {}}
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
KINDS = (*CURVES, "Ed25519")


def make_bundle(
    folder: Path,
    targets: tuple[str, ...] = ("jetson", "pi5"),
    files: Mapping[str, bytes] = FILES,
    *,
    project: str = "doors",
    version: str = "1.4.0",
) -> Path:
    """Write an unsigned bundle; each target has a file of its own."""
    writer = LayoutWriter(folder)
    manifests = []
    for target in targets:
        whole = {**files, "release.json": target.encode()}
        layers = tuple(
            writer.add(whole[path], "application/vnd.cncf.model.weight.v1.raw", annotations={FILE_PATH: path})
            for path in sorted(whole)
        )
        config = writer.add(b'{"descriptor":{}}', "application/vnd.cncf.model.config.v1+json")
        manifest = Manifest(artifactType=MODEL_TYPE, config=config, layers=layers)
        platform = Platform(architecture="arm64", os="linux")
        manifests.append(
            writer.add_value(manifest, artifactType=MODEL_TYPE, platform=platform, annotations={TARGET: target})
        )
    index = Index(manifests=tuple(manifests), annotations={TITLE: project, VERSION: version})
    writer.finish([writer.add_value(index, annotations={VERSION_NAME: version})])
    return folder


def private_key(kind: str) -> Any:
    """Return a new private key of cryptography's."""
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "Ed25519" else ec.generate_private_key(CURVES[kind])


def write_key(path: Path, kind: str = "P-256", passphrase: bytes | None = None) -> SigningKey:
    """Write ``path`` (private) and ``path`` with the suffix ``.pub``, and return the key."""
    key = private_key(kind)
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection))
    path.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return load_signing_key(path, lambda: passphrase or b"")


def unpack(files: Mapping[str, bytes], target: str, into: Path) -> Path:
    """Write a target's files as an installed release has them."""
    for path, data in {**files, "release.json": target.encode()}.items():
        place = into / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return into


def attach(bundle: Path, signature: bytes, subject: Descriptor) -> None:
    """Add a signature, whatever it is, to a bundle as signing does."""
    layout = Layout(bundle)
    manifest = signature_manifest(descriptor_of(signature, BUNDLE_TYPE), subject)
    listed = descriptor_of(oci_bytes(manifest), MANIFEST_TYPE, artifactType=BUNDLE_TYPE)
    for data in (EMPTY, signature, oci_bytes(manifest)):
        (bundle / "blobs/sha256" / digest_bytes(data)).write_bytes(data)
    first, *others = layout.index.manifests
    write_index(bundle, [first, *sorted([*others, listed], key=lambda each: each.digest)])


def signed(key: SigningKey, statement: Statement, *, hint: str | None = None) -> bytes:
    """Return the signature of any statement, in the name of any key."""
    payload = statement_bytes(statement)
    return bundle_bytes(payload, key.sign(pae(PAYLOAD_TYPE, payload)), hint or key.public.hint)
