"""The one way to the terminal: whatever is printed passes through here, and nothing in it steers the terminal.

Texts come from models, devices and file names: control and direction characters in them are replaced, square brackets
are no markup, and a URL's password isn't shown.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from edgebuild.errors import without_passwords

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def harmless(text: str) -> str:
    """Return a text as it may be printed; line ends and tabs stay."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else REPLACEMENT for c in text)
    return without_passwords(shown)


#: No field of a line is longer that somebody else wrote.
MAX_FIELD = 200


def plain(text: str) -> str:
    """Return a text of somebody else's for the middle of a line: one line, of a length that people read."""
    line = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return line if len(line) <= MAX_FIELD else f"{line[: MAX_FIELD - 1]}…"


def say(text: str, *, error: bool = False) -> None:
    """Print a text plainly, to standard output or error."""
    print(harmless(text), file=sys.stderr if error else sys.stdout, flush=error)


def say_json(data: Any, *, line: bool = False) -> None:
    """Print plain data as JSON, at once; ``line``: on one line, where others may follow.

    It is what was given, but for passwords in URLs: what can't be printed is escaped as JSON does, and what is no
    number to JSON is text, such as "NaN".
    """
    text = json.dumps(_cleaned(data), ensure_ascii=False, allow_nan=False, indent=None if line else 2)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text), flush=True)


def _cleaned(data: Any) -> Any:
    if isinstance(data, dict):
        return {_cleaned(key): _cleaned(each) for key, each in data.items()}
    if isinstance(data, list | tuple):
        return [_cleaned(each) for each in data]
    if isinstance(data, float) and not math.isfinite(data):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(data, "NaN")
    return without_passwords(data) if isinstance(data, str) else data


def make_console(*, stderr: bool = False) -> Console:
    """Return a console of rich's that takes no text for markup and lets no text steer the terminal."""
    from rich.console import Console

    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    console.push_render_hook(_HarmlessHook())  # type: ignore[arg-type]  # rich asks for a subclass, and uses one method
    return console


class _HarmlessHook:
    """Puts a filter around everything that is printed, tables and bars included."""

    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        """Return what is printed instead."""
        return [_Harmless(each) for each in renderables]


class _Harmless:
    """Renders something, and then cleans its text; what moves the cursor is rich's own and stays."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """See rich."""
        from rich.segment import Segment

        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)
