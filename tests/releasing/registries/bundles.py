"""Small bundles as ADR 0023 has them: two targets, and a signature over the release and over one target."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from edgebuild.core.values import canonical_json
from edgebuild.releasing.contents import CREATED, FILE_PATH, SIGNATURE_TYPE, TARGET, VERSION
from edgebuild.releasing.layout import (
    EMPTY,
    EMPTY_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    VERSION_NAME,
    Descriptor,
    Index,
    Layout,
    LayoutWriter,
    Manifest,
    Platform,
    write_index,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"


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
) -> Descriptor:
    """Write a bundle with these files of each target, and return its release index's descriptor."""
    writer = LayoutWriter(folder)
    targets = [_target(writer, name, files[name]) for name in sorted(files)]
    index = Index(manifests=tuple(targets), annotations={VERSION: version, CREATED: created})
    release = writer.add_value(index)
    signatures = [sign(writer, release, signer) for signer in signers]
    signatures += [sign(writer, targets[0], signer) for signer in signers]
    named = Descriptor(
        mediaType=INDEX_TYPE, digest=release.digest, size=release.size, annotations={VERSION_NAME: version}
    )
    writer.finish([named, *sorted(signatures, key=lambda each: each.digest)])
    return named


def _target(writer: LayoutWriter, name: str, files: Mapping[str, bytes]) -> Descriptor:
    layers = tuple(
        writer.add(data, DOC if path.endswith(".json") else WEIGHT, annotations={FILE_PATH: path})
        for path, data in sorted(files.items())
    )
    config = writer.add(canonical_json({"descriptor": {"name": name}}).encode(), CONFIG)
    return writer.add_value(
        Manifest(artifactType=MODEL, config=config, layers=layers),
        artifactType=MODEL,
        platform=Platform(architecture="arm64", os="linux"),
        annotations={TARGET: name},
    )


def sign(writer: LayoutWriter, subject: Descriptor, signer: str) -> Descriptor:
    """Add what looks like a signature: nothing here looks into one."""
    manifest = Manifest(
        artifactType=SIGNATURE_TYPE,
        config=writer.add(EMPTY, EMPTY_TYPE),
        layers=(writer.add(canonical_json({"of": subject.digest, "by": signer}).encode(), SIGNATURE_TYPE),),
        subject=Descriptor(mediaType=subject.mediaType, digest=subject.digest, size=subject.size),
    )
    added = writer.add_value(manifest)
    return Descriptor(mediaType=MANIFEST_TYPE, digest=added.digest, size=added.size, artifactType=SIGNATURE_TYPE)


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def add_signature(folder: Path, signer: str) -> None:
    """Sign the release of a bundle that is there."""
    release, *others = Layout(folder).index.manifests
    scratch = folder.parent / f"{folder.name}.signing"
    writer = LayoutWriter(scratch)
    made = sign(writer, release, signer)
    for path in (scratch / "blobs" / "sha256").iterdir():
        path.replace(folder / "blobs" / "sha256" / path.name)
    shutil.rmtree(scratch)
    write_index(folder, [release, *sorted([*others, made], key=lambda each: each.digest)])
