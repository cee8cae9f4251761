"""Signatures as they lie in a bundle: each a manifest whose ``subject`` is what it is of.

Nothing of ``index.json`` and of these manifests is signed itself, so they may say nothing that doesn't follow from what
they lead to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.errors import ReleaseError
from edgebuild.releasing.bundle import Bundle, TargetPart, read_bundle
from edgebuild.releasing.dsse import BUNDLE_TYPE
from edgebuild.releasing.layout import (
    EMPTY,
    EMPTY_TYPE,
    INDEX_FILE,
    Descriptor,
    Manifest,
    descriptor_of,
)

if TYPE_CHECKING:
    from pathlib import Path

#: Far more than any release has; each of them is verified.
MAX_SIGNATURES = 1024
_NOT_OURS = "A bundle is the folder that `edgebuild release create` makes; copy or pull it again."


@dataclass(frozen=True)
class StoredSignature:
    """A signature where it lies; ``part`` is the target whose files it is of, None where it is of the release index."""

    descriptor: Descriptor
    blob: Descriptor
    part: TargetPart | None


def read_signed(folder: Path) -> tuple[Bundle, tuple[StoredSignature, ...]]:
    """Read a bundle with its signatures, none of them verified yet. Raises ``ReleaseError``."""
    bundle = read_bundle(folder)
    others = bundle.layout.index.manifests[1:]
    if len(others) > MAX_SIGNATURES:
        raise ReleaseError(f"{folder} holds {len(others)} signatures; {MAX_SIGNATURES} is the most there may be.")
    digests = [each.digest for each in others]
    if digests != sorted(set(digests)):
        raise ReleaseError(f"{INDEX_FILE} in {folder} isn't sorted, or lists a signature twice.", hint=_NOT_OURS)
    return bundle, tuple(_stored(bundle, descriptor, manifest) for descriptor, manifest in bundle.signatures)


def release_name(bundle: Bundle) -> str:
    """Return project and version, as they are signed."""
    return f"{bundle.project}:{bundle.version}"


def digests_of(part: TargetPart) -> dict[str, str]:
    """Return the files of a target: path → SHA-256 in hex."""
    return {path: descriptor.sha256 for path, descriptor in part.files().items()}


def reference(descriptor: Descriptor) -> Descriptor:
    """Return a descriptor as ``subject`` of a signature: type, digest and size, nothing that stands beside them."""
    return Descriptor(mediaType=descriptor.mediaType, digest=descriptor.digest, size=descriptor.size)


def signature_manifest(blob: Descriptor, subject: Descriptor) -> Manifest:
    """Return the manifest of a signature, which says nothing else of it and of what it is of."""
    layer = Descriptor(mediaType=BUNDLE_TYPE, digest=blob.digest, size=blob.size)
    config = descriptor_of(EMPTY, EMPTY_TYPE)
    return Manifest(artifactType=BUNDLE_TYPE, config=config, layers=(layer,), subject=reference(subject))


def _stored(bundle: Bundle, descriptor: Descriptor, manifest: Manifest) -> StoredSignature:
    where = f"The signature {descriptor.digest}"
    whole = signature_manifest(manifest.layers[0], manifest.subject) if manifest.layers and manifest.subject else None
    listed = reference(descriptor).model_copy(update={"artifactType": BUNDLE_TYPE})
    if manifest != whole or descriptor != listed:
        raise ReleaseError(f"{where} isn't stored as signatures of releases are.", hint=_NOT_OURS)
    if manifest.subject == reference(bundle.descriptor):
        return StoredSignature(descriptor, manifest.layers[0], None)
    for part in bundle.targets:
        if manifest.subject == reference(part.descriptor):
            return StoredSignature(descriptor, manifest.layers[0], part)
    raise ReleaseError(f"{where} is of something that isn't in this bundle.", hint="Remove it, or pull it again.")
