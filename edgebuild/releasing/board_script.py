"""Joins what runs on the board into the one file that travels in every bundle as ``verify.py``."""

from __future__ import annotations

import ast
from pathlib import Path

BOARD = Path(__file__).parent / "board"
#: In the order in which they import one another; the first words of the file are the last one's.
MODULES = ("documents", "printing", "reading", "signatures", "vectors", "running", "slots", "installing", "verify")
FUTURE = "from __future__ import annotations\n"


def board_script() -> bytes:
    """Return ``verify.py``: the same bytes for the same sources. It imports the standard library only."""
    texts = {name: (BOARD / f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    start = ast.get_docstring(ast.parse(texts[MODULES[-1]]), clean=False)
    parts = [f'#!/usr/bin/env python3\n"""{start}"""\n\n{FUTURE}']
    parts += [f"# {name}.py\n\n{_body(text)}" for name, text in texts.items()]
    return "\n\n".join(parts).encode()


def _body(text: str) -> str:
    """Return a module without its docstring and without what it imports of the others."""
    lines = text.splitlines()
    tree = ast.parse(text)
    dropped = [tree.body[0], *(each for each in tree.body if isinstance(each, ast.ImportFrom) and _is_here(each))]
    for node in dropped:
        for line in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[line] = ""
    return "\n".join(lines).strip() + "\n"


def _is_here(node: ast.ImportFrom) -> bool:
    return node.level > 0 or node.module == "__future__"
