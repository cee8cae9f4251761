"""JSON that carries its own digest: a record of which any bit was flipped is noticed when it is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from edgebuild.core.values import canonical_json, digest_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.core.values import Json

#: The field that holds the digest of all others.
DIGEST_FIELD = "sha256_of_the_rest"


def with_digest(fields: Mapping[str, Json]) -> str:
    """Return the one text of ``fields`` with the SHA-256 of their canonical JSON among them."""
    return canonical_json({**fields, DIGEST_FIELD: digest_json(dict(fields))})


def read_with_digest(data: bytes) -> dict[str, Json] | None:
    """Return the fields of a text that ``with_digest`` wrote, byte for byte; None for any other."""
    try:
        found = json.loads(data.decode("utf-8"))
        fields = {name: value for name, value in found.items() if name != DIGEST_FIELD}
        whole = with_digest(fields).encode() == data
    except (ValueError, RecursionError, AttributeError, TypeError):
        return None
    return fields if whole else None
