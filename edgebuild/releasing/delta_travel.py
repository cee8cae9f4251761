"""Deltas in a registry: each lies beside the release that it makes, as its referrer.

The manifest of a delta is of ``DELTA_TYPE``: its config is the plan, its layers are the patches in the plan's order,
and its subject is the release index. What a delta's folder holds whole isn't sent, since the release has it there. A
delta isn't signed and needn't be: what a patch makes is held against the digest that the release states, and where it
isn't that, the blob is fetched whole.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact_files import open_plain
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.core.values import digest_file
from edgebuild.errors import EnvironmentGap, ReleaseError, UsageError
from edgebuild.releasing.blobs import blob_path, disk_errors
from edgebuild.releasing.contents import parse_document
from edgebuild.releasing.delta_plan import PATCHES, parse_plan, patched, read_plan, require_zstd
from edgebuild.releasing.layout import (
    INDEX_TYPE,
    MANIFEST_TYPE,
    MAX_JSON_BYTES,
    SHA256,
    Descriptor,
    Manifest,
    descriptor_of,
    oci_bytes,
)
from edgebuild.releasing.push import send_blobs
from edgebuild.releasing.referrers import reference as plain
from edgebuild.releasing.registries.reference import parse_reference
from edgebuild.releasing.registry import changed, open_registry, read_small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgebuild.core.steps import Progress
    from edgebuild.releasing.blobs import Staging
    from edgebuild.releasing.delta_plan import Plan, PlannedBlob
    from edgebuild.releasing.registries.port import Registry

DELTA_TYPE = "application/vnd.dev.edgebuild.delta.v1+json"
PATCH_TYPE = "application/zstd"
#: Of more deltas beside one release, the rest isn't looked at.
MAX_DELTAS = 64


@dataclass(frozen=True, kw_only=True)
class PushedDelta:
    """What the push of a delta did: both release indexes' digests, and bytes that were sent or were there already."""

    start: str
    end: str
    sent_bytes: int
    there_bytes: int


def push_delta(
    folder: Path,
    to: str,
    *,
    registry: Registry | None = None,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
) -> PushedDelta:
    """Send the delta in ``folder`` to the repository ``to``, beside the release that it makes.

    Raises ``ReleaseError`` for a delta that was changed, and where that release isn't there yet.
    """
    where = parse_reference(to)
    if where.name:
        raise UsageError(f"{to!r} names a release; a delta belongs to the one it makes.", hint=f"Use {where.where}.")
    registry = registry or open_registry(where, check=check)
    plan = read_plan(folder)
    release = registry.manifest(plan.end)
    if release is None:
        raise ReleaseError(
            f"{where} hasn't got the release that this delta makes ({plan.end}).", hint="Push that release first."
        )
    with disk_errors(folder):
        manifest = _manifest(plan, tuple(_patches_in(folder, plan)), descriptor_of(release, INDEX_TYPE))
    sources: dict[str, Callable[[], Any]] = {
        patch.digest: lambda blob=blob: open_plain(_patch_path(folder, blob))  # type: ignore[misc]
        for patch, blob in zip(manifest.layers, _patched(plan), strict=True)
    }
    sources[manifest.config.digest] = lambda: io.BytesIO(plan.text())
    sent, there = send_blobs(
        registry,
        (*manifest.layers, manifest.config),
        lambda blob: sources[blob.digest](),
        title=f"push {where}",
        progress=progress or NoProgress(),
        check=check,
    )
    data = oci_bytes(manifest)
    registry.attach(descriptor_of(data, MANIFEST_TYPE, artifactType=DELTA_TYPE), data, plan.end)
    return PushedDelta(start=plan.start, end=plan.end, sent_bytes=sent, there_bytes=there)


