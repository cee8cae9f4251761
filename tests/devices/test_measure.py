"""What an accelerator says of itself is taken where there is one, after the samples are safe."""

from __future__ import annotations

import types
from typing import Any

from edgebuild.devices.runner import measure


class Timed:
    """A session whose accelerator takes 7, 8, 9, … ns."""

    def __init__(self) -> None:
        self.runs = 6

    @property
    def device_ns(self) -> int:
        return self.runs


def test_device_only_time_and_memory_are_facts_of_a_launch() -> None:
    session = Timed()

    def run(seconds: float, least: int) -> int:
        session.runs += 1
        return 1

    bench: Any = types.SimpleNamespace(run=run)
    memory = {"source": "nvmap", "used_bytes": 123}
    found = measure._accelerator(types.SimpleNamespace(accelerator_memory=lambda: memory), session, bench)
    middle = 7 + measure.DEVICE_ONLY_RUNS // 2
    assert {fact["name"]: fact["value"] for fact in found} == {
        "device_only_median_ns": str(middle),
        "accelerator_memory_bytes": "123",
        "accelerator_memory_source": "nvmap",
    }


def test_without_an_accelerator_nothing_is_run_and_nothing_said() -> None:
    nothing: Any = types.SimpleNamespace()
    assert measure._accelerator(nothing, nothing, nothing) == []
