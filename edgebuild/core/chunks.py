"""Parts of a large array, so that what is computed of it never stands in memory whole."""

from __future__ import annotations

import math
import mmap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CHUNK_ELEMENTS = 1 << 22


def chunks(array: NDArray[Any], *others: NDArray[Any]) -> Iterator[slice]:
    """Yield slices along axis 0 that hold about four million elements each, so that memory maps are streamed.

    After each the pages that were read of it are let go, and those of ``others``, which are read in step with it.
    """
    rows = max(1, CHUNK_ELEMENTS // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        try:
            yield slice(start, start + rows)
        finally:
            let_go(array, *others)


def let_go(*arrays: NDArray[Any]) -> None:
    """Unmap the pages of mapped files: they stay in the system's cache, and don't pile up in this process.

    What was written to a mapped file stays written. Nothing happens to other arrays.
    """
    import numpy as np

    for array in arrays:
        base: Any = array
        while base is not None and not isinstance(base, np.memmap):
            base = getattr(base, "base", None)
        # Of a copy on write ("c") this would throw the writes away.
        if base is not None and base.mode in {"r", "r+", "w+"} and hasattr(mmap, "MADV_DONTNEED"):
            vars(base)["_mmap"].madvise(mmap.MADV_DONTNEED)
