"""What a store takes up, and making room in it: least recently used first, never what a living process holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgebuild.core.artifact import is_digest
from edgebuild.execution.disk import folder_bytes, is_file, is_folder, read_plain, remove, sync_folder
from edgebuild.execution.layout import STAGED_PREFIX
from edgebuild.execution.manifest import MAX_MANIFEST_BYTES, Damaged, Manifest, decode
from edgebuild.execution.session import held_by_living

if TYPE_CHECKING:
    from collections.abc import Mapping, Set
    from pathlib import Path

    from edgebuild.execution.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a store takes up. The quota bounds ``total_bytes``; staging of running builds comes on top."""

    entries: int
    blobs: int
    blob_bytes: int
    scratch_bytes: int
    staging_bytes: int
    quota_bytes: int | None

    @property
    def total_bytes(self) -> int:
        """Results and unfinished work together."""
        return self.blob_bytes + self.scratch_bytes


@dataclass(frozen=True, kw_only=True)
class GcReport:
    """What a collection removed. ``within_quota`` is False when what is held alone exceeds the quota."""

    removed_entries: int
    removed_bytes: int
    left_bytes: int
    within_quota: bool


@dataclass(frozen=True, kw_only=True)
class _Unused:
    """Something that may go: a stored entry or unfinished work."""

    last_use_ns: int
    key: str
    manifest: Manifest | None


def measure(layout: Layout, quota_bytes: int | None) -> Usage:
    """Count what lies in the store now."""
    blobs = _blobs(layout)
    return Usage(
        entries=len(_keyed(layout.root / "entries")),
        blobs=len(blobs),
        blob_bytes=sum(blobs.values()),
        scratch_bytes=sum(folder_bytes(path) for path in _keyed(layout.root / "scratch")),
        staging_bytes=folder_bytes(layout.tmp),
        quota_bytes=quota_bytes,
    )


def collect(
    layout: Layout, quota_bytes: int | None, keep: Set[str], spare: Mapping[str, int] = MappingProxyType({})
) -> GcReport:
    """Sweep what dead processes left, then remove unused entries until the quota is met. Needs the exclusive guard.

    ``spare`` are contents (digest to size) that an entry about to be published needs. The order of
    removal leaves no manifest without its contents, whenever it is killed.
    """
    before = measure(layout, quota_bytes).total_bytes
    keep = keep | _sweep_sessions(layout)
    manifests = _read_all(layout)
    removed = _choose(layout, manifests, quota_bytes, keep, spare)
    for key in removed:
        remove(layout.entry(key))
        remove(layout.scratch(key))
    sync_folder(layout.root / "entries")
    left = {key: manifest for key, manifest in manifests.items() if key not in removed}
    _remove_unnamed(layout, left, spare.keys())
    after = measure(layout, quota_bytes).total_bytes
    return GcReport(
        removed_entries=sum(1 for key in removed if key in manifests),
        removed_bytes=before - after,
        left_bytes=after,
        within_quota=quota_bytes is None or after <= quota_bytes,
    )


def _choose(
    layout: Layout,
    manifests: dict[str, Manifest],
    quota_bytes: int | None,
    keep: Set[str],
    spare: Mapping[str, int],
) -> set[str]:
    """Return the keys to remove, least recently used first, until what is left fits."""
    references = dict.fromkeys(spare, 1)
    sizes = dict(spare)
    for manifest in manifests.values():
        for sha256, size in _contents(manifest).items():
            references[sha256] = references.get(sha256, 0) + 1
            sizes[sha256] = size
    scratch = {path.name: folder_bytes(path) for path in _keyed(layout.root / "scratch")}
    total = sum(sizes.values()) + sum(scratch.values())
    removed: set[str] = set()
    for unused in _unused(layout, manifests, scratch, keep):
        if quota_bytes is None or total <= quota_bytes:
            break
        removed.add(unused.key)
        total -= scratch.pop(unused.key, 0)
        for sha256 in _contents(unused.manifest) if unused.manifest else ():
            references[sha256] -= 1
            total -= sizes[sha256] if references[sha256] == 0 else 0
    return removed


def _contents(manifest: Manifest) -> dict[str, int]:
    return {file.sha256: file.size_bytes for file in manifest.files}


def _unused(layout: Layout, manifests: dict[str, Manifest], scratch: dict[str, int], keep: Set[str]) -> list[_Unused]:
    found = []
    for key in (manifests.keys() | scratch.keys()) - keep:
        place = layout.entry(key) if key in manifests else layout.scratch(key)
        found.append(_Unused(last_use_ns=place.lstat().st_mtime_ns, key=key, manifest=manifests.get(key)))
    return sorted(found, key=lambda unused: (unused.last_use_ns, unused.key))


def _sweep_sessions(layout: Layout) -> set[str]:
    """Remove the staging of dead processes; return the keys that living ones hold."""
    held: set[str] = set()
    for folder in _children(layout.tmp):
        keys = held_by_living(folder)
        if keys is None:
            remove(folder)
        else:
            held |= keys
    for path in _children(layout.root):
        if path.name.startswith(STAGED_PREFIX):
            remove(path)
    return held


def _read_all(layout: Layout) -> dict[str, Manifest]:
    """Return every readable manifest; a damaged one, or what isn't a file, is removed: nothing can be made of it."""
    manifests: dict[str, Manifest] = {}
    for path in _keyed(layout.root / "entries"):
        try:
            manifests[path.name] = decode(read_plain(path, MAX_MANIFEST_BYTES + 1), path.name)
        except FileNotFoundError:
            continue
        except (Damaged, OSError):
            if is_file(path) and not os.access(path, os.R_OK):
                raise
            remove(path)
    return manifests


def _remove_unnamed(layout: Layout, manifests: dict[str, Manifest], spare: Set[str]) -> None:
    """Remove folders, records and contents that no manifest names."""
    digests = {manifest.content_digest for manifest in manifests.values()}
    for tree in _keyed(layout.root / "trees"):
        if tree.name not in digests:
            remove(tree)
    for record in _keyed(layout.root / "verified"):
        if record.name not in manifests:
            remove(record)
    named = {file.sha256 for manifest in manifests.values() for file in manifest.files}
    for sha256 in _blobs(layout).keys() - named - spare:
        remove(layout.blob(sha256))


def _blobs(layout: Layout) -> dict[str, int]:
    blobs = [blob for folder in _children(layout.root / "blobs") if is_folder(folder) for blob in _keyed(folder)]
    return {blob.name: blob.lstat().st_size for blob in blobs if blob == layout.blob(blob.name)}


def _keyed(folder: Path) -> list[Path]:
    """Return what a store keeps in one of its folders; whatever else lies there is left alone."""
    return [path for path in _children(folder) if is_digest(path.name)]


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
