"""A folder as a registry: an OCI image layout that holds several releases, on a disk or a share.

Tools such as skopeo read it as ``oci:FOLDER:TAG``. Referrers stand in ``index.json`` without a name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgebuild.core.files import expanded
from edgebuild.core.values import CHUNK_BYTES
from edgebuild.errors import ReleaseError
from edgebuild.execution.disk import sync_folder, write_atomically
from edgebuild.releasing.blobs import blob_path, copy_checked, disk_errors
from edgebuild.releasing.layout import (
    BLOBS,
    INDEX_FILE,
    LAYOUT_FILE,
    LAYOUT_TEXT,
    MANIFEST_TYPE,
    SHA256,
    VERSION_NAME,
    Descriptor,
    Layout,
    descriptor_of,
    write_index,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO


#: Tells a folder of releases from a release, which is such a layout, too.
MARKER = ".edgebuild-folder-of-releases"
_DAMAGED = "Copy it again from where it came."


class FolderRegistry:
    """One folder: see ``port.Registry``. It is made by the first push."""

    def __init__(self, folder: str) -> None:
        self._folder = expanded(folder)

    def has_blob(self, blob: Descriptor) -> bool:
        """Whether a plain file of its name and size is there; whoever pulls it checks the digest."""
        path = blob_path(self._folder, blob)
        return path.is_file() and not path.is_symlink() and path.stat().st_size == blob.size

    def put_blob(self, blob: Descriptor, source: Callable[[], BinaryIO], sent: Callable[[int], None]) -> None:
        """Copy a blob, checked on the way."""
        with self._writing():
            unnamed = self._folder / BLOBS / f".new-{secrets.token_hex(8)}"
            try:
                with source() as file, unnamed.open("xb") as out:
                    chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
                    if not copy_checked(out, blob, 0, hashlib.sha256(), chunks, sent):
                        raise ReleaseError(f"{blob.digest} was changed since the bundle was made.", hint=_DAMAGED)
                unnamed.replace(blob_path(self._folder, blob))
            finally:
                unnamed.unlink(missing_ok=True)
            sync_folder(self._folder / BLOBS / "sha256")

    def read_blob(self, blob: Descriptor, offset: int) -> Iterator[bytes]:
        """Yield a blob from ``offset`` on."""
        with disk_errors(self._folder), Layout(self._folder).open(blob) as file:
            file.seek(offset)
            left = blob.size - offset
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk

    def manifest(self, name: str) -> bytes | None:
        """Return a manifest, checked; where two have one name, none is believed."""
        found = self._named(name)
        return Layout(self._folder).read(found) if found else None

    def _named(self, name: str) -> Descriptor | None:
        if not name.startswith(SHA256):
            found = [each for each in self._listed() if each.annotations.get(VERSION_NAME) == name]
            if len(found) > 1:
                raise ReleaseError(f"{self._folder} gives the name {name!r} to {len(found)} releases.", hint=_DAMAGED)
            return found[0] if found else None
        asked = Descriptor(mediaType=MANIFEST_TYPE, digest=name, size=0)
        try:
            size = blob_path(self._folder, asked).lstat().st_size
        except OSError:
            return None
        return asked.model_copy(update={"size": size})

    def put_manifest(self, name: str, data: bytes, media_type: str) -> None:
        """Store a manifest; a tag is written into ``index.json``, whole or not at all."""
        made = descriptor_of(data, media_type)
        with self._writing():
            self._keep(made, data)
            if not name.startswith(SHA256):
                named = made.model_copy(update={"annotations": {VERSION_NAME: name}})
                others = (each for each in self._listed() if each.annotations.get(VERSION_NAME) != name)
                self._list((*others, named))

    def attach(self, manifest: Descriptor, data: bytes, subject: str) -> None:
        """Store a manifest that says itself what it is about."""
        del subject
        with self._writing():
            self._keep(manifest, data)
            others = (each for each in self._listed() if each.digest != manifest.digest)
            self._list((*others, manifest))

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Return the manifests of the folder whose subject has that digest."""
        layout = Layout(self._folder)
        return tuple(
            each
            for each in self._listed()
            if each.mediaType == MANIFEST_TYPE
            and (subject := layout.manifest(each).subject) is not None
            and subject.digest == digest
        )

    def tags(self) -> tuple[str, ...]:
        """Return the names in ``index.json``."""
        return tuple(sorted({name for each in self._listed() if (name := each.annotations.get(VERSION_NAME))}))

    def _listed(self) -> tuple[Descriptor, ...]:
        return Layout(self._folder).index.manifests if os.path.lexists(self._folder / INDEX_FILE) else ()

    def _keep(self, made: Descriptor, data: bytes) -> None:
        write_atomically(blob_path(self._folder, made), data, staging=self._folder / BLOBS)

    def _list(self, descriptors: Iterable[Descriptor]) -> None:
        """Write the index: what has a name first, by name, then the others by digest."""

        def order(each: Descriptor) -> tuple[bool, str, str]:
            name = each.annotations.get(VERSION_NAME, "")
            return not name, name, each.digest

        write_index(self._folder, sorted(descriptors, key=order))
        sync_folder(self._folder)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make the folder where there is none, and keep other writers out of it."""
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                self._make_layout()
                yield
            finally:
                os.close(handle)

    def _make_layout(self) -> None:
        if not os.path.lexists(self._folder / LAYOUT_FILE):
            if any(not path.name.startswith((".new-", MARKER)) for path in self._folder.iterdir()):
                raise ReleaseError(
                    f"{self._folder} isn't empty, and keeps no releases.", hint="Name an empty folder, or one to make."
                )
            write_atomically(self._folder / MARKER, b"", staging=self._folder)
            write_atomically(self._folder / LAYOUT_FILE, LAYOUT_TEXT.encode(), staging=self._folder)
        elif not os.path.lexists(self._folder / MARKER):
            raise ReleaseError(
                f"{self._folder} is a release, or of another tool's, and is never written into.",
                hint="Name a folder for releases: the first push makes it.",
            )
        for part in (self._folder / BLOBS, self._folder / BLOBS / "sha256"):
            part.mkdir(exist_ok=True)
            if part.is_symlink():
                raise ReleaseError(f"{part} is a link, and isn't followed.", hint="Name another folder.")
