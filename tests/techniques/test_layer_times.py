"""What follows from times of layers: pure, from given tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from edgebuild.core.measurement import Comparison, LayerTime
from edgebuild.techniques.timing.layer_times import (
    PAIRS,
    PAIRS_FILE,
    TIME_FILE,
    LayerTimes,
    PairList,
    read_times,
    time_input,
)

if TYPE_CHECKING:
    from pathlib import Path

Outcome = Literal["better", "worse", "equivalent", "inconclusive"]
#: Each outcome with the bounds of an effect that it may be called.
BOUNDS: dict[Outcome, tuple[float, float]] = {
    "better": (-0.4, -0.3),
    "worse": (0.1, 0.2),
    "equivalent": (-0.01, 0.01),
    "inconclusive": (-0.3, 0.1),
}


def timed(outcome: Outcome, before_ms: float = 0.0121, after_ms: float = 0.0084) -> LayerTime:
    low, high = BOUNDS[outcome]
    comparison = Comparison(outcome=outcome, effect=(low + high) / 2, low=low, high=high, pairs=4)
    return LayerTime(before_ms=before_ms, after_ms=after_ms, comparison=comparison)


def write_times(folder: Path, times: dict[str, LayerTime | None]) -> dict[str, Path]:
    """Write what a step is given of its layers' times, each layer a pair of its own; None could not be timed."""
    inputs = {PAIRS: folder / "pairs"}
    for number, time in enumerate(times.values()):
        if time is not None:
            inputs[time_input(number)] = folder / f"times-{number}"
            inputs[time_input(number)].mkdir(parents=True)
            (inputs[time_input(number)] / TIME_FILE).write_text(time.to_json())
    inputs[PAIRS].mkdir(parents=True)
    pairs = PairList(layers=tuple((layer, number) for number, layer in enumerate(times)))
    (inputs[PAIRS] / PAIRS_FILE).write_text(pairs.to_json())
    return inputs


@pytest.mark.parametrize("outcome", [name for name in BOUNDS if name != "better"])
def test_only_what_was_measured_faster_takes_a_layers_place(outcome: Outcome) -> None:
    times = LayerTimes({"quick": timed("better"), "other": timed(outcome)})
    assert times.why_kept("quick") == ""
    assert times.why_kept("other").startswith("it gets no faster on the target: 12.1 → 8.4 µs, between ")
    assert times.why_kept("unknown") == "it could not be timed on the target"


def test_times_are_told_in_a_unit_that_fits() -> None:
    times = LayerTimes({"a": timed("better"), "b": timed("better", 12.34, 0.5)})
    assert (
        times.note(("a", "b")) == "Measured on the target, each layer in isolation, a: 12.1 → 8.4 µs; b: 12.3 → 0.5 ms."
    )
    many = LayerTimes({str(n): timed("better") for n in range(7)})
    assert many.note(tuple(many.known)).endswith("4: 12.1 → 8.4 µs; and 2 more.")


def test_layers_that_share_a_pair_share_its_time(tmp_path: Path) -> None:
    inputs = write_times(tmp_path, {"a": timed("better"), "b": None})
    pairs = PairList(layers=(("a", 0), ("b", 1), ("c", 0)))
    (inputs[PAIRS] / PAIRS_FILE).write_text(pairs.to_json())
    times = read_times(inputs)
    assert times is not None
    assert times.known == {"a": timed("better"), "c": timed("better")}
    assert (pairs.count, pairs.of(0)) == (2, ("a", "c"))
    assert read_times({"model": tmp_path}) is None
