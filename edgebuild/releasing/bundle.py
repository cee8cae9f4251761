"""Writes a bundle from build folders, whole or not at all, and reads one: see docs/adr/0023 for its form."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edgebuild.backends.table import backends
from edgebuild.core.artifact import FileEntry, path_problem
from edgebuild.core.artifact_files import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    artifact_of,
    check_files,
    plain_paths,
    read_artifact,
)
from edgebuild.core.golden import FALLBACK, GOLDEN
from edgebuild.core.meaning import Meaning
from edgebuild.core.values import canonical_json
from edgebuild.devices.bundle import build_bundle
from edgebuild.errors import ModelError, ReleaseError, UsageError
from edgebuild.releasing import layout
from edgebuild.releasing.board_script import board_script
from edgebuild.releasing.card import model_card
from edgebuild.releasing.describe import ARTIFACT, describe
from edgebuild.releasing.layout import Descriptor, Index, Layout, LayoutWriter, Manifest, Platform
from edgebuild.releasing.rules import unreleasable
from edgebuild.releasing.sbom import sbom
from edgebuild.releasing.values import TargetRelease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from edgebuild.core.artifact import Artifact, Contract
    from edgebuild.releasing.values import BuildFolder

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
#: What ModelPack calls the precisions.
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
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
        for each in known.values():
            self.layout.check(each)


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


def create(
    builds: Sequence[BuildFolder],
    out: Path,
    *,
    version: str,
    parent: str | None = None,
    meaning: Callable[[Contract], Meaning] = lambda _: Meaning(),
) -> Bundle:
    """Write a bundle of builds, one for each target, into the new folder ``out``, and return it, read back.

    ``meaning`` is what the project says of what an artifact takes and answers. Equal builds give equal bytes. Raises
    ``ReleaseError`` with every reason why one may not be released, ``UsageError`` for two builds of one target, of
    several projects, or an ``out`` that is there already.
    """
    require_version(version)
    _require_fitting(builds)
    if out.exists():
        raise UsageError(f"{out} is there already.", hint="A release is never changed: name another folder or version.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{out} can't be made: {reason}.", hint="Name another folder with --out.") from error
    try:
        made = scratch / "bundle"
        made.mkdir()
        writer = LayoutWriter(made)
        ordered = sorted(builds, key=lambda each: each.record.target)
        parts = [_add_target(writer, build, version, meaning) for build in ordered]
        annotations = {
            TITLE: builds[0].record.project,
            VERSION: version,
            CREATED: max(build.record.started_at for build in builds),
        }
        annotations |= {} if parent is None else {PARENT: parent}
        index = writer.add_value(
            Index(manifests=tuple(parts), annotations=annotations), annotations={layout.VERSION_NAME: version}
        )
        writer.finish([index])
        read_bundle(made).check_all()
        _sync(made)
        made.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return read_bundle(out)


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
    shipped = {each.path: (each.sha256, each.size_bytes) for each in _shipped(part.manifest.layers)}
    shipped.pop(MANIFEST)
    if artifact.digest() != part.release.artifact_digest or listed != shipped:
        raise ReleaseError(f"{part.descriptor.digest} doesn't ship the artifact that it says was measured.")


def _require_fitting(builds: Sequence[BuildFolder]) -> None:
    if not builds:
        raise UsageError("A release needs at least one build.", hint="`--build ID`; `edgebuild build` makes one.")
    targets, projects = ([getattr(b.record, name) for b in builds] for name in ("target", "project"))
    if len(set(targets)) < len(targets):
        raise UsageError("Two of the builds are for the same target.", hint="A release has one build for each target.")
    if len(set(projects)) > 1:
        raise UsageError(f"The builds are of several projects: {', '.join(sorted(set(projects)))}.")
    problems = [f"{each.record.build_id}: {reason}" for each in builds for reason in unreleasable(each)]
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ReleaseError(
            f"This can't be released:\n{listed}",
            hint="A release holds what was measured and accepted, and nothing else.",
        )


def _add_target(
    writer: LayoutWriter, build: BuildFolder, version: str, meaning: Callable[[Contract], Meaning]
) -> Descriptor:
    folder = build.folder / ARTIFACT
    artifact = read_artifact(folder)
    chosen = build.chosen
    if chosen is None or artifact.digest() != chosen.artifact_digest:
        raise ReleaseError(f"The artifact in {folder} isn't the one that the record says was measured.")
    release = describe(build, artifact, version, meaning(artifact.contract))
    layers = [*_documents(writer, build, release, artifact), *_files(writer, build)]
    layers.sort(key=lambda each: each.annotations[FILE_PATH])
    check_files(folder, artifact, _shipped(layers))  # as they were read: a large file is read once
    config = writer.add(_config(release, artifact, layers), MODEL_CONFIG)
    manifest = Manifest(artifactType=MODEL_MANIFEST, config=config, layers=tuple(layers))
    return writer.add_value(
        manifest,
        artifactType=MODEL_MANIFEST,
        platform=Platform(architecture=_oci_architecture(release.requires.architecture), os=release.requires.os),
        annotations={TARGET: release.target},
    )


def _documents(
    writer: LayoutWriter, build: BuildFolder, release: TargetRelease, artifact: Artifact
) -> Iterator[Descriptor]:
    backend = backends()[artifact.backend]
    distribution = next(iter(backend.distributions), artifact.backend)
    for path, data, kind in (
        (RELEASE_FILE, release.to_json().encode(), SETTINGS),
        (SBOM_FILE, sbom(release, artifact, build.record.versions, distribution), DOCUMENT),
        (CARD_FILE, model_card(release, build), DOCUMENT),
        (RUNNER_FILE, build_bundle({artifact.backend: backend.device_file}), CODE),
        (BOARD_FILE, board_script(), CODE),
    ):
        yield writer.add(data, kind, annotations={FILE_PATH: path})


def _files(writer: LayoutWriter, build: BuildFolder) -> Iterator[Descriptor]:
    """Add the files of the build: the artifact, the fallback, golden vectors and all evidence."""
    wanted = [(f"{FALLBACK}/{path}", build.folder / FALLBACK / path, WEIGHTS) for path in _paths(build, FALLBACK)]
    wanted += [
        (f"{ARTIFACT}/{path}", build.folder / ARTIFACT / path, SETTINGS if path == MANIFEST else WEIGHTS)
        for path in _paths(build, ARTIFACT)
    ]
    wanted += [(f"{GOLDEN}/{path}", build.folder / GOLDEN / path, DATA) for path in _paths(build, GOLDEN)]
    wanted.append(("evidence/build.json", build.folder / "build.json", DOCUMENT))
    for evidence in build.record.evidence:
        folder = build.home / evidence.path
        if folder.name in (GOLDEN, FALLBACK):
            continue  # in the bundle by themselves
        name = folder.name if folder.parent == build.folder else evidence.path
        wanted += [(f"evidence/{name}/{path}", folder / path, DOCUMENT) for path in plain_paths(folder)]
    for path, source, kind in wanted:
        try:
            yield writer.add_file(source, kind, annotations={FILE_PATH: path})
        except OSError as error:
            raise ReleaseError(f"{source} can't be read: {error.strerror or error}.") from error


def _paths(build: BuildFolder, name: str) -> tuple[str, ...]:
    return plain_paths(build.folder / name)


def _shipped(layers: Iterable[Descriptor]) -> tuple[FileEntry, ...]:
    """Return the files of the artifact as they are in the bundle."""
    start = f"{ARTIFACT}/"
    return tuple(
        FileEntry(path=path.removeprefix(start), sha256=each.sha256, size_bytes=each.size)
        for each in layers
        if (path := each.annotations[FILE_PATH]).startswith(start)
    )


def _config(release: TargetRelease, artifact: Artifact, layers: Iterable[Descriptor]) -> bytes:
    kind = artifact.precision.kind
    document = {
        "descriptor": {
            "createdAt": release.created,
            "name": release.project,
            "version": release.version,
            "title": f"{release.project} for {release.target}",
        },
        "config": {"format": artifact.backend, "precision": PRECISIONS.get(kind, kind.partition("-")[0])},
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }
    return canonical_json(document).encode()


def _oci_architecture(machine: str) -> str:
    """Return what OCI calls an architecture."""
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}.get(machine, machine)


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


def _sync(folder: Path) -> None:
    """Bring a folder of files to the disk."""
    for parent, _, names in os.walk(folder):
        for path in (*(Path(parent, name) for name in names), Path(parent)):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
