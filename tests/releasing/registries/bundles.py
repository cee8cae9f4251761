"""Small bundles with several targets, and signatures that nobody looks into here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.values import canonical_json
from edgebuild.releasing.bundle import CREATED, FILE_PATH, MODEL_CONFIG, MODEL_MANIFEST, TARGET, TITLE, VERSION, WEIGHTS
from edgebuild.releasing.layout import VERSION_NAME, Descriptor, Index, Layout, LayoutWriter, Manifest, Platform
from tests.releasing.bundles import attach, files_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def sbom(**versions: str) -> bytes:
    """Return an SBOM of components and their versions."""
    components = [{"type": "library", "name": name, "version": version} for name, version in versions.items()]
    return canonical_json({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}).encode()


def make_bundle(
    folder: Path,
    files: Mapping[str, Mapping[str, bytes]],
    *,
    version: str = "1.4.0",
    created: str = "2026-12-01T00:00:00Z",
    signers: tuple[str, ...] = ("team",),
) -> Path:
    """Write a bundle with these files of each target; each signer signs the release and the first target."""
    writer = LayoutWriter(folder)
    targets = []
    for name in sorted(files):
        whole = sorted(files_of(name, files[name], version=version).items())
        layers = tuple(writer.add(data, WEIGHTS, annotations={FILE_PATH: path}) for path, data in whole)
        config = writer.add(b'{"descriptor":{}}', MODEL_CONFIG)
        targets.append(
            writer.add_value(
                Manifest(artifactType=MODEL_MANIFEST, config=config, layers=layers),
                artifactType=MODEL_MANIFEST,
                platform=Platform(architecture="arm64", os="linux"),
                annotations={TARGET: name},
            )
        )
    index = Index(manifests=tuple(targets), annotations={TITLE: "doors", VERSION: version, CREATED: created})
    writer.finish([writer.add_value(index, annotations={VERSION_NAME: version})])
    for signer in signers:
        add_signature(folder, signer)
        add_signature(folder, signer, targets[0])
    return folder


def add_signature(folder: Path, signer: str, subject: Descriptor | None = None) -> None:
    """Add what looks like a signature of a target, or of the release."""
    of = subject or Layout(folder).index.manifests[0]
    attach(folder, canonical_json({"of": of.digest, "by": signer}).encode(), of)


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
