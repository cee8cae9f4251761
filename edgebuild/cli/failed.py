"""What a command prints with ``--json`` where it fails."""

from __future__ import annotations

from edgebuild.core.values import Value


class Problem(Value):
    """Why a command failed.

    ``kind`` is a name of the tree in edgebuild/errors.py, or Bug. ``hint`` says how to fix it, where that is known.
    """

    kind: str
    message: str
    hint: str
    exit_code: int


class Failed(Value):
    """A command that came to no answer."""

    error: Problem
