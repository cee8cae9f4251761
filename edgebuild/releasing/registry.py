"""Where releases lie: opened by reference, listed, and promoted by a tag. ``push`` and ``pull`` are the way there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.steps import never_stop
from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.bundle import CREATED
from edgebuild.releasing.contents import parse_document, target_of, version_of
from edgebuild.releasing.dsse import BUNDLE_TYPE
from edgebuild.releasing.layout import INDEX_TYPE, Descriptor, Index, descriptor_of
from edgebuild.releasing.override import override_of
from edgebuild.releasing.registries.credentials import find_credentials
from edgebuild.releasing.registries.folder import FolderRegistry
from edgebuild.releasing.registries.http import Http
from edgebuild.releasing.registries.oci import OciRegistry
from edgebuild.releasing.registries.reference import Reference, parse_reference, require_tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.releasing.registries.port import Registry


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A release in a registry; ``signatures`` is how many are over its index, verified by nobody yet.

    ``override`` says why it follows another though a gate held it up; empty where none did.
    """

    digest: str
    version: str
    created: str
    tags: tuple[str, ...]
    targets: tuple[str, ...]
    signatures: int
    override: str


def open_registry(
    reference: Reference, *, plain_http: bool | None = None, check: Callable[[], None] = never_stop
) -> Registry:
    """Return where a reference leads. ``plain_http``: True speaks HTTP, None with this machine only.

    Raises ``EnvironmentGap`` where urllib3 isn't installed, ``UsageError`` for credentials that can't be read.
    """
    if not reference.host:
        return FolderRegistry(reference.repository)
    credentials = find_credentials(reference.host)
    return OciRegistry(
        Http(reference.host, plain=plain_http, credentials=credentials, check=check), reference.repository
    )


def promote(what: str, tag: str, *, registry: Registry | None = None) -> tuple[str, str]:
    """Let ``tag`` mean the release ``what`` from now on; nothing but its index is sent.

    Returns the digest, and the one that the tag meant before, empty where it is new. Raises ``ReleaseError`` where
    there is no such release, or the tag is another release's version, or no release.
    """
    reference = require_named(what)
    require_tag(tag)
    registry = registry or open_registry(reference)
    data = require_index(registry, reference)
    digest = descriptor_of(data, INDEX_TYPE).digest
    before = require_free(registry, reference, tag, digest)
    registry.put_manifest(tag, data, INDEX_TYPE)
    return digest, before


def listed(
    where: str, *, registry: Registry | None = None, check: Callable[[], None] = never_stop
) -> tuple[Listed, ...]:
    """Return the releases of a repository, the oldest first; what else is tagged there is left out.

    Raises ``ReleaseError`` where there is nothing at all.
    """
    reference = parse_reference(where)
    registry = registry or open_registry(reference, check=check)
    found = [
        Listed(
            digest=digest,
            version=version_of(index),
            created=index.annotations.get(CREATED, ""),
            tags=tags,
            targets=tuple(target_of(each) for each in index.manifests),
            override=_override(index),
            signatures=sum(each.artifactType == BUNDLE_TYPE for each in registry.referrers(digest)),
        )
        for digest, (index, tags) in find_releases(registry, reference, check).items()
    ]
    return tuple(sorted(found, key=lambda each: (each.created, each.version, each.digest)))


def find_releases(
    registry: Registry, reference: Reference, check: Callable[[], None]
) -> dict[str, tuple[Index, tuple[str, ...]]]:
    """Return the index and the tags of each release of a repository, or of the one that ``reference`` names.

    What else is tagged there is left out. Raises ``ReleaseError`` where there is no release.
    """
    found: dict[str, tuple[Index, tuple[str, ...]]] = {}
    for name in (reference.name,) if reference.name else registry.tags():
        check()
        data = registry.manifest(name)
        if data is None or (index := _release_in(data)) is None:
            continue
        digest = descriptor_of(data, INDEX_TYPE).digest
        _, tags = found.get(digest, (index, ()))
        found[digest] = index, (*tags, *(() if name == reference.digest else (name,)))
    if not found:
        raise ReleaseError(f"{reference} holds no releases.", hint="Check its name, and that you may read it.")
    return found


def read_small(registry: Registry, blob: Descriptor, limit: int) -> bytes:
    """Return a small blob of a registry, checked; raises ``ReleaseError``."""
    if blob.size > limit:
        raise ReleaseError(f"{blob.digest} has {blob.size:,} bytes; {limit:,} are read at most.")
    data = b"".join(registry.read_blob(blob, 0))
    if descriptor_of(data, blob.mediaType).digest != blob.digest:
        raise changed(blob)
    return data


def require_named(what: str) -> Reference:
    """Parse a reference that must name one release; raises ``UsageError``."""
    reference = parse_reference(what)
    if not reference.name:
        raise UsageError(f"{what!r} names a repository, and no release in it.", hint="Add :TAG or @sha256:DIGEST.")
    return reference


def require_index(registry: Registry, reference: Reference) -> bytes:
    """Return a release index by reference; raises ``ReleaseError`` where there is none, or something else."""
    data = registry.manifest(reference.name)
    if data is None:
        raise ReleaseError(f"There is no release {reference}.", hint="`edgebuild release list` says which there are.")
    version_of(parse_document(data, Index, str(reference)))
    return data


def require_free(registry: Registry, reference: Reference, tag: str, digest: str, *, replace: bool = False) -> str:
    """Return the digest that a tag means now, empty where it is new.

    Raises ``ReleaseError``, unless ``replace``, where it is another release's own version, or no release at all.
    """
    data = registry.manifest(tag)
    if data is None:
        return ""
    before = descriptor_of(data, INDEX_TYPE).digest
    index = _release_in(data)
    if replace or before == digest:
        return before
    if index is None:
        raise ReleaseError(
            f"{reference.where}:{tag} is something else than a release ({before}).",
            hint="Choose another tag or repository; or remove that tag from the registry first.",
        )
    if version_of(index) == tag:
        raise ReleaseError(
            f"{reference.where}:{tag} is another release already ({before}).",
            hint="A version means one release: choose another version; or remove that tag from the registry first.",
        )
    return before


def _override(index: Index) -> str:
    found = override_of(index)
    return "" if found is None else found.text


def _release_in(data: bytes) -> Index | None:
    try:
        index = parse_document(data, Index, "")
        version_of(index)
    except ReleaseError:
        return None
    return index


def changed(blob: Descriptor) -> ReleaseError:
    """Return the error of content that isn't what was asked for."""
    return ReleaseError(
        f"{blob.digest} came with another content.", hint="The registry, or what lies between, changes what it sends."
    )
