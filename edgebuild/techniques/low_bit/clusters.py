"""One-dimensional k-means, exact and without chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_ROUNDS = 300


def shared_values(values: NDArray[Any], entries: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return at most ``entries`` values, rising, and which of them each value is nearest to; unused ones are left out.

    Centres start evenly between the smallest and the largest value, which keeps some for the few large weights. Source:
    Han et al. 2016, "Deep Compression", section 3.2.
    """
    flat = np.sort(np.asarray(values, np.float64).reshape(-1))
    sums = np.concatenate([[0.0], np.cumsum(flat)])
    centres = np.linspace(flat[0], flat[-1], entries)
    for _ in range(MOST_ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(flat, (centres[1:] + centres[:-1]) / 2), [len(flat)]])
        counts = np.diff(edges)
        moved = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    index = np.searchsorted((centres[1:] + centres[:-1]) / 2, np.asarray(values, np.float64).reshape(-1))
    used, index = np.unique(index, return_inverse=True)
    return centres[used], index.reshape(np.shape(values))
