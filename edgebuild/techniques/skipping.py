"""Layers that a technique is asked to leave alone."""

from __future__ import annotations

import difflib
import fnmatch
from typing import TYPE_CHECKING

from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable


def is_skipped(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a layer's name fits one of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def require_layers(names: Iterable[str], patterns: tuple[str, ...]) -> None:
    """Raise ``ModelError`` for a pattern that no layer's name fits: what was to be left alone wouldn't be."""
    known = [name for name in names if name]
    for pattern in patterns:
        if not any(is_skipped(name, (pattern,)) for name in known):
            near = difflib.get_close_matches(pattern, known, n=1)
            raise ModelError(
                f'`skip` names "{pattern}", which fits no layer of the model.',
                hint=f'Did you mean "{near[0]}"?'
                if near
                else "Name layers as named_modules() does; `*` stands for anything.",
            )
