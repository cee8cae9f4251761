from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from edgebuild.quantisers.fp16_storage import LARGEST_HALF, HalfStorage, why_not_half
from tests.techniques.nets import Builder, context, residual_net, run_model, sqnr_db

if TYPE_CHECKING:
    from pathlib import Path


def _convert(folder: Path, model: Any) -> tuple[Path, dict[str, Any]]:
    source, out = folder / "model", folder / "out"
    source.mkdir()
    out.mkdir()
    onnx.save(model, str(source / "model.onnx"))
    HalfStorage().run({"model": source}, out, context(folder))
    return out / "model.onnx", json.loads((out / "half.json").read_text())


def test_weights_are_halves_and_the_outputs_the_same_to_half_precision(tmp_path: Path) -> None:
    path, report = _convert(tmp_path, residual_net())
    model = onnx.load(str(path))
    halves = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}
    assert {"stem_w_half", "c1_w_half", "c2_w_half", "fc_w_half"} == halves
    assert report["kept_float32"]["stem_b"] == "fewer than 64 elements"
    assert report["file_bytes"]["after"] < 0.75 * report["file_bytes"]["before"]
    image = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    expected = run_model(tmp_path / "model" / "model.onnx", {"image": image})[0]
    got = run_model(path, {"image": image})[0]
    assert got.dtype == np.float32
    assert sqnr_db(expected, got) > 60


def test_what_overflows_or_underflows_stays_float32_and_is_named(tmp_path: Path) -> None:
    b = Builder()
    large = np.ones((8, 16), np.float32)
    large[0, 0] = 70_000
    x = b.add("MatMul", ["x", b.constant("large", large)], "a")
    x = b.add("MatMul", [x, b.constant("tiny", np.full((16, 8), 1e-9, np.float32))], "b")
    b.add("MatMul", [x, b.weight("fine", 8, 16)], "y")
    path, report = _convert(tmp_path, b.model({"x": (1, [1, 8])}, {"y": [1, 16]}))
    kept = report["kept_float32"]
    assert set(kept) == {"large", "tiny"}
    assert "70000" in kept["large"]
    assert "too small" in kept["tiny"]
    feeds = {"x": np.ones((1, 8), np.float32)}
    assert sqnr_db(run_model(tmp_path / "model" / "model.onnx", feeds)[0], run_model(path, feeds)[0]) > 60


@given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=64, max_size=100))
def test_whatever_is_accepted_survives(values: list[float]) -> None:
    array = np.array(values, np.float32)
    if why_not_half(array) is None:
        back = array.astype(np.float16).astype(np.float64)
        assert np.isfinite(back).all()
        assert np.abs(array).max() <= LARGEST_HALF
        assert np.sqrt(np.mean((back - array) ** 2)) <= 1e-3 * np.sqrt(np.mean(array.astype(np.float64) ** 2))
