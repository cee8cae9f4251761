"""An artifact's folder: how ``artifact.json`` is written and read, and what else may lie there.

``artifact.json`` is the canonical JSON of an ``Artifact``, sealed with its own SHA-256; it holds the digests of all
other files. So a flipped bit anywhere in the folder is found. The seal is no signature: whoever can write the folder
can write another seal.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edgebuild.core.artifact import Artifact, FileEntry, is_digest, path_problem
from edgebuild.core.values import CHUNK_BYTES, canonical_json, digest_bytes
from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = "artifact.json"
#: What the step that compiled an artifact had to say of it; for people, so the manifest doesn't list it.
NOTES = "notes.json"
SEAL = "sha256"
#: Nothing larger is read as a manifest.
MAX_MANIFEST_BYTES = 32 << 20
_COPY = "Copy it again, or build it again."


def artifact_text(artifact: Artifact) -> str:
    """Return what ``artifact.json`` holds: the sealed canonical JSON, and a line's end."""
    fields = artifact.model_dump(mode="json")
    return _sealed(fields) + "\n"


def write_manifest(folder: Path, artifact: Artifact) -> None:
    """Write ``artifact.json`` into ``folder``."""
    (folder / MANIFEST).write_text(artifact_text(artifact), encoding="utf-8")


def read_artifact(folder: Path) -> Artifact:
    """Return the artifact in ``folder``; its files are not checked (see ``check_files``).

    Raises ``ModelError`` where there is none, or it was changed since it was written. One without a seal, as others may
    write it, is taken as it is.
    """
    path = folder / MANIFEST
    try:
        with open_plain(path) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        if len(data) > MAX_MANIFEST_BYTES:
            raise ModelError(f"{path} is larger than any manifest.", hint=_COPY)
        return _parsed(data.decode("utf-8"), path)
    except (OSError, ValueError, RecursionError) as error:
        reason = _reason(error)
        raise ModelError(f"{path} is no artifact of this version of edgebuild: {reason}.", hint=_COPY) from error


def artifact_of(data: bytes, where: str = MANIFEST) -> Artifact:
    """Return the artifact that the bytes of a manifest describe; raises as ``read_artifact``."""
    try:
        return _parsed(data.decode("utf-8"), Path(where))
    except (ValueError, RecursionError) as error:
        reason = _reason(error)
        raise ModelError(f"{where} is no artifact of this version of edgebuild: {reason}.", hint=_COPY) from error


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """Digest every file below ``folder``, sorted by path.

    Raises ``ModelError`` for links, special files and names that can't be sent: nothing outside is ever read.
    """
    found = []
    for relative in plain_paths(folder):
        path = folder / relative
        try:
            found.append(_entry(path, relative))
        except OSError as error:
            raise ModelError(f"Can't read {path}: {error.strerror or error}.") from error
    return tuple(found)


def plain_paths(folder: Path) -> tuple[str, ...]:
    """Return the relative path of every file below ``folder``, sorted; raises as ``list_files``, and reads none."""
    found = [path.relative_to(folder).as_posix() for path in _plain_files(folder)]
    for relative in found:
        if problem := path_problem(relative):
            raise ModelError(f"{relative!r} in {folder} can't be used: {problem}.", hint="Rename or remove it.")
    return tuple(sorted(found))


def check_files(folder: Path, artifact: Artifact, files: tuple[FileEntry, ...]) -> None:
    """Raise ``ModelError`` unless ``files``, found in ``folder``, are those that ``artifact`` lists, byte by byte."""
    found = {entry.path: entry for entry in files if entry.path not in (MANIFEST, NOTES)}
    for entry in artifact.files:
        there = found.pop(entry.path, None)
        if there is None:
            raise ModelError(f"The artifact's file {folder / entry.path} is missing.", hint=_COPY)
        if there != entry:
            raise ModelError(f"{folder / entry.path} isn't what {MANIFEST} lists: its digest differs.", hint=_COPY)
    if found:
        raise ModelError(
            f"{folder / min(found)} is not listed in {MANIFEST}.",
            hint="An artifact's folder holds nothing else: remove it.",
        )


def open_plain(path: Path) -> Any:
    """Open a file for reading in binary; raises ``OSError`` for a link and for what isn't a plain file."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "not a plain file")
    return os.fdopen(handle, "rb")


def _sealed(fields: dict[str, Any]) -> str:
    return canonical_json({**fields, SEAL: digest_bytes(canonical_json(fields).encode())})


def _parsed(text: str, path: Path) -> Artifact:
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    if SEAL in fields:
        del fields[SEAL]
        if _sealed(fields) != text.removesuffix("\n"):
            raise ModelError(
                f"{path} was changed after it was written: it doesn't match its own digest.",
                hint=f"{_COPY} Where you changed it on purpose, remove its field {SEAL!r}.",
            )
    artifact = Artifact.model_validate_json(canonical_json(fields))
    if problem := _names_problem(artifact):
        raise ModelError(f"{path}: {problem}.", hint="An artifact names files of its own folder only, and lists them.")
    return artifact


def _names_problem(artifact: Artifact) -> str | None:
    """Return what is wrong with a path in a manifest: all are plain, and what it opens is among its files."""
    paths = [file.path for file in artifact.files]
    for file in artifact.files:
        if problem := path_problem(file.path):
            return f"the file {file.path!r}: {problem}"
        if not is_digest(file.sha256):
            return f"the file {file.path!r}: the digest is not a SHA-256 in lower-case hex"
    contract = artifact.contract
    if not contract.inputs or not contract.outputs:
        return "its contract has no inputs or no outputs"
    specs = (*contract.inputs, *contract.outputs, *contract.state_specs)
    if any(isinstance(size, int) and size < 0 for spec in specs for size in spec.shape):
        return "a size in its contract is negative"
    if len(set(paths)) < len(paths) or MANIFEST in paths or NOTES in paths:
        return "a file is listed twice, or is the manifest itself"
    opened = [artifact.entry, *artifact.libraries, *(f"{stage.folder}/{MANIFEST}" for stage in artifact.stages)]
    opened += [str(value) for name, value in artifact.load if name == "weights"]
    missing = [name for name in opened if name not in paths]
    return f"it opens {missing[0]!r}, which is none of its files" if missing else None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it isn't readable as JSON"


def _plain_files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ModelError(f"Can't read {error.filename}: {error.strerror or error}.") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        for name in (*folders, *names):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if name in folders and stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                kind = "a link" if stat.S_ISLNK(mode) else "not a plain file"
                raise ModelError(f"{path} is {kind}.", hint="Put the file itself there.")
            yield path


def _entry(path: Path, relative: str) -> FileEntry:
    hasher, size = hashlib.sha256(), 0
    with open_plain(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
    return FileEntry(path=relative, sha256=hasher.hexdigest(), size_bytes=size)
