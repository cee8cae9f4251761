"""What a build can be after: one table. Which figure decides, which direction is better, and in what words.

Nothing else asks which objective it is: code elsewhere asks what an objective needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from edgebuild.core.measurement import Measurements

ObjectiveName: TypeAlias = Literal["latency", "throughput", "size", "memory"]

MIB = float(1 << 20)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What an objective is about, of one candidate; ``low`` and ``high`` are its 95 % interval where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One row of the table.

    ``timed``: a clock on the device decides, by paired comparisons. ``concurrent``: with several requests in flight.
    ``in_files``: the artifact's files say it; no device is needed, and no runtime setting changes it. ``worse`` says
    how one is behind another, ``best`` what the best one is, ``no_gain`` what a larger file didn't bring; ``axis`` is
    the title of the axis that it is drawn along.
    """

    name: ObjectiveName
    timed: bool = False
    concurrent: bool = False
    in_files: bool = False
    more_is_better: bool = False
    worse: str
    best: str
    no_gain: str = "no better"
    axis: str

    def cost(self, value: float) -> float:
        """Return the figure such that less is better."""
        return -value if self.more_is_better else value

    def ratio(self, value: float, chosen: float) -> float:
        """Return how many times worse a value is than the chosen one's."""
        return chosen / value if self.more_is_better else value / chosen

    def figure(self, measured: Measurements, size_bytes: int) -> Figure:
        """Return the figure of one candidate: ms, samples a second, or bytes; what isn't known is as bad as can be."""
        latency, throughput, memory = measured.latency, measured.throughput, measured.memory
        if self.in_files:
            return Figure(value=float(size_bytes))
        if self.concurrent and throughput is not None:
            return Figure(value=throughput.per_s, low=throughput.low_per_s, high=throughput.high_per_s)
        if self.timed and not self.concurrent and latency is not None:
            return Figure(value=latency.point_ms, low=latency.low_ms, high=latency.high_ms)
        if not self.timed and memory is not None:
            return Figure(value=float(memory.peak_bytes))
        return Figure(value=0.0 if self.more_is_better else float("inf"))


OBJECTIVES: dict[ObjectiveName, Objective] = {
    "latency": Objective(
        name="latency",
        timed=True,
        worse="slower than",
        best="the fastest",
        no_gain="no faster",
        axis="latency p50, ms",
    ),
    "throughput": Objective(
        name="throughput",
        timed=True,
        concurrent=True,
        more_is_better=True,
        worse="less throughput than",
        best="the highest throughput",
        # The plot is of one request after the other: throughput has a table of its own.
        axis="latency p50, ms",
    ),
    "size": Objective(name="size", in_files=True, worse="as large as", best="the smallest", axis="size, MiB"),
    "memory": Objective(name="memory", worse="the memory of", best="the least memory", axis="peak memory, MiB"),
}
