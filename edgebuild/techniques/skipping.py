"""Layers that a technique is told to leave alone."""

from __future__ import annotations

import fnmatch


def is_skipped(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a layer's name fits one of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
