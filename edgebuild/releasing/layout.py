"""An OCI image layout on disk: blobs by digest, and an index that says where to begin.

A bundle comes from anywhere, so nothing in it is believed: names are digests, sizes are bounded before anything is
read, JSON has the one form that we write, and a blob is only ever handed on when it is what its descriptor says.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebuild.core.artifact import is_digest
from edgebuild.core.artifact_files import open_plain
from edgebuild.core.values import CHUNK_BYTES, canonical_json, digest_bytes
from edgebuild.errors import ReleaseError
from edgebuild.execution.abreast import abreast
from edgebuild.execution.disk import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
VERSION_NAME = "org.opencontainers.image.ref.name"

LAYOUT_FILE, INDEX_FILE, BLOBS = "oci-layout", "index.json", "blobs"
LAYOUT_TEXT = canonical_json({"imageLayoutVersion": "1.0.0"})
SHA256 = "sha256:"
#: Nothing larger is read as JSON.
MAX_JSON_BYTES = 8 << 20
#: More than any artifact that runs on an edge device.
MAX_BLOB_BYTES = 64 << 30
#: A release has a few targets with some dozens of files each.
MAX_DESCRIPTORS = 20_000
_LARGE_BYTES = 16 << 20
_COPY = "Copy or pull it again; what was changed since it was made can't be trusted."


class Document(BaseModel):
    """A part of a JSON document of OCI's, frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", strict=True)


class Platform(Document):
    """Where a manifest's content runs."""

    architecture: str
    os: str


class Descriptor(Document):
    """A blob by digest, in OCI's words. Fields that are empty are left out of the JSON."""

    mediaType: str  # noqa: N815  OCI's name
    digest: str
    size: int = Field(ge=0, le=MAX_BLOB_BYTES)
    artifactType: str | None = None  # noqa: N815
    platform: Platform | None = None
    annotations: dict[str, str] = Field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """The digest in hex."""
        return self.digest.removeprefix(SHA256)


class Index(Document):
    """Several manifests: an index of OCI's."""

    schemaVersion: int = Field(default=2, ge=2, le=2)  # noqa: N815
    mediaType: Literal["application/vnd.oci.image.index.v1+json"] = INDEX_TYPE  # noqa: N815
    manifests: tuple[Descriptor, ...] = Field(max_length=MAX_DESCRIPTORS)
    annotations: dict[str, str] = Field(default_factory=dict)


class Manifest(Document):
    """Several blobs: a manifest of OCI's. ``subject`` is what a signature is of."""

    schemaVersion: int = Field(default=2, ge=2, le=2)  # noqa: N815
    mediaType: Literal["application/vnd.oci.image.manifest.v1+json"] = MANIFEST_TYPE  # noqa: N815
    artifactType: str  # noqa: N815
    config: Descriptor
    layers: tuple[Descriptor, ...] = Field(max_length=MAX_DESCRIPTORS)
    subject: Descriptor | None = None
    annotations: dict[str, str] = Field(default_factory=dict)


D = TypeVar("D", Index, Manifest)


def oci_bytes(value: Document) -> bytes:
    """Return the one JSON of an OCI document: canonical, empty fields left out."""
    return canonical_json(_without_empty(value.model_dump(mode="json"))).encode()


def parsed(data: bytes, kind: type[D]) -> D:
    """Parse an index or a manifest; raises ``ValueError`` or ``RecursionError`` unless it is in its one form."""
    if len(data) > MAX_JSON_BYTES:
        raise ValueError("it is too large")
    found: D = kind.model_validate_json(data, strict=True)
    if oci_bytes(found) != data:
        raise ValueError("not in the one form that is written")
    if isinstance(found, Index):
        listed: tuple[Descriptor, ...] = found.manifests
    else:
        listed = (found.config, *found.layers, *((found.subject,) if found.subject else ()))
    if not all(each.digest.startswith(SHA256) and is_digest(each.sha256) for each in listed):
        raise ValueError("a digest is no SHA-256")
    return found


