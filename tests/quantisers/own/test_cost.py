"""What quantising costs: runs of the model, memory, and that neither changes the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.quantisers.own import simulator, workbench
from edgebuild.quantisers.own.arithmetic import BINS
from edgebuild.quantisers.own.graph import prepare
from edgebuild.quantisers.own.parallel import Workers
from edgebuild.quantisers.own.placement import place
from edgebuild.quantisers.own.simulator import Simulator, float_numbers
from edgebuild.quantisers.own.stages import Walk
from edgebuild.quantisers.own.statistics import COUNTED, Spread
from edgebuild.quantisers.own.step import Quantise
from tests.techniques.nets import U8S8, Builder, context, residual_net, write_project

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = 40


def deep_net(layers: int) -> Any:
    """As many residual convolutions, one after another."""
    b = Builder()
    x = b.conv("image", "stem", 3, 8)
    for i in range(layers):
        x = b.add("Add", [x, b.add("Relu", [b.conv(x, f"c{i}", 8, 8)], f"r{i}")], f"sum{i}")
    x = b.add("Flatten", [b.add("GlobalAveragePool", [x], "pool")], "flat")
    b.add("MatMul", [x, b.weight("fc_w", 8, 4)], "logits")
    return b.model({"image": (1, [1, 3, 8, 8])}, {"logits": [1, 4]})


@dataclass
class Counted(NoProgress):
    """Progress that remembers the last task's total and what was done of it."""

    total: float | None = None
    done: list[float] = field(default_factory=list)

    def task(self, title: str, total: float | None = None) -> Counted:
        del title
        self.total, self.done = total, []
        return self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        del note
        self.done.append(amount)

    def __enter__(self) -> Counted:
        return self


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every run of a session, as how many nodes it computes: a whole model, or one of its stages."""
    counted: list[int] = []
    from edgebuild.quantisers.own import sessions, stages

    nodes: dict[int, int] = {}
    kept: list[Any] = []

    def make(model: Any, *arguments: Any, **named: Any) -> Any:
        session = sessions.make_session(model, *arguments, **named)
        nodes[id(session)] = len(model.graph.node)
        kept.append(session)
        return session

    def run(session: Any, *arguments: Any) -> Any:
        counted.append(nodes[id(session)])
        return sessions.run_session(session, *arguments)

    for module in (simulator, stages):
        monkeypatch.setattr(module, "make_session", make)
        monkeypatch.setattr(module, "run_session", run)
    return counted


def quantised(folder: Path, model: Any, progress: NoProgress | None = None) -> bytes:
    inputs, contract = write_project(folder / "project", model, samples=SAMPLES)
    out = folder / "out"
    out.mkdir()
    plain = context(folder)
    ctx = StepContext(progress=progress or plain.progress, check=never_stop, seed=0, scratch=folder)
    Quantise(scheme=U8S8, contract=contract).run(inputs, out, ctx)
    return (out / "model.onnx").read_bytes()


@pytest.mark.parametrize("layers", [4, 16])
def test_a_large_model_is_run_as_often_however_many_layers_it_has(
    layers: int, runs: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a budget that no search of single tensors fits into, work is passes over the frames."""
    from edgebuild.quantisers.own import step

    monkeypatch.setattr(step, "BUDGET_MACS", 1)
    quantised(tmp_path, deep_net(layers))
    frames = SAMPLES // 2
    whole = max(runs)
    # Two observations, at most ten verdicts, five shared rules; four times layer by layer, in float and in 8 bits.
    assert sum(runs) < (1 + 1 + 10 + 6 + 8) * frames * whole


def test_progress_is_in_runs_of_a_total_that_is_known_first(tmp_path: Path) -> None:
    progress = Counted()
    quantised(tmp_path, residual_net(), progress)
    assert progress.total is not None
    assert 0.4 * progress.total < sum(progress.done) < 1.3 * progress.total
    assert max(progress.done) < 0.1 * progress.total


def test_how_many_run_at_a_time_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = quantised(tmp_path / "one", residual_net())
    monkeypatch.setattr(simulator, "PARALLEL_MACS", 0)
    monkeypatch.setattr(simulator, "usable_cores", lambda: 3)
    assert Simulator(prepare(residual_net()), place(prepare(residual_net()), U8S8), U8S8).workers.count == 3
    assert quantised(tmp_path / "three", residual_net()) == one


def test_frames_that_go_layer_by_layer_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is live at most is 8 KB: the input of the residual sum and that of its second convolution.
    seen: list[int] = []

    class Watched(Walk):
        def step(self, parameters: Any) -> Any:
            result = super().step(parameters)
            seen.append(self.live_bytes)
            return result

    monkeypatch.setattr(workbench, "Walk", Watched)
    monkeypatch.setattr(workbench, "WALK_MEMORY", 100_000)
    quantised(tmp_path, residual_net())
    assert 25_000 < max(seen) <= 50_000


def test_work_in_order_is_bounded() -> None:
    running, most = [0], [0]

    def work(item: int) -> int:
        running[0] += 1
        most[0] = max(most[0], running[0])
        return item

    def taken() -> Any:
        for item in Workers(2).in_order(work, range(50)):
            running[0] -= 1
            yield item

    assert list(taken()) == list(range(50))
    assert most[0] <= 4


values = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30).map(
    lambda v: np.array(v, np.float32)
)


@settings(max_examples=200)
@given(parts=st.lists(values, min_size=1, max_size=5))
def test_spreads_add_up_to_that_of_everything_at_once(parts: list[np.ndarray]) -> None:
    whole = Spread.of(np.concatenate(parts))
    assert whole is not None
    for order in (parts, parts[::-1]):
        total = Spread.of(order[0])
        assert total is not None
        for part in order[1:]:
            more = Spread.of(part)
            assert more is not None
            total = total + more
        assert (total.low, total.high, total.exponent, total.first) == (
            whole.low,
            whole.high,
            whole.exponent,
            whole.first,
        )
        np.testing.assert_array_equal(total.counts, whole.counts)


@given(part=values)
def test_a_spread_is_what_numpy_counts_between_its_edges(part: np.ndarray) -> None:
    spread = Spread.of(part)
    assert spread is not None
    histogram = spread.histogram
    assert histogram.counts.sum() == len(part)
    assert len(histogram.counts) <= 2 * BINS
    expected, _ = np.histogram(part.astype(np.float64), bins=histogram.bounds)
    # numpy's last bin is closed, ours never ends at a value.
    np.testing.assert_array_equal(histogram.counts, expected)


def test_of_a_large_tensor_some_are_counted_and_the_extremes_are_of_all() -> None:
    x = np.random.default_rng(0).normal(size=(4 * COUNTED + 3,)).astype(np.float32)
    spreads = [Spread.of(x, turn) for turn in range(5)]
    assert all(s is not None and (s.low, s.high) == (x.min(), x.max()) for s in spreads)
    assert sum(int(s.counts.sum()) for s in spreads if s is not None) == x.size


def test_what_is_not_finite_has_no_spread() -> None:
    assert Spread.of(np.array([1.0, np.nan], np.float32)) is None
    assert Spread.of(np.array([1.0, -np.inf], np.float32)) is None


def test_a_model_without_ranges_runs_in_float(tmp_path: Path) -> None:
    graph = prepare(residual_net())
    placement = place(graph, U8S8)
    numbers = float_numbers(graph, placement)
    x = {"image": np.ones((1, 3, 8, 8), np.float32)}
    floats = Simulator(graph, placement, U8S8).run(numbers, x, ("stem_relu", "logits"))
    assert set(floats) == {"stem_relu", "logits"}
    assert floats["stem_relu"].min() >= 0