class Patches:
    """What a registry's deltas can make of the blobs that lie in ``older``, a bundle or a folder of installed releases.

    The deltas of ``release`` are looked up when the first blob is asked for. One that can't be read counts for nothing.
    ``wanted`` are the digests of the release's own blobs, none of which is a patch.
    """

    def __init__(
        self,
        registry: Registry,
        release: Descriptor,
        older: Path,
        wanted: frozenset[str],
        check: Callable[[], None],
    ) -> None:
        self._registry, self._release, self._older, self._check = registry, release, older, check
        self._wanted = wanted
        self._known: dict[str, list[tuple[Descriptor, PlannedBlob]]] | None = None

    def make(
        self, blob: Descriptor, staging: Staging, fetch: Callable[[Descriptor], int], count: Callable[[int], None]
    ) -> tuple[bool, int]:
        """Make a blob where a patch of it is smaller; return whether it is there now, and how many bytes came.

        ``fetch`` brings a patch into ``staging``, and returns how many bytes of it came.
        """
        fits = [
            (patch, planned)
            for patch, planned in self._of(blob)
            if patch.size < blob.size and patch.digest not in self._wanted and self._base(planned).is_file()
        ]
        if not fits:
            return False, 0
        patch, planned = min(fits, key=lambda each: (each[0].size, each[0].digest))
        place, fetched = blob_path(staging.folder, patch), 0
        try:
            fetched = fetch(patch)
            with open_plain(self._base(planned)) as base, open_plain(place) as file:
                size = os.fstat(base.fileno()).st_size
                whole = staging.write(blob, patched(planned, base, size, file), lambda _: count(0))
        except (ReleaseError, OSError):
            return False, fetched
        finally:
            place.unlink(missing_ok=True)
        count(blob.size if whole else 0)
        return whole, fetched

    def _base(self, planned: PlannedBlob) -> Path:
        return blob_path(self._older, Descriptor(mediaType="", digest=planned.base, size=0))

    def _of(self, blob: Descriptor) -> list[tuple[Descriptor, PlannedBlob]]:
        if self._known is None:
            self._known = {}
            try:
                require_zstd()
            except EnvironmentGap:
                return []
            for patch, planned in self._found():
                self._known.setdefault(planned.digest, []).append((patch, planned))
        return [each for each in self._known.get(blob.digest, []) if each[1].size == blob.size]

    def _found(self) -> Iterator[tuple[Descriptor, PlannedBlob]]:
        listed = [each for each in self._registry.referrers(self._release.digest) if each.artifactType == DELTA_TYPE]
        for each in listed[:MAX_DELTAS]:
            self._check()
            try:
                yield from self._read(each)
            except ReleaseError:
                continue

    def _read(self, listed: Descriptor) -> Iterator[tuple[Descriptor, PlannedBlob]]:
        data = self._registry.manifest(listed.digest)
        if data is None or len(data) != listed.size:
            raise changed(listed)
        manifest = parse_document(data, Manifest, listed.digest)
        plan = parse_plan(read_small(self._registry, manifest.config, MAX_JSON_BYTES), listed.digest)
        if plan.end != self._release.digest or manifest != _manifest(plan, manifest.layers, self._release):
            raise changed(listed)
        return zip(manifest.layers, _patched(plan), strict=True)


def _manifest(plan: Plan, patches: tuple[Descriptor, ...], release: Descriptor) -> Manifest:
    """Return the one manifest of a delta; raises ``ReleaseError`` for other patches than are planned."""
    planned = [sum(each.frames) for each in _patched(plan)]
    layers = tuple(Descriptor(mediaType=PATCH_TYPE, digest=each.digest, size=each.size) for each in patches)
    if [each.size for each in layers] != planned:
        raise ReleaseError("The patches of this delta aren't those of its plan.", hint="Make the delta again.")
    config = descriptor_of(plan.text(), DELTA_TYPE)
    return Manifest(artifactType=DELTA_TYPE, config=config, layers=layers, subject=plain(release))


def _patched(plan: Plan) -> list[PlannedBlob]:
    return [each for each in plan.blobs if each.how == "patch"]


def _patches_in(folder: Path, plan: Plan) -> Iterator[Descriptor]:
    for blob in _patched(plan):
        path = _patch_path(folder, blob)
        yield Descriptor(mediaType=PATCH_TYPE, digest=SHA256 + digest_file(path), size=path.stat().st_size)


def _patch_path(folder: Path, blob: PlannedBlob) -> Path:
    return folder / PATCHES / f"{blob.digest.removeprefix(SHA256)}.zst"
