"""What a bundle consists of, read from its manifests: the same walk for whoever sends, fetches or compares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from edgebuild.core.artifact import is_digest
from edgebuild.errors import ReleaseError
from edgebuild.releasing.layout import (
    INDEX_TYPE,
    MANIFEST_TYPE,
    MAX_JSON_BYTES,
    SHA256,
    VERSION_NAME,
    Descriptor,
    Index,
    Manifest,
    oci_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.releasing.layout import Layout

VERSION = "org.opencontainers.image.version"
CREATED = "org.opencontainers.image.created"
TARGET = "dev.edgebuild.target"
FILE_PATH = "org.cncf.model.filepath"
SIGNATURE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
#: All manifests of a bundle together: they are held in memory.
MAX_DOCUMENTS_BYTES = 64 << 20
_OTHER = (
    "Only releases that edgebuild wrote are read; tools that copy images may rewrite an index, pull and push don't."
)

D = TypeVar("D", Index, Manifest)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The manifests of one bundle; ``release`` is the release index's descriptor as ``index.json`` lists it."""

    release: Descriptor
    index: Index
    targets: tuple[tuple[Descriptor, Manifest], ...]
    signatures: tuple[tuple[Descriptor, Manifest], ...] = ()

    @property
    def version(self) -> str:
        """The release's version."""
        return version_of(self.index)

    def documents(self) -> Iterator[Descriptor]:
        """Yield the release index and all manifests."""
        yield self.release
        yield from (each for each, _ in (*self.targets, *self.signatures))

    def blobs(self) -> tuple[Descriptor, ...]:
        """Return what isn't a manifest, each once; raises ``ReleaseError`` where two speak of it differently."""
        return unique(
            blob for _, manifest in (*self.targets, *self.signatures) for blob in (manifest.config, *manifest.layers)
        )


def read_contents(layout: Layout) -> Contents:
    """Read the manifests of a bundle, checked; raises ``ReleaseError`` for a layout that isn't one bundle."""
    listed = layout.index.manifests
    if not listed or any((each.mediaType == INDEX_TYPE) != (place == 0) for place, each in enumerate(listed)):
        raise ReleaseError(
            f"{layout.folder} isn't the bundle of one release: its index.json lists "
            f"{sum(each.mediaType == INDEX_TYPE for each in listed)}.",
            hint="Of a folder that holds several, pull the one you mean into a folder of its own.",
        )
    require_bounded(listed)
    index = layout.nested(listed[0])
    require_bounded((*listed, *index.manifests))
    targets = tuple((each, layout.manifest(each)) for each in index.manifests)
    signatures = tuple((each, layout.manifest(each)) for each in listed[1:])
    known = {listed[0].digest, *(each.digest for each, _ in targets)}
    for each, manifest in signatures:
        if manifest.subject is None or manifest.subject.digest not in known:
            raise ReleaseError(f"{each.digest} in {layout.folder} signs nothing of this release.", hint="Remove it.")
    return Contents(release=listed[0], index=index, targets=targets, signatures=signatures)


def parse_document(data: bytes, kind: type[D], where: str) -> D:
    """Parse an index or a manifest that didn't come from a layout, as strictly as ``Layout`` does."""
    try:
        if len(data) > MAX_JSON_BYTES:
            raise ValueError("it is too large")
        found: D = kind.model_validate_json(data, strict=True)
        if oci_bytes(found) != data or found.mediaType != (INDEX_TYPE if kind is Index else MANIFEST_TYPE):
            raise ValueError("it is written in another form")
        listed = found.manifests if isinstance(found, Index) else (found.config, *found.layers)
        if not all(each.digest.startswith(SHA256) and is_digest(each.sha256) for each in listed):
            raise ValueError("a digest is no SHA-256")
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{where} is no part of a release of edgebuild's.", hint=_OTHER) from error
    return found


def version_of(index: Index) -> str:
    """Return a release's version; raises ``ReleaseError`` for an index that is no release."""
    version = index.annotations.get(VERSION, "")
    if not version:
        raise ReleaseError("This index names no version, so it is no release.", hint=_OTHER)
    return version


def target_of(manifest: Descriptor) -> str:
    """Return the target that a manifest is for."""
    return manifest.annotations.get(TARGET, "")


def named(release: Descriptor, version: str) -> Descriptor:
    """Return how ``index.json`` of a bundle lists its release."""
    return Descriptor(
        mediaType=INDEX_TYPE, digest=release.digest, size=release.size, annotations={VERSION_NAME: version}
    )


def as_referrer(data: Descriptor, manifest: Manifest) -> Descriptor:
    """Return how ``index.json``, and registries, list the manifest of a signature."""
    return Descriptor(
        mediaType=MANIFEST_TYPE,
        digest=data.digest,
        size=data.size,
        artifactType=manifest.artifactType,
    )


def unique(blobs: Iterator[Descriptor]) -> tuple[Descriptor, ...]:
    """Return each blob once, in order; raises ``ReleaseError`` where two descriptors give it two sizes."""
    found: dict[str, Descriptor] = {}
    for blob in blobs:
        if found.setdefault(blob.digest, blob).size != blob.size:
            raise ReleaseError(f"{blob.digest} is listed with two sizes.", hint="Nothing of such a bundle is believed.")
    return tuple(found.values())


def require_bounded(documents: tuple[Descriptor, ...]) -> None:
    """Raise ``ReleaseError`` where manifests together are larger than any release's."""
    if sum(each.size for each in documents) > MAX_DOCUMENTS_BYTES:
        raise ReleaseError(
            f"The manifests of this release have more than {MAX_DOCUMENTS_BYTES >> 20} MiB.", hint=_OTHER
        )
