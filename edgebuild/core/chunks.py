"""Parts of a large array, so that what is computed of it never stands in memory whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_ELEMENTS = 1 << 22


def chunks(array: NDArray[Any]) -> list[slice]:
    """Return slices along axis 0 that hold about four million elements each, so that memory maps are streamed."""
    rows = max(1, CHUNK_ELEMENTS // max(1, math.prod(array.shape[1:])))
    return [slice(start, start + rows) for start in range(0, len(array), rows)]
