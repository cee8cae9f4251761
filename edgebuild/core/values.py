"""The base of every value, canonical JSON, and digests.

A value is immutable, keyword-only, validated once when made, and has exactly one JSON form, so that equal values have
equal digests on every machine.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel, ConfigDict

from edgebuild.core.files import open_plain

if TYPE_CHECKING:
    from pathlib import Path

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

CHUNK_BYTES = 1 << 20


class Value(BaseModel):
    """A frozen, validated record. Unknown fields are refused; sequences are tuples."""

    model_config = ConfigDict(
        frozen=True, defer_build=True, extra="forbid", ser_json_inf_nan="strings", validate_default=True
    )

    def to_json(self) -> str:
        """Return the canonical JSON of this value (sorted keys, no spaces, UTF-8)."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Return the one JSON text of plain data: sorted keys, no spaces, no NaN.

    Raises ``ValueError`` for NaN and infinities, whose JSON no other reader accepts.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_json(value: Any) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of plain data."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a plain file in hex, reading it in bounded memory; raises ``OSError``."""
    hasher = hashlib.sha256()
    with open_plain(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()
