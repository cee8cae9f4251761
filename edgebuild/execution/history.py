"""What each label was last made from, so that a rebuild can be explained. Only words depend on it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgebuild.core.values import canonical_json, digest_json
from edgebuild.errors import StoreError
from edgebuild.execution.disk import read_plain, write_atomically
from edgebuild.execution.keys import explain_change

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.core.values import Json
    from edgebuild.execution.store import Store


def recall(store: Store, project: str, label: str) -> dict[str, Any] | None:
    """Return the key parts that ``label`` was last made from, or None; a damaged record is none."""
    try:
        record = json.loads(read_plain(store.layout.label(digest_json([project, label]))))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def remember(store: Store, project: str, label: str, parts: Mapping[str, Json]) -> None:
    """Keep the key parts that ``label`` is made from now; on a read-only or full store nothing is kept."""
    if not store.layout.writable or recall(store, project, label) == parts:
        return
    path = store.layout.label(digest_json([project, label]))
    # Only words depend on it: a full disk must not fail a build that finds everything stored.
    with suppress(OSError, StoreError), store.work_folder() as staging:
        write_atomically(path, canonical_json(dict(parts)).encode(), staging=staging, durable=False)


def why_made(last: Mapping[str, Any] | None, parts: Mapping[str, Json], *, damaged: bool, resumes: bool) -> str:
    """Say why a step is not reused."""
    if damaged:
        why = "its stored result was damaged"
    elif last is None:
        why = "first build"
    else:
        why = explain_change(last, parts) or "its result is no longer in the store"
    return f"{why}; resumes from unfinished work" if resumes else why
