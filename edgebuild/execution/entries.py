"""The entries of a local store, one by one: examine, hand out, drop. The caller holds the store's guard."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.core.values import canonical_json, digest_file
from edgebuild.execution import trees
from edgebuild.execution.disk import (
    is_file,
    is_folder,
    make_folder_durably,
    read_plain,
    remove,
    sync_folder,
    write_atomically,
)
from edgebuild.execution.manifest import MAX_MANIFEST_BYTES, Damaged, Manifest, decode
from edgebuild.execution.verification import Record, load_record, settle, signature, unharmed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from edgebuild.core.artifact import FileEntry
    from edgebuild.execution.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stored result. ``path`` is a local read-only folder; ``digest`` depends on file names and contents only."""

    key: str
    path: Path
    digest: str
    files: tuple[FileEntry, ...]
    meta: Mapping[str, Any]
    created: str


def as_entry(layout: Layout, manifest: Manifest) -> Entry:
    """Return the entry that ``manifest`` describes."""
    digest = manifest.content_digest
    return Entry(
        key=manifest.key,
        path=layout.tree(digest),
        digest=digest,
        files=manifest.files,
        meta=manifest.meta,
        created=manifest.created,
    )


def examine(layout: Layout, key: str, staging: Path | None) -> Manifest | None:
    """Return the manifest with all contents verified, None when there is none; raises ``Damaged``.

    ``staging`` is where the record of verified files may be written; None writes nothing.
    """
    try:
        data = read_plain(layout.entry(key), MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        if is_file(layout.entry(key)):
            raise
        raise Damaged("the manifest is a link, or no file") from error
    manifest = decode(data, key)
    record = load_record(layout.verified(key))
    fresh = {name: seen for name, seen in record.items() if name.startswith("tree/")}
    bad = [f for f in manifest.files if not unharmed(layout.blob(f.sha256), f, f.sha256, record, fresh)]
    if bad:
        reason = f"the content of {bad[0].path} is missing or doesn't match its digest"
        raise Damaged(reason, tuple(file.sha256 for file in bad))
    _vouch(layout, key, record, fresh, staging)
    return manifest


def handed_out(layout: Layout, manifest: Manifest, staging: Path | None) -> bool:
    """Whether the entry's folder holds exactly its files. Only for a manifest that was just examined."""
    record = load_record(layout.verified(manifest.key))
    fresh = dict(record)
    whole = trees.is_whole(layout.tree(manifest.content_digest), layout, manifest.files, record, fresh)
    _vouch(layout, manifest.key, record, fresh, staging)
    return whole


def hand_out(layout: Layout, manifest: Manifest, staging: Path) -> Entry:
    """Give an examined entry its folder, if it hasn't a whole one. Needs the exclusive guard."""
    if not handed_out(layout, manifest, None):
        trees.build(layout.tree(manifest.content_digest), layout, manifest.files, staging)
    note_use(layout, manifest.key)
    return as_entry(layout, manifest)


def note_use(layout: Layout, key: str) -> None:
    """Remember that ``key`` was used last of all, where the store can be written.

    The guard's modification time is the store's own clock: it follows the host's and never goes back with it.
    """
    with suppress(OSError):
        tick = max(time.time_ns(), layout.guard.stat().st_mtime_ns + 1)
        os.utime(layout.guard, ns=(tick, tick), follow_symlinks=False)
        os.utime(layout.entry(key), ns=(tick, tick), follow_symlinks=False)


def drop(layout: Layout, key: str, damage: Damaged) -> None:
    """Remove a damaged entry and the contents that are wrong; others that need those find out at their look-up."""
    remove(layout.entry(key))
    sync_folder(layout.entry(key).parent)
    for sha256 in damage.blobs:
        if is_folder(layout.blob(sha256).parent):
            remove(layout.blob(sha256))


def has_blob(layout: Layout, sha256: str) -> bool:
    """Whether the content is there and is right; reads it."""
    blob = layout.blob(sha256)
    return is_file(blob) and is_folder(blob.parent) and digest_file(blob) == sha256


def place_blobs(layout: Layout, contents: Mapping[str, Path]) -> None:
    """Move synced files to their places among the contents, durably. Needs the exclusive guard."""
    for sha256, path in contents.items():
        make_folder_durably(layout.blob(sha256).parent)
        if is_folder(layout.blob(sha256)):
            remove(layout.blob(sha256))
        path.replace(layout.blob(sha256))
    for folder in {layout.blob(sha256).parent for sha256 in contents}:
        sync_folder(folder)


def vouch_for_new(layout: Layout, manifest: Manifest, staging: Path) -> None:
    """Record that the contents of an entry, hashed just now while it was published, needn't be hashed again."""
    settle([layout.blob(file.sha256) for file in manifest.files])
    fresh = {file.sha256: signature(layout.blob(file.sha256).stat()) for file in manifest.files}
    _vouch(layout, manifest.key, {}, fresh, staging)


def _vouch(layout: Layout, key: str, record: Record, fresh: Record, staging: Path | None) -> None:
    if fresh == record or staging is None:
        return
    # Only a shortcut for the next look-up: a full disk must not stop this one.
    with suppress(OSError):
        write_atomically(layout.verified(key), canonical_json(fresh).encode(), staging=staging, durable=False)


def sizes(contents: Iterable[FileEntry]) -> dict[str, int]:
    """Return the size of each distinct content."""
    return {file.sha256: file.size_bytes for file in contents}
