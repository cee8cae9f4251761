"""What hangs together in a bundle: from ``index.json`` to the release index, its targets, their files, and signatures.

Reading it checks all that is JSON; ``check_contents`` reads the rest. Everything raises ``ReleaseError``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.artifact import path_problem
from edgebuild.errors import ReleaseError
from edgebuild.releasing.dsse import BUNDLE_TYPE
from edgebuild.releasing.layout import (
    EMPTY,
    EMPTY_TYPE,
    INDEX_FILE,
    INDEX_TYPE,
    VERSION_NAME,
    Descriptor,
    Index,
    Layout,
    Manifest,
    descriptor_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"
TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
TARGET = "dev.edgebuild.target"
FILE_PATH = "org.cncf.model.filepath"

#: Far more than any release has; each of them is read.
MAX_TARGETS = 256
MAX_SIGNATURES = 1024
MAX_NAME_CHARACTERS = 200
_NOT_OURS = "A bundle is the folder that `edgebuild release create` makes; copy or pull it again."


@dataclass(frozen=True)
class Target:
    """What a release holds for one target. ``files`` are path → SHA-256 in hex, sorted by path."""

    name: str
    descriptor: Descriptor
    manifest: Manifest
    files: dict[str, str]


@dataclass(frozen=True)
class StoredSignature:
    """A signature as it lies in a bundle; ``target`` is None where it is of the release index."""

    descriptor: Descriptor
    manifest: Manifest
    target: Target | None

    @property
    def blob(self) -> Descriptor:
        """Where the signature itself is."""
        return self.manifest.layers[0]


@dataclass(frozen=True)
class Release:
    """A bundle, read: ``descriptor`` is of the release index, from which digests lead to every byte of the release."""

    layout: Layout
    descriptor: Descriptor
    index: Index
    project: str
    version: str
    targets: tuple[Target, ...]
    signatures: tuple[StoredSignature, ...]

    @property
    def name(self) -> str:
        """Project and version, as they are signed."""
        return f"{self.project}:{self.version}"

    def parts(self) -> Iterator[Descriptor]:
        """Yield the descriptor of every blob, those that stand twice twice."""
        yield self.descriptor
        listed = [(each.descriptor, each.manifest) for each in self.targets]
        listed += [(each.descriptor, each.manifest) for each in self.signatures]
        for descriptor, manifest in listed:
            yield descriptor
            yield manifest.config
            yield from manifest.layers


def read_release(folder: Path) -> Release:
    """Read a bundle down to its manifests; contents of files aren't read."""
    layout = Layout(folder)
    first, *others = layout.index.manifests or (None,)
    if layout.index != Index(manifests=layout.index.manifests):
        raise ReleaseError(f"{INDEX_FILE} in {folder} says more than where the release is.", hint=_NOT_OURS)
    if first is None or first.mediaType != INDEX_TYPE:
        raise ReleaseError(f"{INDEX_FILE} in {folder} doesn't begin with the index of a release.", hint=_NOT_OURS)
    index = layout.nested(first)
    project, version = (_name(index.annotations.get(key, ""), key) for key in (TITLE, VERSION))
    if first != reference(first).model_copy(update={"annotations": {VERSION_NAME: version}}):
        raise ReleaseError(f"{INDEX_FILE} in {folder} names the release otherwise than its index.", hint=_NOT_OURS)
    if not 0 < len(index.manifests) <= MAX_TARGETS or len(others) > MAX_SIGNATURES:
        raise ReleaseError(f"{folder} holds no target, or more targets or signatures than any release.")
    targets = tuple(_target(layout, each) for each in index.manifests)
    names = [each.name for each in targets]
    if names != sorted(set(names)):
        raise ReleaseError(f"The targets of {project}:{version} aren't sorted, or one stands twice.", hint=_NOT_OURS)
    digests = [each.digest for each in others]
    if digests != sorted(set(digests)):
        raise ReleaseError(f"{INDEX_FILE} in {folder} isn't sorted, or lists a signature twice.", hint=_NOT_OURS)
    signatures = tuple(_signature(layout, each, first, targets) for each in others)
    return Release(layout, first, index, project, version, targets, signatures)


def check_contents(release: Release) -> None:
    """Read every file of a release once, and hold it against its digest; then nothing else may lie in the folder."""
    release.layout.require_nothing_else(release.parts())
    for descriptor in {(each.digest, each.size): each for each in release.parts()}.values():
        release.layout.check(descriptor)


def reference(descriptor: Descriptor) -> Descriptor:
    """Return a descriptor as ``subject`` of a signature: type, digest and size, nothing that stands beside them."""
    return Descriptor(mediaType=descriptor.mediaType, digest=descriptor.digest, size=descriptor.size)


def _target(layout: Layout, descriptor: Descriptor) -> Target:
    name = _name(descriptor.annotations.get(TARGET, ""), TARGET)
    manifest = layout.manifest(descriptor)
    if manifest.artifactType != MODEL_TYPE or manifest.subject is not None or "/" in name:
        raise ReleaseError(f"What the release holds for target {name!r} is no {MODEL_TYPE}.", hint=_NOT_OURS)
    paths = [layer.annotations.get(FILE_PATH, "") for layer in manifest.layers]
    for path in paths:
        if problem := path_problem(path):
            raise ReleaseError(f"The file {path!r} of target {name!r} can't be used: {problem}.", hint=_NOT_OURS)
    folders = {parent for path in paths for parent in _parents(path)}
    if not paths or paths != sorted(set(paths)) or folders & set(paths):
        raise ReleaseError(
            f"The files of target {name!r} aren't sorted, or two of them have the same place.", hint=_NOT_OURS
        )
    return Target(
        name, descriptor, manifest, {path: layer.sha256 for path, layer in zip(paths, manifest.layers, strict=True)}
    )


def _signature(
    layout: Layout, descriptor: Descriptor, index: Descriptor, targets: tuple[Target, ...]
) -> StoredSignature:
    manifest = layout.manifest(descriptor)
    where = f"The signature {descriptor.digest}"
    whole = signature_manifest(manifest.layers[0], manifest.subject) if manifest.layers and manifest.subject else None
    listed = reference(descriptor).model_copy(update={"artifactType": BUNDLE_TYPE})
    if manifest != whole or descriptor != listed:
        raise ReleaseError(f"{where} isn't stored as signatures of releases are.", hint=_NOT_OURS)
    if manifest.subject == reference(index):
        return StoredSignature(descriptor, manifest, None)
    for target in targets:
        if manifest.subject == reference(target.descriptor):
            return StoredSignature(descriptor, manifest, target)
    raise ReleaseError(f"{where} is of something that isn't in this bundle.", hint="Remove it, or pull it again.")


def signature_manifest(blob: Descriptor, subject: Descriptor) -> Manifest:
    """Return the manifest of a signature; nothing may be said of the blob that isn't signed."""
    empty = descriptor_of(EMPTY, EMPTY_TYPE)
    layer = Descriptor(mediaType=BUNDLE_TYPE, digest=blob.digest, size=blob.size)
    return Manifest(artifactType=BUNDLE_TYPE, config=empty, layers=(layer,), subject=reference(subject))


def _name(text: str, annotation: str) -> str:
    if not 0 < len(text) <= MAX_NAME_CHARACTERS or not text.isprintable():
        raise ReleaseError(f"The release's annotation {annotation} is missing or no name.", hint=_NOT_OURS)
    return text


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
