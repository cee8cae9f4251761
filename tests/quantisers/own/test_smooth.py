"""Smoothing keeps the function, costs nothing where a normalisation takes it, and is kept only where it helps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.quantisers.own.graph import Graph, prepare
from edgebuild.quantisers.own.placement import place
from edgebuild.quantisers.own.smooth import Spot, factors, smoothed, spots, uneven
from edgebuild.quantisers.own.step import Quantise
from tests.techniques.nets import U8S8, Builder, context, residual_net, run_model, write_project

if TYPE_CHECKING:
    from pathlib import Path

WIDTH = 48


def norm_net(*, residual: bool, outlier: float = 60.0) -> Any:
    """A normalisation with some channels ``outlier`` times the others, and two products that read it."""
    b = Builder()
    scale = np.where(np.arange(WIDTH) % 24 == 0, outlier, 1.0).astype(np.float32)
    parts = ["x", b.constant("scale", scale), b.constant("shift", np.linspace(-1, 1, WIDTH, dtype=np.float32))]
    x = b.add("LayerNormalization", parts, "norm", axis=-1)
    left = b.add("MatMul", [x, b.weight("left_w", WIDTH, 16)], "left")
    right = b.add("MatMul", [x, b.weight("right_w", WIDTH, 16)], "right")
    b.add("Tanh", [b.add("Add", [left, right], "sum")], "y")
    if residual:
        b.add("Sin", [x], "z")
    outputs = {"y": [1, 6, 16], **({"z": [1, 6, WIDTH]} if residual else {})}
    return b.model({"x": (1, [1, 6, WIDTH])}, outputs)


def seen(graph: Graph, found: tuple[Spot, ...], feeds: dict[str, Any], folder: Path) -> dict[str, Any]:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(spot.tensor) for spot in found)
    onnx.save(model, str(folder / "shown.onnx"))
    values = run_model(folder / "shown.onnx", feeds)[-len(found) :]
    return {s.tensor: np.abs(v).reshape(-1, WIDTH).max(axis=0) for s, v in zip(found, values, strict=True)}


@pytest.mark.parametrize("residual", [False, True])
def test_a_smoothed_graph_is_the_same_function_with_even_channels(tmp_path: Path, residual: bool) -> None:
    graph = prepare(norm_net(residual=residual))
    placement = place(graph, U8S8)
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 6, WIDTH)).astype(np.float32)}
    found = spots(graph, placement)
    assert [len(spot.ops) for spot in found] == [2]
    reach = seen(graph, found, feeds, tmp_path)
    other = smoothed(graph, uneven(found, reach), reach, 0.85)
    assert ("Mul" in {node.op_type for node in other.nodes}) == residual, "only a normalisation for products alone"
    for name, each in (("before", graph), ("after", other)):
        onnx.save(each.model, str(tmp_path / f"{name}.onnx"))
    before, after = (run_model(tmp_path / f"{name}.onnx", feeds) for name in ("before", "after"))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(before, after, strict=True))
    again = seen(other, spots(other, place(other, U8S8)), feeds, tmp_path)
    ratio = [float(r.max() / np.median(r)) for values in (reach, again) for r in values.values()]
    assert ratio[1] < ratio[0] / 4


@given(st.integers(0, 1000), st.floats(0.0, 1.0))
def test_factors_are_positive_finite_and_one_in_the_mean(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    graph = prepare_once()
    spot = spots(graph, place(graph, U8S8))[0]
    reach = np.abs(rng.normal(size=WIDTH)) * np.exp(rng.normal(size=WIDTH) * 8) * (rng.random(WIDTH) < 0.9)
    found = factors(graph, spot, reach, strength)
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert abs(float(np.log(found.astype(np.float64)).mean())) < 1e-3


def prepare_once(kept: list[Graph] = []) -> Graph:  # noqa: B006 - made once, for many examples
    if not kept:
        kept.append(prepare(norm_net(residual=False)))
    return kept[0]


def test_products_behind_8_bit_ops_are_left_alone() -> None:
    graph = prepare(residual_net())
    assert spots(graph, place(graph, U8S8)) == ()


@pytest.mark.parametrize(("outlier", "kept"), [(60.0, True), (1.0, False)])
def test_it_is_kept_where_outputs_are_clearly_nearer_and_not_tried_where_channels_are_even(
    tmp_path: Path, outlier: float, kept: bool
) -> None:
    inputs, contract = write_project(tmp_path / "project", norm_net(residual=True, outlier=outlier))
    (tmp_path / "out").mkdir()
    Quantise(scheme=U8S8, contract=contract).run(inputs, tmp_path / "out", context(tmp_path))
    report = json.loads((tmp_path / "out" / "quantise.json").read_text())
    rungs = {rung["name"]: rung["kept"] for rung in report["rungs"] if "smoothing" in rung["name"]}
    assert any(rungs.values()) == kept
    assert bool(rungs) == kept
    ops = [node.op_type for node in onnx.load(str(tmp_path / "out" / "model.onnx")).graph.node]
    assert ("Mul" in ops) == kept
