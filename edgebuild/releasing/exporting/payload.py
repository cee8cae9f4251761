"""What an update tool puts into a folder on the device: a bundle again, which `verify.py install` takes from there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from edgebuild.releasing.exporting.archives import Member, text_member
from edgebuild.releasing.layout import (
    BLOBS,
    INDEX_FILE,
    INDEX_TYPE,
    LAYOUT_FILE,
    LAYOUT_TEXT,
    VERSION_NAME,
    Index,
    descriptor_of,
    oci_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.releasing.exporting.values import Wish
    from edgebuild.releasing.layout import Descriptor

UNSIGNED = (
    "It holds one target of several, so the signatures over the release index stay behind, and a device that asks for "
    "one refuses it. --whole keeps them, and all targets with them."
)


def payload(wish: Wish) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """Return the files of the bundle to deploy, sorted, and what the user should know of it.

    It is the bundle itself, or, of one with several targets, a bundle of the same target manifest under an index of its
    own, unless the ``whole`` is asked for. Contents are held against their digests whenever they are read.
    """
    bundle, part = wish.bundle, wish.part
    if wish.whole or len(bundle.targets) == 1:
        return _members(wish, oci_bytes(bundle.layout.index), {}, tuple(bundle.descriptors())), ()
    kept = [
        (descriptor, manifest)
        for descriptor, manifest in bundle.signatures
        if manifest.subject is not None and manifest.subject.digest == part.descriptor.digest
    ]
    data = oci_bytes(Index(manifests=(part.descriptor,), annotations=bundle.index.annotations))
    release = descriptor_of(data, INDEX_TYPE, annotations={VERSION_NAME: bundle.version})
    blobs = [part.descriptor, part.manifest.config, *part.manifest.layers]
    for descriptor, manifest in kept:
        blobs += [descriptor, manifest.config, *manifest.layers]
    index = oci_bytes(Index(manifests=(release, *(descriptor for descriptor, _ in kept))))
    lost = len(kept) < len(bundle.signatures)
    return _members(wish, index, {release.sha256: data}, blobs), (UNSIGNED,) if lost else ()


def _members(wish: Wish, index: bytes, made: dict[str, bytes], blobs: Sequence[Descriptor]) -> tuple[Member, ...]:
    folder = f"{BLOBS}/sha256"
    files = {f"{folder}/{sha256}": text_member(f"{folder}/{sha256}", data) for sha256, data in made.items()}
    for each in blobs:
        name = f"{folder}/{each.sha256}"
        files[name] = Member(name, each.size, partial(wish.bundle.layout.chunks, each))
    folders = Member(BLOBS), Member(folder)
    outside = text_member(INDEX_FILE, index), text_member(LAYOUT_FILE, LAYOUT_TEXT.encode())
    return (*folders, *(files[name] for name in sorted(files)), *outside)
