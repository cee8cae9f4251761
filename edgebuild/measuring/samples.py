"""The raw samples of a launch: what they say must be what the device says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.devices.runner.protocol import Problem
from edgebuild.devices.runner.throughput import rate
from edgebuild.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edgebuild.core.measurement import Launch

#: Floats that went through JSON are as they were; what is computed in another order may differ in the last digits.
TOLERANCE = 1e-9


def samples_reader(folder: Path) -> Callable[[Launch], NDArray[np.int64]]:
    """Return what reads the raw samples of a launch from a session's folder."""

    def read(launch: Launch) -> NDArray[np.int64]:
        import numpy as np

        return np.fromfile(folder / launch.samples, dtype="<i8")

    return read


def require_samples(path: Path, answer: Mapping[str, Any], who: str) -> None:
    """Raise ``DeviceError`` where the samples in ``path`` don't say what the launch's ``answer`` says of them."""
    import numpy as np

    count = answer["count"]
    found = np.fromfile(path, dtype="<i8")
    flown = "requests" in answer
    durations = found[count:] - found[:count] if flown else found
    wrong = ""
    if len(found) != count * (2 if flown else 1) or bool((found < 0).any()) or bool((durations < 0).any()):
        wrong = "they are no times"
    elif _median(np.sort(durations)) != answer["median_ns"]:
        wrong = "their median is another"
    elif "mean_ns" in answer and answer["mean_ns"] != int(sum(durations.tolist()) / float(count)):
        wrong = "their mean is another"
    elif flown and not _same_rate(found[count:], answer):
        wrong = "their rate is another"
    if wrong:
        raise DeviceError(f"{who} sent samples that don't fit its answer: {wrong}.", hint="Run the same command again.")


def _same_rate(ends: NDArray[np.int64], answer: Mapping[str, Any]) -> bool:
    try:
        found = rate(ends.tolist(), answer["requests"])
    except Problem:
        return False
    return abs(found / float(answer["per_s"]) - 1) <= TOLERANCE


def _median(ordered: NDArray[np.int64]) -> int:
    """The runner's own arithmetic."""
    count = len(ordered)
    return int((int(ordered[(count - 1) // 2]) + int(ordered[count // 2])) / 2.0)


def burst_medians(path: Path, bursts: Sequence[int]) -> tuple[int, ...]:
    """Return the median of each burst in ns; ``bursts`` says how many samples each holds."""
    import numpy as np

    ends = np.cumsum(bursts)[:-1]
    return tuple(_median(np.sort(burst)) for burst in np.split(np.fromfile(path, dtype="<i8"), ends))