def descriptor_of(data: bytes, media_type: str, **fields: Any) -> Descriptor:
    """Describe bytes."""
    return Descriptor(mediaType=media_type, digest=SHA256 + digest_bytes(data), size=len(data), **fields)


class LayoutWriter:
    """Writes a layout into a folder of its own, file by file; ``finish`` writes the index last.

    Several threads may add at the same time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / BLOBS / "sha256").mkdir(parents=True)

    def add(self, data: bytes, media_type: str, **fields: Any) -> Descriptor:
        """Add a blob of bytes."""
        made = descriptor_of(data, media_type, **fields)
        self._place(made.sha256, data)
        return made

    def add_value(self, value: Index | Manifest, **fields: Any) -> Descriptor:
        """Add an index or a manifest."""
        return self.add(oci_bytes(value), value.mediaType, **fields)

    def add_file(self, source: Path, media_type: str, **fields: Any) -> Descriptor:
        """Add a file, read once, in bounded memory: its digest is that of the bytes that were written.

        Raises ``OSError`` for what is no plain file.
        """
        hasher, size = hashlib.sha256(), 0
        unnamed = self.folder / BLOBS / f"unnamed-{threading.get_ident()}"
        buffer = memoryview(bytearray(CHUNK_BYTES))
        with open_plain(source) as file, unnamed.open("wb", buffering=0) as out:
            while count := file.readinto(buffer):
                hasher.update(buffer[:count])
                _write_all(out, buffer[:count])
                size += count
            if size >= _LARGE_BYTES:
                os.fsync(out.fileno())  # now, while other files are hashed; small ones wait for the disk together
        unnamed.replace(self._blob(hasher.hexdigest()))
        return Descriptor(mediaType=media_type, digest=SHA256 + hasher.hexdigest(), size=size, **fields)

    def finish(self, manifests: Iterable[Descriptor]) -> None:
        """Write the index of the layout: what it is read from."""
        (self.folder / LAYOUT_FILE).write_text(LAYOUT_TEXT)
        write_index(self.folder, manifests)

    def _place(self, sha256: str, data: bytes) -> None:
        path = self._blob(sha256)
        if not path.exists():
            path.write_bytes(data)

    def _blob(self, sha256: str) -> Path:
        return self.folder / BLOBS / "sha256" / sha256


def write_index(folder: Path, manifests: Iterable[Descriptor]) -> None:
    """Write a layout's index, whole or not at all."""
    write_atomically(folder / INDEX_FILE, oci_bytes(Index(manifests=tuple(manifests))), staging=folder)


