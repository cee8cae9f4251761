"""The content-addressed store: a step's result is there whole and undamaged, or not at all.

::

    <root>/VERSION            the format
    <root>/blobs/ab/<sha256>  contents, read-only, each once
    <root>/entries/<key>      manifests; writing one is the commit, and its modification time is the last use
    <root>/trees/<digest>/    an entry's files under their names: hard links to blobs, in read-only folders
    <root>/verified/<key>     which blobs were hashed, and when (a cache)
    <root>/scratch/<key>/     unfinished work of a step, to resume from
    <root>/labels/<digest>    what a label was last made from, for ``explain``
    <root>/locks/             one lock per key that is being made
    <root>/tmp/<session>/     staging of a living process
    <root>/guard              shared by look-ups, exclusive for publishing, dropping and ``gc``

Order of a commit: contents are staged and synced, moved to ``blobs``, and last the manifest appears by a rename. A kill
before that leaves contents without a manifest, which ``gc`` removes; the manifest never names what isn't there.
Damage is evident, not impossible: every look-up checks every file (see ``verification``). A damaged entry is dropped,
noted in ``damaged`` and reported as absent, so that it is made again.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact import is_digest
from edgebuild.errors import EdgebuildError, StoreError
from edgebuild.execution import entries
from edgebuild.execution.collect import GcReport, Usage, collect, measure
from edgebuild.execution.disk import READ_ONLY_HINT, disk_errors, sync_file, sync_folder, write_staged
from edgebuild.execution.layout import Layout, open_layout
from edgebuild.execution.lock import guard
from edgebuild.execution.manifest import Damaged, Manifest, copy_plain, encode, list_folder
from edgebuild.execution.remote import Remote, cache_folder, is_url
from edgebuild.execution.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set

    from edgebuild.execution.entries import Entry


@dataclass(frozen=True, kw_only=True)
class Damage:
    """An entry that was found damaged, and was dropped where the store can be written."""

    key: str
    reason: str


class Store:
    """A store on this machine's disk, or one at an fsspec URL with a local store in front of it.

    Every method raises ``StoreError``, with the stored entries as they were, when the disk or the URL fails.
    ``damaged`` lists what was found damaged since the store was opened.
    """

    def __init__(self, layout: Layout, *, quota_bytes: int | None = None, remote: Remote | None = None) -> None:
        self.root = layout.root
        self.layout = layout
        self.quota_bytes = quota_bytes
        self.damaged: list[Damage] = []
        self._remote = remote
        self._session: Session | None = None

    @classmethod
    def open(cls, where: str | Path, *, quota_bytes: int | None = None, cache: Path | None = None) -> Store:
        """Open, or create, the store at a folder or an fsspec URL.

        A URL is a shared store: results are fetched, verified and kept in the local folder ``cache`` (default: under
        ``$XDG_CACHE_HOME/edgebuild``). ``quota_bytes`` bounds the local store. Raises ``StoreError`` for a newer
        format, a folder that holds something else, or a place that can't be used.
        """
        if not is_url(where):
            return cls(open_layout(Path(where)), quota_bytes=quota_bytes)
        remote = Remote.open(str(where))
        return cls(open_layout(cache or cache_folder(str(where))), quota_bytes=quota_bytes, remote=remote)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes collect what this one used; the store can still be used afterwards."""
        if self._session is not None:
            self._session.close()
            self._session = None

    @property
    def url(self) -> str | None:
        """Where the shared store lies that this one is in front of; None for a store on this machine's disk alone."""
        return None if self._remote is None else self._remote.url

    # Reading

    def lookup(self, key: str) -> Entry | None:
        """Return the entry of ``key`` with every file verified, or None. A damaged entry is dropped and noted."""
        if not is_digest(key):
            raise EdgebuildError(f"{key!r} is not a store key")
        with disk_errors(self.root, "a look-up"):
            entry = self._lookup_local(key)
            if entry is None and self._remote is not None:
                entry = self._fetch(self._remote, key)
            return entry

    def materialise(self, entry: Entry) -> Path:
        """Return a local read-only folder with exactly the entry's files, verified now.

        Raises ``StoreError`` when the entry was damaged or collected since it was looked up.
        """
        found = self.lookup(entry.key)
        if found is None or found.digest != entry.digest:
            raise StoreError(
                f"a stored result that is needed is gone from {self.root}", hint="run the build again to make it again"
            )
        return found.path

    def intact(self, entry: Entry) -> bool:
        """Whether the entry's folder still holds exactly what was stored; reads only files that were touched."""
        with disk_errors(self.root, "a check"), self._guard(exclusive=False):
            try:
                manifest = entries.examine(self.layout, entry.key, self._notes)
            except Damaged:
                return False
            return manifest is not None and entries.handed_out(self.layout, manifest, self._notes)

    def _lookup_local(self, key: str) -> Entry | None:
        with self._guard(exclusive=False):
            if self.layout.writable:
                self._live().hold(key)
            try:
                manifest = entries.examine(self.layout, key, self._notes)
            except Damaged as damage:
                if not self.layout.writable:
                    self.damaged.append(Damage(key=key, reason=str(damage)))
                    return None
            else:
                if manifest is None:
                    return None
                if entries.handed_out(self.layout, manifest, self._notes):
                    entries.note_use(self.layout, key)
                    return entries.as_entry(self.layout, manifest)
        self.require_writable("restoring a result")
        with self._staging() as staging, self._guard(exclusive=True):
            return self._restore(key, staging)

    def _restore(self, key: str, staging: Path) -> Entry | None:
        """Drop a damaged entry, or give a whole one its folder back. Needs the exclusive guard."""
        try:
            manifest = entries.examine(self.layout, key, self._notes)
        except Damaged as damage:
            self.damaged.append(Damage(key=key, reason=str(damage)))
            entries.drop(self.layout, key, damage)
            return None
        return None if manifest is None else entries.hand_out(self.layout, manifest, staging)

    def _fetch(self, remote: Remote, key: str) -> Entry | None:
        self.require_writable("fetching a result")
        with self._staging() as staging:
            contents = staging / "contents"
            contents.mkdir()
            try:
                found = remote.fetch(key, contents)
            except Damaged as damage:
                self.damaged.append(Damage(key=key, reason=str(damage)))
                remote.drop(key, damage.blobs)
                return None
            return None if found is None else self._publish(*found, staging)

    # Writing

    def commit(self, key: str, folder: Path, meta: Mapping[str, Any]) -> Entry:
        """Store the files below ``folder`` under ``key``, durably, and return the entry.

        A folder lent by ``work_folder`` is consumed, any other one copied. Where ``key`` is stored already, that entry
        stays and is returned. Raises ``EdgebuildError`` for an empty folder and for anything but plain files in it,
        ``StoreError`` when the disk is full, the quota can't be met or the store is read-only.
        """
        self.require_writable("keeping a result")
        with disk_errors(self.root, "keeping a result"), self._staging() as staging:
            if not folder.is_relative_to(self._live().folder):
                folder = copy_plain(folder, staging / "copy")
            files = list_folder(folder)
            if not files:
                raise EdgebuildError(f"there is nothing to store in {folder}")
            created = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = Manifest(key=key, created=created, files=files, meta=dict(meta))
            contents = {file.sha256: folder / file.path for file in files}
            if self._remote is not None:
                self._remote.push(manifest, contents)
            return self._publish(manifest, contents, staging)

    def _publish(self, manifest: Manifest, contents: Mapping[str, Path], staging: Path) -> Entry:
        """Make the manifest visible once its contents are durable; what needs room on the disk is staged before."""
        for path in contents.values():
            path.chmod(0o444)
            sync_file(path)
        staged = write_staged(staging, encode(manifest))
        layout, key = self.layout, manifest.key
        with self._guard(exclusive=True):
            self._live().hold(key)
            with suppress(Damaged):
                stored = entries.examine(layout, key, self._notes)
                if stored is not None:
                    return entries.hand_out(layout, stored, staging)
            missing = {sha256: path for sha256, path in contents.items() if not entries.has_blob(layout, sha256)}
            self._make_room(manifest, missing.keys())
            entries.place_blobs(layout, missing)
            staged.replace(layout.entry(key))
            sync_folder(layout.entry(key).parent)
            entry = entries.hand_out(layout, manifest, staging)
        entries.vouch_for_new(layout, manifest, staging)
        return entry

    def _make_room(self, manifest: Manifest, missing: Set[str]) -> None:
        """Collect unused entries until the missing contents fit into the quota. Needs the exclusive guard."""
        quota = self.quota_bytes
        contents = entries.sizes(manifest.files)
        new_bytes = sum(contents[sha256] for sha256 in missing)
        if quota is None or measure(self.layout, quota).total_bytes + new_bytes <= quota:
            return
        present = {sha256: size for sha256, size in contents.items() if sha256 not in missing}
        report = collect(self.layout, quota - new_bytes, self._live().held, present)
        if report.left_bytes + new_bytes > quota:
            raise StoreError(
                f"the quota of the store {self.root} is too small: of {quota:,} bytes {report.left_bytes:,} are in use"
                f" by running builds, and {new_bytes:,} more are needed",
                hint="raise the quota of the store",
            )

    def require_writable(self, doing: str) -> None:
        """Raise ``StoreError`` on a read-only store, before any work is spent."""
        if not self.layout.writable:
            raise StoreError(f"the store {self.root} is read-only: {doing} isn't possible", hint=READ_ONLY_HINT)

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Lend an empty folder on the store's disk, for a result that is then committed; removed afterwards."""
        self.require_writable("making a result")
        with self._staging() as staging:
            folder = staging / "out"
            with disk_errors(self.root, "making a folder"):
                folder.mkdir()
            yield folder

    # Housekeeping

    def usage(self) -> Usage:
        """Return what the local store takes up."""
        with disk_errors(self.root, "measuring it"), self._guard(exclusive=False):
            return measure(self.layout, self.quota_bytes)

    def gc(self, quota_bytes: int | None = None, keep: Set[str] = frozenset()) -> GcReport:
        """Sweep what dead processes left; with a quota, remove the least recently used entries until it is met.

        Never removes a key in ``keep``, nor one that a living process has used. A shared store at a URL is not
        collected, only the local one in front of it: other people's builds can't be seen from here.
        """
        self.require_writable("collecting")
        with disk_errors(self.root, "collecting"), self._guard(exclusive=True):
            held = self._session.held if self._session is not None else set()
            return collect(self.layout, quota_bytes, keep | held)

    @property
    def _notes(self) -> Path | None:
        """Where small records are staged; None in a store that is only read."""
        return self._session.folder if self._session is not None else None

    def _live(self) -> Session:
        if self._session is None:
            self._session = Session(self.layout.tmp)
        return self._session

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        with disk_errors(self.root, "making a folder"), self._guard(exclusive=False):
            session = self._live()
        with session.work_folder() as folder:
            yield folder

    @contextmanager
    def _guard(self, *, exclusive: bool) -> Iterator[None]:
        """Keep collections away from look-ups, and publishing to one process at a time."""
        with guard(self.layout.guard, exclusive=exclusive) if self.layout.guard.exists() else nullcontext():
            yield
