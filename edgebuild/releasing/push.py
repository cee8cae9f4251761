"""A bundle on its way into a registry: nothing is sent twice, and the tag comes last.

What isn't there is sent: blobs, then the manifests of the targets, then the release index, then the signatures as its
referrers, and the tag last, so that whoever sees the tag finds all the rest. An interrupted push goes on with the blob
that it was at: registries throw away a half-sent one. A tag that is the version of the release it names doesn't move;
other tags, such as ``prod``, do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.errors import UsageError
from edgebuild.releasing.contents import blobs_of
from edgebuild.releasing.layout import INDEX_TYPE
from edgebuild.releasing.referrers import read_signed
from edgebuild.releasing.registries.reference import is_tag, parse_reference
from edgebuild.releasing.registry import open_registry, require_free

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from edgebuild.core.steps import Progress
    from edgebuild.releasing.bundle import Bundle
    from edgebuild.releasing.layout import Descriptor
    from edgebuild.releasing.registries.port import Registry


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did. ``sent_bytes`` are those of blobs; ``there_bytes`` were there already.

    ``before`` is the digest that the tag meant until then, empty where it is new.
    """

    digest: str
    tag: str
    before: str
    sent_bytes: int
    there_bytes: int
    signatures: int


def push(
    folder: Path,
    to: str,
    *,
    registry: Registry | None = None,
    replace: bool = False,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
) -> Pushed:
    """Send the bundle in ``folder``; ``to`` names the repository, and the tag if it isn't to be the version.

    Raises ``ReleaseError`` for a bundle that isn't whole, a registry that fails, and, unless ``replace``, a version
    that names another release there or a tag that names none.
    """
    reference = parse_reference(to)
    if reference.digest:
        raise UsageError(f"{to!r} names a digest; a release is pushed under a tag.", hint="Leave out what follows @.")
    registry = registry or open_registry(reference, check=check)
    bundle, _ = read_signed(folder)
    layout, release = bundle.layout, bundle.descriptor
    tag = reference.tag or bundle.version
    if not is_tag(tag):
        raise UsageError(f"The version {tag!r} can't be a tag.", hint="Name the tag, as in REGISTRY/NAME:TAG.")
    before = require_free(registry, reference, tag, release.digest, replace=replace)
    sent, there = _send_blobs(bundle, registry, f"push {reference.where}:{tag}", progress or NoProgress(), check)
    for part in bundle.targets:
        registry.put_manifest(part.descriptor.digest, layout.read(part.descriptor), part.descriptor.mediaType)
    index = layout.read(release)
    registry.put_manifest(release.digest, index, INDEX_TYPE)
    for each, manifest in bundle.signatures:
        check()
        if manifest.subject is not None:
            registry.attach(each, layout.read(each), manifest.subject.digest)
    registry.put_manifest(tag, index, INDEX_TYPE)
    return Pushed(
        digest=release.digest,
        tag=tag,
        before=before,
        sent_bytes=sent,
        there_bytes=there,
        signatures=len(bundle.signatures),
    )


def _send_blobs(
    bundle: Bundle, registry: Registry, title: str, progress: Progress, check: Callable[[], None]
) -> tuple[int, int]:
    blobs = blobs_of([*(part.manifest for part in bundle.targets), *(each for _, each in bundle.signatures)])
    return send_blobs(registry, blobs, bundle.layout.open, title=title, progress=progress, check=check)


def send_blobs(
    registry: Registry,
    blobs: Sequence[Descriptor],
    opened: Callable[[Descriptor], BinaryIO],
    *,
    title: str,
    progress: Progress,
    check: Callable[[], None],
) -> tuple[int, int]:
    """Send what a registry hasn't got yet; return the bytes that were sent and those that were there already."""
    sent = there = 0
    with progress.task(title, total=float(sum(each.size for each in blobs))) as task:

        def count(size: int) -> None:
            check()
            task.advance(size)

        for blob in blobs:
            if registry.has_blob(blob):
                there += blob.size
                count(blob.size)
            else:
                registry.put_blob(blob, lambda blob=blob: opened(blob), count)  # type: ignore[misc]
                sent += blob.size
    return sent, there
