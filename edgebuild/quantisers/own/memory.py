"""What the allocator keeps of memory that was freed."""

from __future__ import annotations

import contextlib
import ctypes

#: ``M_MMAP_THRESHOLD`` of glibc's ``mallopt``.
MMAP_THRESHOLD = -3
#: Blocks from this size on go back to the system at once: tensors of large models, not what small ones allocate.
LARGE_BYTES = 2 * 2**20


def give_back_large_blocks() -> None:
    """Let this process return large blocks to the system when they are freed, where glibc is the allocator.

    glibc raises the size from which it does so with each such block that is freed, up to 32 MiB (mallopt(3)); what lies
    below then stays in heaps with gaps, for as long as the process lives.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE_BYTES)
