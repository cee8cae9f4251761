"""What comes over HTTP, taken at its word: no text for a number, nothing that a database or an answer can't hold."""

from __future__ import annotations

import math
import types
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

#: JSON inside each other; ours has a few levels.
MAX_DEPTH = 64
#: Whole numbers of more bits are no JSON that others read.
LARGEST = 2**63
_NUMBERS = {bool, int, float}


def require_types(fields: Mapping[str, FieldInfo], data: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a text that would be taken for a number, or a number for yes or no."""
    for name, field in fields.items():
        members = _members(field.annotation)
        value = data.get(name)
        if value is None or not members or not members <= _NUMBERS:
            continue
        exact = (bool in members) if isinstance(value, bool) else isinstance(value, int | float) and members != {bool}
        if not exact:
            raise ValueError(f"{name} is {type(value).__name__}")


def require_plain(value: Any, depth: int = 0) -> None:
    """Raise ``ValueError`` for what isn't JSON everywhere: no number, half a character, the character 0, no end."""
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} levels")
    if isinstance(value, str):
        if cleaned(value) != value:
            raise ValueError("a text holds what is no character")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number isn't finite")
    elif isinstance(value, int):
        if not -LARGEST <= value < LARGEST:
            raise ValueError("a number has more than 64 bits")
    elif isinstance(value, dict):
        for key, inner in value.items():
            require_plain(key, depth + 1)
            require_plain(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            require_plain(inner, depth + 1)


def cleaned(text: str) -> str:
    """Return a text whose every character is one."""
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _members(annotation: Any) -> set[Any]:
    """Return the types that a field may have, ``None`` left out."""
    if get_origin(annotation) in {Union, types.UnionType}:
        return {each for each in get_args(annotation) if each is not types.NoneType}
    return {annotation} if isinstance(annotation, type) else set()
