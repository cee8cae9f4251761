"""Places that a mask hides are found by proof, and no statistic counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.models.dataset import write_dataset
from edgebuild.quantisers.own.graph import prepare
from edgebuild.quantisers.own.padding import Padding, find_padding
from edgebuild.quantisers.own.placement import place
from edgebuild.quantisers.own.simulator import Simulator, float_numbers
from edgebuild.quantisers.own.statistics import observe
from edgebuild.quantisers.own.step import Quantise
from tests.techniques.nets import U8S8, Builder, context, contract_of, run_model, sqnr_db

if TYPE_CHECKING:
    from pathlib import Path

TOKENS, WIDTH, WORDS, PAD = 8, 16, 32, 31


def pooled_net(*, masked: bool = True) -> Any:
    """Rows of a table through a product, and their mean: over what the mask shows, or over all.

    The row of ``PAD`` is far larger than the others.
    """
    b = Builder()
    rows = b.rng.normal(size=(WORDS, WIDTH)).astype(np.float32)
    rows[PAD] *= 50
    x = b.add("Gather", [b.constant("table", rows), "ids"], "rows")
    x = b.add("Add", [b.add("MatMul", [x, b.weight("w", WIDTH, WIDTH)], "product"), b.constant("b", rows[0])], "dense")
    x = b.add("MatMul", [b.add("Tanh", [x], "tanh"), b.weight("w2", WIDTH, WIDTH)], "second")
    shown = b.add("Cast", ["mask"], "shown", to=TensorProto.FLOAT)
    last = b.add("Unsqueeze", [shown, b.constant("axis", np.array([2], np.int64))], "column")
    x = b.add("Mul" if masked else "Add", [x, last], "kept")
    b.add("ReduceMean", [x], "y", axes=[1], keepdims=0)
    inputs = {name: (TensorProto.INT64, [1, TOKENS]) for name in ("ids", "mask")}
    return b.model(inputs, {"y": [1, WIDTH]})


def frames(count: int = 24) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, PAD, size=(count, 1, TOKENS))
    mask = (np.arange(TOKENS) < rng.integers(2, 6, size=(count, 1, 1))).astype(np.int64)
    return [{"ids": np.where(m == 1, i, PAD), "mask": m} for i, m in zip(ids, mask, strict=True)]


def simulated(net: Any) -> tuple[Simulator, Any]:
    graph = prepare(net)
    simulator = Simulator(graph, place(graph, U8S8), U8S8)
    return simulator, float_numbers(graph, simulator.placement)


@pytest.mark.parametrize("masked", [True, False])
def test_a_mask_is_one_where_what_it_hides_changes_nothing(masked: bool) -> None:
    simulator, numbers = simulated(pooled_net(masked=masked))
    fed: Any = frames()
    found = find_padding(fed, lambda feeds: simulator.run(numbers, feeds))
    share = float(np.mean([feeds["mask"].mean() for feeds in fed]))
    assert (found is not None) == masked
    if found is not None:
        assert found.mask == "mask"
        assert abs(found.share - share) < 1e-9


def test_without_another_input_nothing_is_shown() -> None:
    fed: Any = [{"mask": feeds["mask"]} for feeds in frames()]
    assert find_padding(fed, lambda feeds: {"y": feeds["mask"] * 0}) is None


def test_rows_that_hold_something() -> None:
    feeds = {"mask": np.array([[1, 1, 0, 1]])}
    padding = Padding(mask="mask", share=0.75)
    rows = np.arange(8.0).reshape(1, 4, 2)
    assert np.array_equal(padding.live(rows, feeds), rows[0][[0, 1, 3]])
    assert np.array_equal(padding.live(rows[0], feeds), rows[0][[0, 1, 3]]), "a Gemm's rows"
    assert padding.live(rows[:, :3], feeds) is not None
    for other in (rows[:, :3], np.zeros((0, 2)), np.arange(4.0)):
        assert padding.live(other, feeds) is other
    assert padding.live(rows, {"mask": np.zeros((1, 4))}) is rows, "where nothing is left, all counts"


def test_what_is_hidden_has_no_range() -> None:
    simulator, numbers = simulated(pooled_net())
    tensors = simulator.placement.groups
    fed: Any = frames()
    seen = (
        observe(simulator, numbers, fed, lambda _: None, tensors=tensors, padding=padding).histograms[tensors[0]]
        for padding in (None, Padding(mask="mask", share=0.4))
    )
    highs = [histogram.high for histogram in seen]
    assert highs[1] < highs[0] / 10


def test_answers_are_nearer_for_it(tmp_path: Path) -> None:
    net, fed = pooled_net(), frames(40)
    for name in ("model", "calibration", "out"):
        (tmp_path / name).mkdir()
    onnx.save(net, str(tmp_path / "model" / "model.onnx"))
    contract = contract_of(net, ())
    write_dataset(
        (Sample(inputs={name: value[0] for name, value in feeds.items()}) for feeds in fed[:30]),
        tmp_path / "calibration",
        specs=contract.inputs,
        stateful=False,
        source="calibration",
        task=NoProgress(),
        check=never_stop,
    )
    inputs = {name: tmp_path / name for name in ("model", "calibration")}
    Quantise(scheme=U8S8, contract=contract).run(inputs, tmp_path / "out", context(tmp_path))
    paths = (tmp_path / "model" / "model.onnx", tmp_path / "out" / "model.onnx")
    expected, got = (np.concatenate([run_model(path, feeds)[0] for feeds in fed[30:]]) for path in paths)
    assert sqnr_db(expected, got) > 35, "about 19 where the padding's range is everybody's"
