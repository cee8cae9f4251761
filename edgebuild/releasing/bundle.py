"""Reads a bundle: see docs/adr/0023 for its form, and ``creating`` for how one is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edgebuild.core.artifact import FileEntry, path_problem
from edgebuild.core.artifact_files import MANIFEST, MAX_MANIFEST_BYTES, artifact_of
from edgebuild.errors import ModelError, ReleaseError, UsageError
from edgebuild.releasing import layout
from edgebuild.releasing.layout import Descriptor, Index, Layout, Manifest
from edgebuild.releasing.values import ARTIFACT, TargetRelease

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MODEL_MANIFEST = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
_KIND = "application/vnd.cncf.model.{}.v1.raw"
WEIGHTS, SETTINGS = _KIND.format("weight"), _KIND.format("weight.config")
DOCUMENT, CODE, DATA = _KIND.format("doc"), _KIND.format("code"), _KIND.format("dataset")
FILE_PATH = "org.cncf.model.filepath"
TARGET, PARENT = "dev.edgebuild.target", "dev.edgebuild.parent"
TITLE, VERSION, CREATED = (f"org.opencontainers.image.{name}" for name in ("title", "version", "created"))

RELEASE_FILE, SBOM_FILE, CARD_FILE = "release.json", "sbom.cdx.json", "MODEL_CARD.md"
RUNNER_FILE, BOARD_FILE = "runner.pyz", "verify.py"
NOT_OURS = "It wasn't made by `edgebuild release create`."
MAX_VERSION_CHARACTERS = 64
MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class TargetPart:
    """One target of a bundle that was read: where its manifest is, the manifest, and what the release says of it."""

    descriptor: Descriptor
    manifest: Manifest
    release: TargetRelease

    def files(self) -> dict[str, Descriptor]:
        """Return its files by path."""
        return {layer.annotations[FILE_PATH]: layer for layer in self.manifest.layers}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was read: every document checked, every other blob still to be held against its digest."""

    layout: Layout
    descriptor: Descriptor
    index: Index
    targets: tuple[TargetPart, ...]
    signatures: tuple[tuple[Descriptor, Manifest], ...]

    @property
    def version(self) -> str:
        """The release's version."""
        return self.index.annotations[VERSION]

    @property
    def project(self) -> str:
        """The project's name."""
        return self.index.annotations[TITLE]

    def descriptors(self) -> Iterator[Descriptor]:
        """Yield everything that belongs to the bundle."""
        yield self.descriptor
        for part in self.targets:
            yield from (part.descriptor, part.manifest.config, *part.manifest.layers)
        for descriptor, manifest in self.signatures:
            yield from (descriptor, manifest.config, *manifest.layers)

    def check_all(self) -> None:
        """Read every blob and hold it against its digest; raise ``ReleaseError`` for anything else that lies there."""
        known = {(each.digest, each.size): each for each in self.descriptors()}
        self.layout.require_nothing_else(known.values())
        self.layout.check_all(known.values())


def require_version(version: str) -> str:
    """Return a version that a registry takes as a tag, and a folder as a name; raises ``UsageError``."""
    if not is_version(version):
        raise UsageError(
            f"{version[:MAX_NAME_CHARACTERS]!r} can't be a release's version.",
            hint=f"Use up to {MAX_VERSION_CHARACTERS} letters, digits, dots, dashes and underscores, such as 1.4.0 or "
            "2026.12-rc1, a letter or digit first.",
        )
    return version


def is_version(text: str) -> bool:
    """Whether a text can be a release's version."""
    plain = text.replace(".", "").replace("-", "").replace("_", "")
    return plain.isascii() and plain.isalnum() and text[0].isalnum() and len(text) <= MAX_VERSION_CHARACTERS


