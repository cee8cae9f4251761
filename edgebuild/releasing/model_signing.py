"""OpenSSF Model Signing v1.0: a statement over files by name, as that specification's tools check it on a folder.

Only what it requires of everybody is made and read: whole files, SHA-256, no links.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebuild.core.artifact import is_digest
from edgebuild.errors import ReleaseError
from edgebuild.releasing.dsse import Statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_ALGORITHM = "sha256"


class _Resource(BaseModel):
    """A file. The specification has readers ignore what else is said of it."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="ignore", strict=True)

    name: str
    digest: str
    algorithm: Literal["sha256"]


class _Serialization(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", strict=True)

    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool
    ignore_paths: list[str] | None = None


class _Predicate(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", strict=True)

    resources: list[_Resource] = Field(min_length=1)
    serialization: _Serialization


def model_statement(name: str, files: Mapping[str, str]) -> Statement:
    """Return the statement over files: path → SHA-256 in hex. ``name`` is that of the folder they are unpacked to."""
    resources = [{"algorithm": _ALGORITHM, "digest": files[path], "name": path} for path in sorted(files)]
    serialization = {"allow_symlinks": False, "hash_type": _ALGORITHM, "method": "files"}
    root = _root(files[path] for path in sorted(files))
    return Statement(name, root, PREDICATE_TYPE, {"resources": resources, "serialization": serialization})


def signed_files(statement: Statement) -> dict[str, str]:
    """Return the files that a statement is over, path → SHA-256 in hex. Raises ``ReleaseError``.

    A ``method`` of shards and other hashes, which the specification leaves optional, are refused. The order of the
    resources isn't judged: `model-signing` sorts names by their parts.
    """
    if statement.predicate_type != PREDICATE_TYPE:
        raise ReleaseError(f"What was signed is of the type {statement.predicate_type!r}, not {PREDICATE_TYPE}.")
    try:
        found = _Predicate.model_validate(statement.predicate, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ReleaseError(f"What was signed isn't a model's files as this version reads them: {reason}.") from error
    if found.serialization.allow_symlinks:
        raise ReleaseError("What was signed are a model's files with links followed; releases hold none.")
    files = {each.name: each.digest for each in found.resources}
    if len(files) != len(found.resources):
        raise ReleaseError("What was signed lists a file of the model twice.")
    if not all(is_digest(digest) for digest in files.values()):
        raise ReleaseError("What was signed lists a file of the model with a digest that is no SHA-256.")
    if _root(each.digest for each in found.resources) != statement.sha256:
        raise ReleaseError("What was signed contradicts itself: its root digest isn't that of its files.")
    return files


def require_same_files(signed: Mapping[str, str], there: Mapping[str, str], target: str) -> None:
    """Raise ``ReleaseError`` unless the files that were signed are those of the target."""
    differing = sorted(path for path in {*signed, *there} if signed.get(path) != there.get(path))
    if differing:
        path = differing[0]
        what = (
            "isn't what was signed"
            if path in signed and path in there
            else ("was signed, but isn't there" if path in signed else "wasn't signed")
        )
        raise ReleaseError(f"A signature over the model files of target {target!r} is of others: {path!r} {what}.")


def _root(digests: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
