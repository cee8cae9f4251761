"""A release on its way out of a registry: nothing that comes is believed before its digest says so.

Sizes are bounded by descriptors, and every byte is held against a digest that leads back to the release index. What
comes is written next to the new folder, which gets its name when all is there; an interrupted pull goes on within the
blob that it was at. What an older bundle holds is taken from it. Whether the release is *trusted* is for ``verify`` to
say: a registry can keep signatures back, it can't make any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.errors import ReleaseError
from edgebuild.releasing.blobs import require_room, staged
from edgebuild.releasing.contents import blobs_of, parse_document, require_bounded, version_of
from edgebuild.releasing.delta_travel import Patches
from edgebuild.releasing.dsse import BUNDLE_TYPE
from edgebuild.releasing.layout import (
    INDEX_TYPE,
    MANIFEST_TYPE,
    MAX_JSON_BYTES,
    VERSION_NAME,
    Descriptor,
    Index,
    Manifest,
    descriptor_of,
)
from edgebuild.releasing.referrers import MAX_SIGNATURES, signature_manifest
from edgebuild.releasing.registry import changed, open_registry, require_index, require_named

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgebuild.core.steps import Progress
    from edgebuild.releasing.blobs import Staging
    from edgebuild.releasing.registries.port import Registry
    from edgebuild.releasing.registries.reference import Reference


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull brought. ``left_out`` signatures have the form of other tools.

    ``taken_bytes`` were here already, and ``patched_bytes`` were made of what was here by a delta, whose bytes are
    among those ``fetched``.
    """

    digest: str
    version: str
    fetched_bytes: int
    taken_bytes: int
    patched_bytes: int
    signatures: int
    left_out: int


def pull(
    what: str,
    folder: Path,
    *,
    older: Path | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
) -> Pulled:
    """Fetch a release into a new folder: a bundle that reads as one, all of it checked by digest.

    ``older`` is a bundle, or a folder of installed releases, whose blobs are taken instead of fetched, linked where the
    disk can; of what changed, a delta that the registry has is fetched where it is smaller. An interrupted pull of the
    same into the same folder goes on. Raises ``ReleaseError`` for whatever isn't what it should be.
    """
    wanted = require_named(what)
    registry = registry or open_registry(wanted, check=check)
    with staged(folder) as staging:
        found = _fetch_documents(registry, wanted, staging, check)
        blobs = blobs_of(found.manifests)
        total = sum(each.size for each in blobs)
        require_room(staging.folder, total)
        with (progress or NoProgress()).task(f"pull {wanted}", total=float(total)) as task:

            def count(size: int) -> None:
                check()
                task.advance(size)

            digests = frozenset(each.digest for each in (found.release, *found.listed, *blobs))
            patches = Patches(registry, found.release, older, digests, check) if older else None
            brought = [_bring(blob, registry, staging, older, patches, count) for blob in blobs]
        staging.finish((found.release, *found.signatures), (found.release, *found.listed, *blobs), folder)
    return Pulled(
        digest=found.release.digest,
        version=found.release.annotations[VERSION_NAME],
        fetched_bytes=sum(fetched for fetched, _, _ in brought),
        taken_bytes=sum(taken for _, taken, _ in brought),
        patched_bytes=sum(patched for _, _, patched in brought),
        signatures=len(found.signatures),
        left_out=found.left_out,
    )


@dataclass(frozen=True, kw_only=True)
class _Documents:
    """The release index, all other manifests, which of them are signatures, and how many were left out."""

    release: Descriptor
    listed: tuple[Descriptor, ...]
    manifests: tuple[Manifest, ...]
    signatures: tuple[Descriptor, ...]
    left_out: int


