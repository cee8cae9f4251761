"""Small bundles and keys for tests of signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.budget import Budget
from edgebuild.core.values import digest_bytes
from edgebuild.core.verdict import SealedSetAccess
from edgebuild.releasing.board.reading import artifact_digest
from edgebuild.releasing.bundle import CREATED, FILE_PATH, MODEL_CONFIG, MODEL_MANIFEST, TARGET, TITLE, VERSION, WEIGHTS
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
from edgebuild.releasing.referrers import signature_manifest
from edgebuild.releasing.values import Requires, TargetRelease

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Beside ``release.json``. A dot sorts before a slash by code point, and after it by the parts of a path.
FILES = {
    "artifact/artifact.json": b"{}",
    "artifact/model.bin": b"weights",
    "artifact.json": b"{}",
    "golden/golden.json": b"{}",
    "golden/inputs/0.npy": b"\x93NUMPY",
    "runner.pyz": b"PK",
    "übung/€.txt": b"",
}
PROVENANCE: dict[str, Any] = {"buildDefinition": {"buildType": "https://example.org/edgebuild"}, "runDetails": {}}
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
KINDS = (*CURVES, "Ed25519")


def files_of(
    target: str, files: Mapping[str, bytes] = FILES, *, project: str = "doors", version: str = "1.4.0"
) -> dict[str, bytes]:
    """Return what a release holds for a target."""
    tensors = (TensorSpec(name="x", shape=(1, 3), dtype="float32"),)
    release = TargetRelease(
        project=project,
        version=version,
        target=target,
        device="a board",
        build_id="20261201-1",
        created="2026-12-01T00:00:00Z",
        candidate="int8",
        precision="int8",
        artifact="artifact",
        artifact_digest=artifact_digest(files.get("artifact/artifact.json", b"{}")),
        size_bytes=7,
        contract=Contract(inputs=tensors, outputs=tensors),
        requires=Requires(architecture="aarch64", runtime="onnxruntime", runtime_version="1.32.0"),
        budget=Budget(points=1),
        test_set=SealedSetAccess(number=1, opened_at="2026-12-01T00:00:00Z", artifacts=("ab" * 32,), level=0.95),
    )
    return {**files, "release.json": release.to_json().encode()}


def make_bundle(
    folder: Path,
    targets: tuple[str, ...] = ("jetson", "pi5"),
    files: Mapping[str, bytes] = FILES,
    *,
    project: str = "doors",
    version: str = "1.4.0",
    releases: Mapping[str, TargetRelease] | None = None,
) -> Path:
    """Write an unsigned bundle; ``releases`` are said of targets in the place of what ``files_of`` says."""
    writer = LayoutWriter(folder)
    manifests = []
    for target in targets:
        whole = files_of(target, files, project=project, version=version)
        if releases is not None and target in releases:
            whole["release.json"] = releases[target].to_json().encode()
        layers = tuple(writer.add(whole[path], WEIGHTS, annotations={FILE_PATH: path}) for path in sorted(whole))
        config = writer.add(b'{"descriptor":{}}', MODEL_CONFIG)
        manifest = Manifest(artifactType=MODEL_MANIFEST, config=config, layers=layers)
        platform = Platform(architecture="arm64", os="linux")
        manifests.append(
            writer.add_value(manifest, artifactType=MODEL_MANIFEST, platform=platform, annotations={TARGET: target})
        )
    index = Index(manifests=tuple(manifests), annotations={TITLE: project, VERSION: version, CREATED: "2026"})
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
    for path, data in files_of(target, files).items():
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