def is_name(text: str) -> bool:
    """Whether a text can name a project or a target: it is printed, and part of paths."""
    plain = text.isprintable() and not {"/", "\\"} & set(text) and text.strip(".") != ""
    return plain and len(text) <= MAX_NAME_CHARACTERS


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle's documents. Raises ``ReleaseError`` where they aren't those of one."""
    found = Layout(folder)
    if not found.index.manifests:
        raise ReleaseError(f"{folder} holds no release.")
    first, *referrers = found.index.manifests
    index = found.nested(first)
    names = {TITLE, VERSION, CREATED}
    if not names <= index.annotations.keys():
        raise ReleaseError(f"{folder} doesn't say which project and version it is of.")
    if not is_version(index.annotations[VERSION]) or not is_name(index.annotations[TITLE]):
        raise ReleaseError(f"{folder} names its project or its version as no release does.", hint=NOT_OURS)
    said = {layout.VERSION_NAME: index.annotations[VERSION]}
    plain = Descriptor(mediaType=first.mediaType, digest=first.digest, size=first.size, annotations=said)
    if first != plain or found.index != Index(manifests=found.index.manifests):
        raise ReleaseError(f"{layout.INDEX_FILE} in {folder} says more than where the release is, or another version.")
    parts = tuple(_read_target(found, each, index) for each in index.manifests)
    targets = [part.release.target for part in parts]
    if not all(map(is_name, targets)):
        raise ReleaseError(f"{folder} names a target as no release does.", hint=NOT_OURS)
    if targets != sorted(set(targets)) or not targets:
        raise ReleaseError(f"{folder} lists a target twice, or none, or in another order than releases have.")
    signatures = tuple((each, _signature(found, each)) for each in referrers)
    return Bundle(layout=found, descriptor=first, index=index, targets=parts, signatures=signatures)


def require_measured_artifact(bundle: Bundle, part: TargetPart) -> None:
    """Raise ``ReleaseError`` where a target ships another artifact than the one that it says was measured."""
    layer = part.files().get(f"{ARTIFACT}/{MANIFEST}")
    if layer is None:
        raise ReleaseError(f"{part.descriptor.digest} ships no artifact.", hint=NOT_OURS)
    try:
        artifact = artifact_of(bundle.layout.read(layer, limit=MAX_MANIFEST_BYTES))
    except ModelError as error:
        raise ReleaseError(f"The artifact of {part.descriptor.digest} can't be read: {error.message}") from error
    listed = {each.path: (each.sha256, each.size_bytes) for each in artifact.files}
    there = {each.path: (each.sha256, each.size_bytes) for each in shipped(part.manifest.layers)}
    there.pop(MANIFEST)
    if artifact.digest() != part.release.artifact_digest or listed != there:
        raise ReleaseError(f"{part.descriptor.digest} doesn't ship the artifact that it says was measured.")


def shipped(layers: Iterable[Descriptor]) -> tuple[FileEntry, ...]:
    """Return the files of the artifact as they are in the bundle."""
    start = f"{ARTIFACT}/"
    return tuple(
        FileEntry(path=path.removeprefix(start), sha256=each.sha256, size_bytes=each.size)
        for each in layers
        if (path := each.annotations[FILE_PATH]).startswith(start)
    )


def _read_target(found: Layout, descriptor: Descriptor, index: Index) -> TargetPart:
    manifest = found.manifest(descriptor)
    if manifest.artifactType != MODEL_MANIFEST or descriptor.artifactType != MODEL_MANIFEST or manifest.subject:
        raise ReleaseError(f"{descriptor.digest} is no manifest of a model.")
    paths = [layer.annotations.get(FILE_PATH, "") for layer in manifest.layers]
    bad = next((path for path in paths if path_problem(path)), None)
    if bad is not None or paths != sorted(set(paths)) or RELEASE_FILE not in paths:
        what = f"names a file {bad!r}" if bad is not None else "lists its files twice, in another order, or not all"
        raise ReleaseError(f"{descriptor.digest} {what}.", hint="It wasn't made by `edgebuild release create`.")
    for path in paths:
        if any(other.startswith(f"{path}/") for other in paths):
            raise ReleaseError(f"{descriptor.digest} has {path!r} both as a file and as a folder.")
    try:
        layer = manifest.layers[paths.index(RELEASE_FILE)]
        release = TargetRelease.model_validate_json(found.read(layer))
    except ValidationError as error:
        raise ReleaseError(
            f"The {RELEASE_FILE} of {descriptor.digest} can't be read: {error.errors()[0]['msg']}."
        ) from error
    said = {TARGET: release.target}
    if (release.version, release.project) != (index.annotations[VERSION], index.annotations[TITLE]) or said != (
        descriptor.annotations
    ):
        raise ReleaseError(f"{descriptor.digest} says that it is of another release or target than it is listed under.")
    return TargetPart(descriptor=descriptor, manifest=manifest, release=release)


def _signature(found: Layout, descriptor: Descriptor) -> Manifest:
    manifest = found.manifest(descriptor)
    if manifest.subject is None or manifest.artifactType != descriptor.artifactType or descriptor.annotations:
        raise ReleaseError(f"{descriptor.digest} is listed beside the release and is no signature of it.")
    return manifest