class Layout:
    """Reads a layout that may be hostile. Everything raises ``ReleaseError``, with what is wrong and where."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if self._small(LAYOUT_FILE) != LAYOUT_TEXT.encode():
            raise ReleaseError(f"{folder / LAYOUT_FILE} is not that of an OCI image layout 1.0.0.", hint=_COPY)
        self.index = self._parsed(self._small(INDEX_FILE), Index, INDEX_FILE)

    def read(self, descriptor: Descriptor, *, limit: int = MAX_JSON_BYTES) -> bytes:
        """Return a small blob, checked."""
        if descriptor.size > limit:
            raise ReleaseError(f"{self._name(descriptor)} has {descriptor.size:,} bytes; {limit:,} are read at most.")
        with self.open(descriptor) as file:
            data: bytes = file.read(descriptor.size + 1)
        self._require(descriptor, len(data), digest_bytes(data))
        return data

    def manifest(self, descriptor: Descriptor) -> Manifest:
        """Return a manifest."""
        found: Manifest = self._document(descriptor, Manifest, MANIFEST_TYPE)
        return found

    def nested(self, descriptor: Descriptor) -> Index:
        """Return an index that an index lists."""
        found: Index = self._document(descriptor, Index, INDEX_TYPE)
        return found

    def check(self, descriptor: Descriptor) -> None:
        """Read a blob in bounded memory, and hold it against its descriptor."""
        hasher, size = hashlib.sha256(), 0
        buffer = memoryview(bytearray(min(CHUNK_BYTES, descriptor.size + 1)))
        with self.open(descriptor) as file:
            while size <= descriptor.size and (count := file.readinto(buffer)):
                size += count
                hasher.update(buffer[:count])
        self._require(descriptor, size, hasher.hexdigest())

    def check_all(self, descriptors: Iterable[Descriptor]) -> None:
        """Check every blob, the largest first, several at a time."""
        abreast(self.check, sorted(descriptors, key=lambda each: (-each.size, each.digest)))

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob; what was yielded is only to be believed once the last chunk came without an error."""
        hasher, size = hashlib.sha256(), 0
        with self.open(descriptor) as file:
            while chunk := file.read(CHUNK_BYTES):
                size += len(chunk)
                if size > descriptor.size:
                    break
                hasher.update(chunk)
                yield chunk
        self._require(descriptor, size, hasher.hexdigest())

    def open(self, descriptor: Descriptor) -> Any:
        """Open a blob for reading. Its content isn't checked."""
        try:
            return open_plain(self.folder / self._name(descriptor))
        except OSError as error:
            what = "is missing" if error.errno == errno.ENOENT else f"can't be read: {error.strerror or error}"
            raise ReleaseError(f"{self._name(descriptor)} {what}.", hint=_COPY) from error

    def require_nothing_else(self, known: Iterable[Descriptor]) -> None:
        """Raise for files that nothing in the layout speaks of: links, devices, blobs that no manifest lists."""
        wanted = {LAYOUT_FILE, INDEX_FILE, *(self._name(each) for each in known)}
        for parent, folders, files in os.walk(self.folder):
            for name in (*folders, *files):
                path = Path(parent, name)
                relative = path.relative_to(self.folder).as_posix()
                if name in folders and stat.S_ISDIR(path.lstat().st_mode):
                    if relative in (BLOBS, f"{BLOBS}/sha256"):
                        continue
                elif relative in wanted:
                    continue
                raise ReleaseError(
                    f"{relative!r} in {self.folder} belongs to no part of the bundle.",
                    hint="Remove it; nothing reads it.",
                )

    def _document(self, descriptor: Descriptor, kind: type[Any], media_type: str) -> Any:
        if descriptor.mediaType != media_type:
            raise ReleaseError(f"{self._name(descriptor)} should be a {media_type}, it is listed as another type.")
        return self._parsed(self.read(descriptor), kind, self._name(descriptor))

    def _small(self, name: str) -> bytes:
        try:
            with open_plain(self.folder / name) as file:
                data: bytes = file.read(MAX_JSON_BYTES + 1)
        except OSError as error:
            raise ReleaseError(
                f"{self.folder} is no bundle: its {name} can't be read ({error.strerror or error}).",
                hint="A bundle is the folder that `edgebuild release create` makes.",
            ) from error
        return data

    def _parsed(self, data: bytes, kind: type[Any], name: str) -> Any:
        try:
            return parsed(data, kind)
        except (ValueError, RecursionError) as error:
            raise ReleaseError(
                f"{name} in {self.folder} is not what was written: {_reason(error)}.", hint=_COPY
            ) from error

    def _name(self, descriptor: Descriptor) -> str:
        return f"{BLOBS}/sha256/{descriptor.sha256}"

    def _require(self, descriptor: Descriptor, size: int, sha256: str) -> None:
        if (size, sha256) != (descriptor.size, descriptor.sha256):
            raise ReleaseError(
                f"{self._name(descriptor)} was changed: its content isn't what its name says.", hint=_COPY
            )


def _write_all(out: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[out.write(data) :]


def _without_empty(value: Any) -> Any:
    """Leave out what is None, and annotations that are none; an empty list stays."""
    if isinstance(value, dict):
        return {key: _without_empty(each) for key, each in value.items() if each is not None and each != {}}
    return [_without_empty(each) for each in value] if isinstance(value, list | tuple) else value


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error) or "it isn't readable as JSON"


def loads(data: bytes) -> Any:
    """Parse JSON of a blob; raises ``ReleaseError``."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ReleaseError("A blob that should be JSON isn't readable as such.", hint=_COPY) from error
