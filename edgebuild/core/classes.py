"""Which outputs are a row of scores, one per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def is_class_row(shape: Sequence[int]) -> bool:
    """Whether an output of this shape, axis 0 the samples, has one score per class and nothing else.

    That is (samples, classes), or (samples, classes, 1, 1) as fully convolutional nets end. A third axis alone is one
    of positions, however short: (samples, values, 1) isn't such a row.
    """
    return (len(shape) == 2 or len(shape) > 3) and shape[1] >= 2 and all(size == 1 for size in shape[2:])