def _fetch_documents(registry: Registry, wanted: Reference, staging: Staging, check: Callable[[], None]) -> _Documents:
    data = require_index(registry, wanted)
    index = parse_document(data, Index, str(wanted))
    release = descriptor_of(data, INDEX_TYPE, annotations={VERSION_NAME: version_of(index)})
    require_bounded((release, *index.manifests))
    _keep(staging, release, data)
    targets: list[tuple[Descriptor, Manifest]] = []
    for each in index.manifests:
        check()
        data = _fetch_document(registry, each)
        targets.append((each, parse_document(data, Manifest, each.digest)))
        _keep(staging, each, data)
    signatures, left_out = _fetch_signatures(registry, (release, *index.manifests), staging, check)
    whole = [*targets, *signatures]
    return _Documents(
        release=release,
        listed=tuple(each for each, _ in whole),
        manifests=tuple(manifest for _, manifest in whole),
        signatures=tuple(sorted((each for each, _ in signatures), key=lambda each: each.digest)),
        left_out=left_out,
    )


def _fetch_signatures(
    registry: Registry, subjects: tuple[Descriptor, ...], staging: Staging, check: Callable[[], None]
) -> tuple[list[tuple[Descriptor, Manifest]], int]:
    """Fetch what signs the release or a target; other tools sign too, in their own form, which is left out."""
    found: list[tuple[Descriptor, Manifest]] = []
    seen: list[Descriptor] = []
    for subject in subjects:
        for each in registry.referrers(subject.digest):
            check()
            if each.artifactType != BUNDLE_TYPE:
                continue
            seen.append(each)
            if len(seen) > MAX_SIGNATURES:
                raise ReleaseError(f"{subject.digest} has more than {MAX_SIGNATURES} signatures.", hint="Remove some.")
            require_bounded(tuple(seen))
            data = _fetch_document(registry, each)
            if (manifest := _signature_in(data, subject)) is not None:
                made = descriptor_of(data, MANIFEST_TYPE, artifactType=BUNDLE_TYPE)
                _keep(staging, made, data)
                found.append((made, manifest))
    return found, len(seen) - len(found)


def _signature_in(data: bytes, subject: Descriptor) -> Manifest | None:
    """Return what a signature says, where it is one as releases have them."""
    try:
        manifest = parse_document(data, Manifest, "")
    except ReleaseError:
        return None
    ours = len(manifest.layers) == 1 and manifest == signature_manifest(manifest.layers[0], subject)
    return manifest if ours and manifest.layers[0].size <= MAX_JSON_BYTES else None


def _fetch_document(registry: Registry, wanted: Descriptor) -> bytes:
    data = registry.manifest(wanted.digest)
    if data is None:
        raise ReleaseError(f"{wanted.digest} is missing in the registry.", hint="Push the release again.")
    if len(data) != wanted.size:
        raise changed(wanted)
    return data


def _bring(
    blob: Descriptor,
    registry: Registry,
    staging: Staging,
    older: Path | None,
    patches: Patches | None,
    count: Callable[[int], None],
) -> tuple[int, int, int]:
    """Take a blob, make it by a patch, or fetch it; return how many bytes came, were here, and were made."""
    if staging.has(blob, count) or (older and staging.take(blob, older, count)):
        return 0, blob.size, 0

    def fetch(patch: Descriptor) -> int:
        there = staging.has(patch, lambda _: count(0))
        return 0 if there else _fetch_blob(registry, patch, staging, lambda _: count(0))

    made, came = patches.make(blob, staging, fetch, count) if patches else (False, 0)
    if made:
        return came, 0, blob.size
    size = _fetch_blob(registry, blob, staging, count)
    return came + size, blob.size - size, 0


def _fetch_blob(registry: Registry, blob: Descriptor, staging: Staging, count: Callable[[int], None]) -> int:
    """Fetch a blob, going on where an earlier pull ended; returns how many bytes came from the registry."""
    offset, hasher = staging.begun(blob)
    count(offset)
    if staging.append(blob, offset, hasher, registry.read_blob(blob, offset), count):
        return blob.size - offset
    # What an earlier pull left may have been spoilt by a cut of power.
    if offset and staging.write(blob, registry.read_blob(blob, 0), lambda _: count(0)):
        return blob.size
    raise changed(blob)


def _keep(staging: Staging, descriptor: Descriptor, data: bytes) -> None:
    if not staging.write(descriptor, [data], lambda _: None):
        raise changed(descriptor)
