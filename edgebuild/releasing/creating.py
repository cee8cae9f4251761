"""Writes a bundle from build folders, whole or not at all: see docs/adr/0023 for its form."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.backends.table import backends
from edgebuild.core.artifact_files import MANIFEST, check_files, plain_paths, read_artifact
from edgebuild.core.evidence import changed
from edgebuild.core.golden import FALLBACK, GOLDEN
from edgebuild.core.meaning import Meaning
from edgebuild.core.values import canonical_json, digest_file
from edgebuild.devices.bundle import build_bundle
from edgebuild.errors import ReleaseError, UsageError
from edgebuild.execution.abreast import WAITING, abreast
from edgebuild.execution.disk import is_folder, sync_file, sync_folder
from edgebuild.releasing.board_script import board_script
from edgebuild.releasing.bundle import (
    BOARD_FILE,
    CARD_FILE,
    CODE,
    CREATED,
    DATA,
    DOCUMENT,
    FILE_PATH,
    MODEL_CONFIG,
    MODEL_MANIFEST,
    PARENT,
    RELEASE_FILE,
    RUNNER_FILE,
    SBOM_FILE,
    SETTINGS,
    TARGET,
    TITLE,
    VERSION,
    WEIGHTS,
    Bundle,
    read_bundle,
    require_version,
    shipped,
)
from edgebuild.releasing.card import model_card
from edgebuild.releasing.describe import describe
from edgebuild.releasing.layout import VERSION_NAME, Descriptor, Index, LayoutWriter, Manifest, Platform
from edgebuild.releasing.rules import unreleasable
from edgebuild.releasing.sbom import sbom
from edgebuild.releasing.values import ARTIFACT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from edgebuild.core.artifact import Artifact, Contract
    from edgebuild.releasing.values import BuildFolder, TargetRelease

#: What ModelPack calls the precisions.
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


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
    if any(unreleasable(build, ()) for build in builds):
        _require_releasable(builds, digest_file)
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
        digests: dict[Path, str] = {}
        parts = [_add_target(writer, build, version, meaning, digests) for build in ordered]
        # By what was copied, so that evidence is read once and what is in the bundle is what was looked at.
        _require_releasable(ordered, lambda path: digests.get(path) or digest_file(path))
        annotations = {
            TITLE: builds[0].record.project,
            VERSION: version,
            CREATED: max(build.record.started_at for build in builds),
        }
        annotations |= {} if parent is None else {PARENT: parent}
        index = writer.add_value(
            Index(manifests=tuple(parts), annotations=annotations), annotations={VERSION_NAME: version}
        )
        writer.finish([index])
        read_bundle(made)
        _sync(made)
        made.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return read_bundle(out)


def _require_fitting(builds: Sequence[BuildFolder]) -> None:
    if not builds:
        raise UsageError("A release needs at least one build.", hint="`--build ID`; `edgebuild build` makes one.")
    targets, projects = ([getattr(b.record, name) for b in builds] for name in ("target", "project"))
    if len(set(targets)) < len(targets):
        raise UsageError("Two of the builds are for the same target.", hint="A release has one build for each target.")
    if len(set(projects)) > 1:
        raise UsageError(f"The builds are of several projects: {', '.join(sorted(set(projects)))}.")


def _require_releasable(builds: Iterable[BuildFolder], digest: Callable[[Path], str]) -> None:
    """Raise ``ReleaseError`` with every reason against the builds, their evidence among them."""
    problems = [
        f"{each.record.build_id}: {reason}"
        for each in builds
        for reason in unreleasable(each, changed(each.home, each.record.evidence, digest))
    ]
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ReleaseError(
            f"This can't be released:\n{listed}",
            hint="A release holds what was measured and accepted, and nothing else.",
        )


def _add_target(
    writer: LayoutWriter,
    build: BuildFolder,
    version: str,
    meaning: Callable[[Contract], Meaning],
    digests: dict[Path, str],
) -> Descriptor:
    """Add a target with all its files; ``digests`` learns those of the files that were copied, by where they lay."""
    folder = build.folder / ARTIFACT
    artifact = read_artifact(folder)
    chosen = build.chosen
    if chosen is None or artifact.digest() != chosen.artifact_digest:
        raise ReleaseError(f"The artifact in {folder} isn't the one that the record says was measured.")
    release = describe(build, artifact, version, meaning(artifact.contract))
    layers = [*_documents(writer, build, release, artifact), *_files(writer, build, digests)]
    layers.sort(key=lambda each: each.annotations[FILE_PATH])
    check_files(folder, artifact, shipped(layers))  # as they were read: a large file is read once
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


def _files(writer: LayoutWriter, build: BuildFolder, digests: dict[Path, str]) -> list[Descriptor]:
    """Add the files of the build: the artifact, the fallback, golden vectors and all evidence that is there."""
    wanted = [(f"{FALLBACK}/{path}", build.folder / FALLBACK / path, WEIGHTS) for path in _paths(build, FALLBACK)]
    wanted += [
        (f"{ARTIFACT}/{path}", build.folder / ARTIFACT / path, SETTINGS if path == MANIFEST else WEIGHTS)
        for path in _paths(build, ARTIFACT)
    ]
    wanted += [(f"{GOLDEN}/{path}", build.folder / GOLDEN / path, DATA) for path in _paths(build, GOLDEN)]
    wanted.append(("evidence/build.json", build.folder / "build.json", DOCUMENT))
    for evidence in build.record.evidence:
        folder = build.home / evidence.path
        if folder.name in (GOLDEN, FALLBACK) or not is_folder(folder):
            continue  # in the bundle by themselves, or a reason against it
        name = folder.name if folder.parent == build.folder else evidence.path
        wanted += [(f"evidence/{name}/{path}", folder / path, DOCUMENT) for path in plain_paths(folder)]

    def add(file: tuple[str, Path, str]) -> Descriptor:
        path, source, kind = file
        try:
            return writer.add_file(source, kind, annotations={FILE_PATH: path})
        except OSError as error:
            raise ReleaseError(f"{source} can't be copied: {error.strerror or error}.") from error

    added = abreast(add, wanted)
    digests.update((source, each.sha256) for (_, source, _), each in zip(wanted, added, strict=True))
    return added


def _paths(build: BuildFolder, name: str) -> tuple[str, ...]:
    return plain_paths(build.folder / name)


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


def _sync(folder: Path) -> None:
    """Bring a folder of files to the disk."""
    found = list(os.walk(folder))
    abreast(sync_file, [Path(parent, name) for parent, _, names in found for name in names], WAITING)
    for parent, _, _ in found:
        sync_folder(Path(parent))
