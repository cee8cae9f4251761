"""What the tensors hold: ranges and histograms in two passes over the calibration frames, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.errors import ModelError
from edgebuild.quantisers.own.arithmetic import BINS, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgebuild.quantisers.own.samples import Frames
    from edgebuild.quantisers.own.simulator import QuantisationState, Simulator


def histograms(
    simulator: Simulator,
    numbers: QuantisationState,
    tensors: tuple[str, ...],
    frames: Frames,
    check: Callable[[], None],
) -> dict[str, Histogram]:
    """Return a histogram of each tensor over all frames. Raises ``ModelError`` naming a tensor with NaN or infinity.

    A tensor without elements has the range of zero.
    """
    fixed = simulator.feeds(numbers)
    ranges: dict[str, tuple[float, float]] = {}
    for feeds in frames:
        check()
        for name, value in _values(simulator, fixed, feeds, tensors).items():
            if not value.size:
                continue
            low, high = float(value.min()), float(value.max())
            if not np.isfinite([low, high]).all():
                raise ModelError(f"{name!r} holds NaN or infinity on the calibration data, so it has no range.")
            seen = ranges.get(name, (low, high))
            ranges[name] = min(seen[0], low), max(seen[1], high)
    counts = {name: np.zeros(BINS, np.int64) for name in tensors}
    for feeds in frames:
        check()
        for name, value in _values(simulator, fixed, feeds, tensors).items():
            low, high = ranges.get(name, (0.0, 0.0))
            if high > low:
                # In float32 a narrow range far from zero has fewer numbers than there are bins.
                counts[name] += np.histogram(value.astype(np.float64), bins=BINS, range=(low, high))[0]
    found = {name: ranges.get(name, (0.0, 0.0)) for name in tensors}
    return {name: Histogram(low=low, high=high, counts=counts[name]) for name, (low, high) in found.items()}


def not_finite(
    simulator: Simulator,
    numbers: QuantisationState,
    tensors: tuple[str, ...],
    halves: tuple[Frames, ...],
    check: Callable[[], None],
) -> frozenset[str]:
    """Return the tensors that hold NaN or infinity on any of the frames: they have no range, as a mask of -inf."""
    fixed = simulator.feeds(numbers)
    found: set[str] = set()
    for frames in halves:
        for feeds in frames:
            check()
            left = tuple(name for name in tensors if name not in found)
            if left:
                values = _values(simulator, fixed, feeds, left)
                found.update(name for name, value in values.items() if not np.isfinite(value).all())
    return frozenset(found)


def _values(
    simulator: Simulator, fixed: dict[str, NDArray[Any]], feeds: dict[str, NDArray[Any]], tensors: tuple[str, ...]
) -> dict[str, NDArray[Any]]:
    inner = tuple(name for name in tensors if name not in feeds)
    values = simulator.run({**fixed, **feeds}, inner) if inner else {}
    return {**values, **{name: feeds[name] for name in tensors if name in feeds}}
