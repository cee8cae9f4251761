"""Joins what runs on the board into the one file that travels in every bundle as ``verify.py``."""

from __future__ import annotations

from pathlib import Path

BOARD = Path(__file__).parent / "board"
#: In the order in which they import one another; the first words of the file are the last one's.
MODULES = ("documents", "printing", "reading", "signatures", "vectors", "running", "slots", "installing", "verify")
FUTURE = "from __future__ import annotations\n"
_QUOTES = '"""'


def board_script() -> bytes:
    """Return ``verify.py``: the same bytes for the same sources. It imports the standard library only."""
    texts = {name: (BOARD / f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    start = texts[MODULES[-1]].split(_QUOTES)[1]
    parts = [f"#!/usr/bin/env python3\n{_QUOTES}{start}{_QUOTES}\n\n{FUTURE}"]
    parts += [f"# {name}.py\n\n{_body(text)}" for name, text in texts.items()]
    return "\n\n".join(parts).encode()


def _body(text: str) -> str:
    """Return a module without its docstring, which it begins with, and without what it imports of the others."""
    kept, inside = [], False
    for line in text.split(_QUOTES, 2)[2].splitlines():
        begins = line.startswith(("from .", "from __future__ "))
        kept.append("" if begins or inside else line)
        inside = (begins and line.endswith("(")) or (inside and line != ")")
    return "\n".join(kept).strip() + "\n"
