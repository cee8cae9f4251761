"""What is asked of a place that keeps releases. All that comes from one may be hostile, and is held to its digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from edgebuild.releasing.layout import Descriptor


class Registry(Protocol):
    """One repository: blobs by digest, manifests by digest or tag, and what refers to them.

    Everything raises ``ReleaseError`` where the place fails, refuses, or says what can't be.
    """

    def has_blob(self, blob: Descriptor) -> bool:
        """Whether a blob is there, by what the place says."""
        ...

    def put_blob(self, blob: Descriptor, source: Callable[[], BinaryIO], sent: Callable[[int], None]) -> None:
        """Send a blob; ``source`` opens it, again for each try, ``sent`` is told the bytes, negative for a new try."""
        ...

    def read_blob(self, blob: Descriptor, offset: int) -> Iterator[bytes]:
        """Yield a blob from ``offset`` on, at most as many bytes as its descriptor says, not checked by digest."""
        ...

    def manifest(self, name: str) -> bytes | None:
        """Return the manifest or index of a tag or digest, None where there is none; a digest's is that digest's."""
        ...

    def put_manifest(self, name: str, data: bytes, media_type: str) -> None:
        """Store a manifest whose blobs are there, and let ``name``, a tag or its digest, mean it from now on."""
        ...

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Return the manifests that say of themselves that they are about the one of that digest."""
        ...

    def attach(self, manifest: Descriptor, data: bytes, subject: str) -> None:
        """Store a manifest that is about the one of the digest ``subject``, so that ``referrers`` finds it."""
        ...

    def tags(self) -> tuple[str, ...]:
        """Return all tags that people gave, sorted; none where there is no such repository."""
        ...
