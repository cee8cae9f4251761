"""Work on many files by several threads: while one is hashed or brought to the disk, Python's lock is free."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
R = TypeVar("R")

#: Threads that wait for a disk: file systems bring to it at once what is asked for at the same time.
WAITING = 8


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def abreast(work: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> list[R]:
    """Return ``work(item)`` of every item, in their order; ``threads`` at a time, by default as many as cores.

    Raises what the first item in order raises, once no thread is left.
    """
    todo = list(items)
    count = min(threads or usable_cores(), len(todo))
    if count <= 1:
        return [work(item) for item in todo]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, todo))
