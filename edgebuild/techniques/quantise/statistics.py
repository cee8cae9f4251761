"""What the tensors hold: ranges and histograms in two passes over the calibration frames, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.errors import ModelError
from edgebuild.techniques.quantise.arithmetic import BINS, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgebuild.techniques.quantise.samples import Frames
    from edgebuild.techniques.quantise.simulator import Numbers, Simulator


def histograms(
    simulator: Simulator,
    numbers: Numbers,
    tensors: tuple[str, ...],
    frames: Frames,
    check: Callable[[], None],
) -> dict[str, Histogram]:
    """Return a histogram of each tensor over all frames. Raises ``ModelError`` naming a tensor with NaN or infinity."""
    fixed = simulator.feeds(numbers)
    ranges: dict[str, tuple[float, float]] = {}
    for feeds in frames:
        check()
        for name, value in _values(simulator, fixed, feeds, tensors).items():
            low, high = float(value.min()), float(value.max())
            if not np.isfinite([low, high]).all():
                raise ModelError(f"{name!r} holds NaN or infinity on the calibration data, so it has no range.")
            seen = ranges.get(name, (low, high))
            ranges[name] = min(seen[0], low), max(seen[1], high)
    counts = {name: np.zeros(BINS, np.int64) for name in tensors}
    for feeds in frames:
        check()
        for name, value in _values(simulator, fixed, feeds, tensors).items():
            low, high = ranges[name]
            if high > low:
                counts[name] += np.histogram(value, bins=BINS, range=(low, high))[0]
    return {name: Histogram(low=ranges[name][0], high=ranges[name][1], counts=counts[name]) for name in tensors}


def _values(
    simulator: Simulator, fixed: dict[str, NDArray[Any]], feeds: dict[str, NDArray[Any]], tensors: tuple[str, ...]
) -> dict[str, NDArray[Any]]:
    inner = tuple(name for name in tensors if name not in feeds)
    values = simulator.run({**fixed, **feeds}, inner) if inner else {}
    return {**values, **{name: feeds[name] for name in tensors if name in feeds}}
