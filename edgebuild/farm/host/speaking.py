"""What work says of its progress, as lines of a job's log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class LogProgress:
    """Progress whose titles and sentences are lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def task(self, title: str, total: float | None = None) -> LogProgress:
        """Say what begins."""
        del total
        self._say(title)
        return self

    def say(self, text: str) -> None:
        """Say what stays."""
        self._say(text)

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """How far it is, isn't said."""

    def __enter__(self) -> LogProgress:
        return self

    def __exit__(self, *exc: object) -> None: ...
