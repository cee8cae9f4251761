"""Reads one line from a device: bounded JSON without surprises, the only way in which a device's words come in.

Whatever a device writes, what is returned here is a plain mapping: no deeper than ``MAX_DEPTH``, no infinity, no NaN,
no integer beyond 64 bits, no half of a surrogate pair. What is in its fields is checked by ``answers``.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

#: Answers nest a few levels; a deeper one is an attack on whoever walks through it.
MAX_DEPTH = 32
MAX_INTEGER = 1 << 63
#: The longest number that is checked: no float needs more digits.
MAX_NUMBER_CHARACTERS = 400
#: What a message may say to a person.
MESSAGE_CHARACTERS = 2_000

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class NotAMessage(ValueError):
    """A line that is no message; says why."""


def read_message(line: str) -> dict[str, Any]:
    """Return the message in a line; raises ``NotAMessage``."""
    try:
        found = json.loads(line, parse_constant=_refused, parse_int=_integer, parse_float=_number)
    except NotAMessage:
        raise
    except (ValueError, RecursionError):
        raise NotAMessage("it is not JSON") from None
    if not isinstance(found, dict):
        raise NotAMessage("it is not a JSON object")
    plain: dict[str, Any] = _plain(found, 0)
    return plain


def printable(text: str, most: int = MESSAGE_CHARACTERS) -> str:
    """Return text of a device's as it may be shown and kept: control and direction characters become U+FFFD.

    Line ends stay; what is longer than ``most`` characters is cut.
    """
    shown = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text[:most])
    return shown.strip()


def tail(text: str) -> str:
    """Return the end of what a program wrote to its error output, ``printable``."""
    return printable(text[-MESSAGE_CHARACTERS:])


def one_line(text: str, most: int = MESSAGE_CHARACTERS) -> str:
    """Return ``printable`` text in one line."""
    return " ".join(printable(text, most).split())


def whole_number(text: str) -> int | None:
    """Return the whole number that a text is, None for any other text; a device may write whatever it likes."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _plain(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NotAMessage(f"it nests deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {_plain(name, depth): _plain(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, depth + 1) for inner in value]
    return value


def _refused(name: str) -> None:
    raise NotAMessage(f"{name} is no number")


def _integer(text: str) -> int:
    if len(text) > MAX_NUMBER_CHARACTERS or abs(number := int(text)) >= MAX_INTEGER:
        raise NotAMessage("a number is out of all range")
    return number


def _number(text: str) -> float:
    if len(text) > MAX_NUMBER_CHARACTERS or not math.isfinite(number := float(text)):
        raise NotAMessage("a number is out of all range")
    return number
