"""What a target said of layers, each timed against its replacement, and what follows for each. No torch here.

A step that is given times has two sorts of inputs in addition to its own: ``pairs``, a folder with ``pairs.json``, and
``time-N`` for each pair of models N that could be timed, a folder with ``time.json`` (``LayerTime``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.measurement import LayerTime
from edgebuild.core.values import Value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PAIRS = "pairs"
PAIRS_FILE = "pairs.json"
TIME_FILE = "time.json"
#: Layers that a note names.
MOST_NAMED = 5


class PairList(Value):
    """``pairs.json``: which pair of models stands for which layer. Layers alike in all but their weights share one."""

    layers: tuple[tuple[str, int], ...] = ()

    @property
    def count(self) -> int:
        """How many pairs there are; they are numbered from 0."""
        return len({number for _, number in self.layers})

    def of(self, number: int) -> tuple[str, ...]:
        """Return the layers that a pair stands for."""
        return tuple(layer for layer, each in self.layers if each == number)


@dataclass(frozen=True)
class LayerTimes:
    """Times by layer; one that could not be timed is missing."""

    known: Mapping[str, LayerTime]

    def why_kept(self, layer: str) -> str:
        """Return why a layer stays as it is; empty where what would take its place was measured faster.

        Faster is what ``Comparison`` calls better: the interval of the paired launches lies below 0, and the effect
        is more than 1 %. What can't be distinguished stays.
        """
        time = self.known.get(layer)
        if time is None:
            return "it could not be timed on the target"
        return "" if time.comparison.outcome == "better" else f"it gets no faster on the target: {detailed(time)}"

    def note(self, layers: tuple[str, ...]) -> str:
        """Say what was measured of these layers, of the first of them where they are many."""
        shown = [f"{layer}: {short(self.known[layer])}" for layer in layers[:MOST_NAMED]]
        more = f"; and {len(layers) - MOST_NAMED} more" if len(layers) > MOST_NAMED else ""
        return f"Measured on the target, each layer in isolation, {'; '.join(shown)}{more}."


def read_times(inputs: Mapping[str, Path]) -> LayerTimes | None:
    """Return the times among a step's inputs; None where nothing was timed."""
    if PAIRS not in inputs:
        return None
    pairs = read_pairs(inputs[PAIRS])
    known = {
        layer: LayerTime.model_validate_json((inputs[time_input(number)] / TIME_FILE).read_bytes())
        for layer, number in pairs.layers
        if time_input(number) in inputs
    }
    return LayerTimes(known)


def read_pairs(folder: Path) -> PairList:
    """Return which pairs a folder holds."""
    return PairList.model_validate_json((folder / PAIRS_FILE).read_bytes())


def time_input(number: int) -> str:
    """Return the name of the input that holds the times of a pair."""
    return f"time-{number:03d}"


def short(time: LayerTime) -> str:
    """Return both times in words: ``12.1 → 8.4 µs``."""
    scale, unit = (1e3, "µs") if max(time.before_ms, time.after_ms) < 1 else (1.0, "ms")
    return f"{scale * time.before_ms:.3g} → {scale * time.after_ms:.3g} {unit}"


def detailed(time: LayerTime) -> str:
    """Return both times with the difference's interval."""
    low, high = (100 * math.expm1(bound) for bound in (time.comparison.low, time.comparison.high))
    return f"{short(time)}, between {low:+.1f} % and {high:+.1f} % in {time.comparison.pairs} pairs of launches"
