"""The manifest of one store entry: which files it has, by digest. A manifest is believed only after validation."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from edgebuild.core.artifact import FileEntry, is_digest, path_problem
from edgebuild.core.values import Value, canonical_json, digest_bytes, digest_file, digest_json
from edgebuild.errors import EdgebuildError

#: Nothing larger is read as a manifest: a hostile or damaged one must not exhaust memory.
MAX_MANIFEST_BYTES = 32 << 20
MAX_FILES = 100_000
MAX_FILE_BYTES = 1 << 40


class Damaged(Exception):
    """An entry isn't what it should be; the message says why and ``blobs`` names the contents that are wrong."""

    def __init__(self, reason: str, blobs: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.blobs = blobs


class Manifest(Value):
    """What one entry consists of. ``meta`` is plain JSON for people and ``explain``; nothing here trusts it."""

    schema_version: Literal[1] = 1
    key: str
    created: str = Field(max_length=64)
    files: tuple[FileEntry, ...] = Field(min_length=1, max_length=MAX_FILES)
    meta: dict[str, Any]

    @field_validator("key")
    @classmethod
    def _key_is_a_digest(cls, key: str) -> str:
        if not is_digest(key):
            raise ValueError("a key is a SHA-256 in lower-case hex")
        return key

    @field_validator("files")
    @classmethod
    def _files_stay_inside(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        paths = [file.path for file in files]
        if paths != sorted(set(paths)):
            raise ValueError("file paths must be sorted and distinct")
        parents = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        for file in files:
            if reason := _refuse(file):
                raise ValueError(f"file {file.path!r}: {reason}")
            if file.path in parents:
                raise ValueError(f"file {file.path!r} is also a folder")
        return files

    @property
    def content_digest(self) -> str:
        """The digest of the sorted file list: equal for equal content, whatever made it."""
        return content_digest(self.files)


def content_digest(files: tuple[FileEntry, ...]) -> str:
    """Return the digest of a sorted list of files: paths, digests and sizes, nothing else."""
    return digest_json([[file.path, file.sha256, file.size_bytes] for file in files])


def _refuse(file: FileEntry) -> str | None:
    if problem := path_problem(file.path):
        return problem
    if not is_digest(file.sha256):
        return "the digest is not a SHA-256 in lower-case hex"
    return None if file.size_bytes <= MAX_FILE_BYTES else "the size is absurd"


def encode(manifest: Manifest) -> bytes:
    """Return the bytes on disk: the canonical JSON of the manifest, sealed with its own digest."""
    body = canonical_json(manifest.model_dump(mode="json"))
    return f'{{"sha256":"{digest_bytes(body.encode())}","manifest":{body}}}\n'.encode()


def decode(data: bytes, key: str) -> Manifest:
    """Return the manifest in ``data`` if it is whole, valid and for ``key``; raises ``Damaged`` otherwise."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise Damaged("the manifest is too large")
    try:
        outer = json.loads(data)
        body, sealed = outer["manifest"], outer["sha256"]
        if digest_json(body) != sealed:
            raise Damaged("the manifest doesn't match its digest")
        manifest = Manifest.model_validate(body)
    except ValidationError as error:
        raise Damaged(f"the manifest is invalid: {error.errors()[0]['msg']}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged("the manifest isn't readable") from error
    if manifest.key != key:
        raise Damaged("the manifest belongs to another key")
    return manifest


def list_folder(folder: Path) -> tuple[FileEntry, ...]:
    """Digest every file below ``folder``, sorted by path. Empty folders don't count.

    Raises ``EdgebuildError`` for links, devices and names that no manifest may hold: a step must not write those.
    """
    found: list[FileEntry] = []
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in [*names, *links]:
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not path.is_file():
                raise EdgebuildError(f"{relative} in {folder} is not a plain file, and can't be stored")
            file = FileEntry(path=relative, sha256=digest_file(path), size_bytes=path.stat().st_size)
            if reason := _refuse(file):
                raise EdgebuildError(f"{relative!r} in {folder} can't be stored: {reason}")
            found.append(file)
    return tuple(sorted(found, key=lambda file: file.path))


def copy_plain(folder: Path, target: Path) -> Path:
    """Copy the plain files below ``folder`` to the new folder ``target`` and return it; raises as ``list_folder``."""
    for file in list_folder(folder):
        path = target / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file.path, path)
    return target
