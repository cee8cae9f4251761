"""An int8 candidate that lost to fp32 says what its layers really run in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from edgebuild.building.certify import Screening
from edgebuild.building.decisions import Decisions
from edgebuild.building.losers import explain_slow, why_slow
from edgebuild.building.results import MeasurementResults
from edgebuild.core.measurement import Layer, Measurements
from edgebuild.measuring import side
from tests.building.test_decisions import built, entrant, entrants, latency
from tests.planning.test_plan import OURS

if TYPE_CHECKING:
    import pytest

FAST, SLOW = (Measurements(latency=latency(ms)) for ms in (8.3, 25.3))
LAYERS = tuple(
    Layer(name=f"{op}{i}", op=op, precision=precision)
    for op, precision, count in (("Gemm", "float32", 24), ("Conv", "int8", 3), ("Softmax", "float32", 6))
    for i in range(count)
)


def test_the_most_frequent_operators_outside_int8_are_named() -> None:
    assert why_slow(LAYERS, SLOW, FAST) == (
        "no faster than fp32 here (25.3 ms against 8.3 ms): of 33 layers as they run 3 are in int8; "
        "24 Gemm in float32, 6 Softmax in float32"
    )
    assert why_slow((), SLOW, FAST).endswith("its runtime doesn't say what its layers run in")


def _explained(
    int8: Measurements, monkeypatch: pytest.MonkeyPatch, *, deadline_s: float = float("inf")
) -> MeasurementResults:
    plain, slow = entrant(built("p")), entrant(built("p", precision=OURS))
    found = {plain.arm.id: FAST, slow.arm.id: int8}
    session: Any = SimpleNamespace(folder=Path("s"))
    bench: Any = SimpleNamespace(deadline_s=deadline_s, attempt=lambda _, work: work())
    monkeypatch.setattr(side, "read_layers", lambda *_: LAYERS)
    raced = entrants(replace(plain), slow)
    return explain_slow(MeasurementResults(), raced, Screening(session, found, {}), bench, Decisions())


def test_only_what_lost_is_explained_and_only_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    (notes,) = _explained(SLOW, monkeypatch).notes.values()
    assert [note.topic for note in notes] == ["layers"]
    assert "24 Gemm in float32" in notes[0].text
    assert _explained(Measurements(latency=latency(4.0)), monkeypatch).notes == {}
    assert _explained(SLOW, monkeypatch, deadline_s=0.0).notes == {}
