"""Parts of a release that come one by one, before there is a bundle to read: parsed as strictly, and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.errors import ReleaseError
from edgebuild.releasing.bundle import TARGET, VERSION
from edgebuild.releasing.layout import D, Descriptor, Index, Manifest, parsed

if TYPE_CHECKING:
    from collections.abc import Iterable

#: All manifests of a bundle together: they are held in memory.
MAX_DOCUMENTS_BYTES = 64 << 20
_OTHER = (
    "Only releases that edgebuild wrote are read; tools that copy images may rewrite an index, pull and push don't."
)


def parse_document(data: bytes, kind: type[D], where: str) -> D:
    """Parse an index or a manifest that didn't come from a layout, as strictly as ``Layout`` does."""
    try:
        return parsed(data, kind)
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{where} is no part of a release of edgebuild's.", hint=_OTHER) from error


def version_of(index: Index) -> str:
    """Return a release's version; raises ``ReleaseError`` for an index that is no release."""
    version = index.annotations.get(VERSION, "")
    if not version:
        raise ReleaseError("This index names no version, so it is no release.", hint=_OTHER)
    return version


def target_of(manifest: Descriptor) -> str:
    """Return the target that a manifest is for."""
    return manifest.annotations.get(TARGET, "")


def blobs_of(manifests: Iterable[Manifest]) -> tuple[Descriptor, ...]:
    """Return what manifests list, each blob once; raises ``ReleaseError`` where two give one of them two sizes."""
    found: dict[str, Descriptor] = {}
    for blob in (blob for manifest in manifests for blob in (manifest.config, *manifest.layers)):
        if found.setdefault(blob.digest, blob).size != blob.size:
            raise ReleaseError(f"{blob.digest} is listed with two sizes.", hint="Nothing of such a bundle is believed.")
    return tuple(found.values())


def require_bounded(documents: tuple[Descriptor, ...]) -> None:
    """Raise ``ReleaseError`` where manifests together are larger than any release's."""
    if sum(each.size for each in documents) > MAX_DOCUMENTS_BYTES:
        raise ReleaseError(
            f"The manifests of this release have more than {MAX_DOCUMENTS_BYTES >> 20} MiB.", hint=_OTHER
        )
