"""Weights in int8 on disk, fp32 in arithmetic: in every runtime, also where it would rather compute in 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgebuild.core.artifact import Precision
from edgebuild.errors import ModelError
from edgebuild.quantisers.int8_storage import Int8Storage
from tests.backends.nets import Bench, data_folder
from tests.techniques.nets import Builder, context, contract_of, residual_net, run_model, sqnr_db

if TYPE_CHECKING:
    from pathlib import Path

STORED = Precision(kind="int8-storage")
STEPS, WIDTH, HIDDEN = 6, 32, 64


def lstm_net() -> Any:
    """A recurrent layer, and a dense one on its last state."""
    b = Builder()
    w = b.constant("w", b.rng.normal(size=(1, 4 * HIDDEN, WIDTH), scale=0.2).astype(np.float32))
    r = b.constant("r", b.rng.normal(size=(1, 4 * HIDDEN, HIDDEN), scale=0.1).astype(np.float32))
    steps = b.add("Transpose", ["x"], "steps", perm=[1, 0, 2])
    b.add("LSTM", [steps, w, r], "states", hidden_size=HIDDEN)
    last = b.add("Gather", ["states", b.constant("last", np.array(STEPS - 1, np.int64))], "last_state", axis=0)
    flat = b.add("Reshape", [last, b.constant("flat", np.array([1, HIDDEN], np.int64))], "flat_state")
    b.add("MatMul", [flat, b.weight("head", HIDDEN, 32)], "y")
    return b.model({"x": (TensorProto.FLOAT, [1, STEPS, WIDTH])}, {"y": [1, 32]})


def stored(folder: Path, net: Any, keep: tuple[str, ...] = ()) -> Any:
    (folder / "model").mkdir(parents=True)
    (folder / "out").mkdir()
    onnx.save(net, str(folder / "model" / "model.onnx"))
    Int8Storage(keep_float=keep).run({"model": folder / "model"}, folder / "out", context(folder))
    return onnx.load(str(folder / "out" / "model.onnx"))


def codes(net: Any) -> set[str]:
    return {t.name.removesuffix("_quantized") for t in net.graph.initializer if t.data_type == TensorProto.INT8}


def test_weights_are_a_quarter_and_answers_hardly_change(tmp_path: Path) -> None:
    net = lstm_net()
    made = stored(tmp_path, net)
    assert codes(made) == {"w", "r", "head"}
    assert made.ByteSize() < 0.32 * net.ByteSize()
    feeds = {"x": np.random.default_rng(0).normal(size=(1, STEPS, WIDTH)).astype(np.float32)}
    paths = (tmp_path / part / "model.onnx" for part in ("model", "out"))
    expected, got = (run_model(path, feeds)[0] for path in paths)
    assert sqnr_db(expected, got) > 35


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_no_runtime_computes_in_8_bits(tmp_path: Path, backend: str) -> None:
    """The answers are those of the dequantised weights in fp32, and what ships is as small as what was written."""
    made = stored(tmp_path, lstm_net())
    contract = contract_of(lstm_net(), ())
    bench = Bench.open(tmp_path)
    frames = np.random.default_rng(0).normal(size=(4, STEPS, WIDTH)).astype(np.float32)
    artifact = bench.compile(backend, made, contract, precision=STORED)
    data = data_folder(tmp_path / "data", {"x": frames})
    got = bench.evaluate(artifact, data)[0]["y"]
    path = tmp_path / "out" / "model.onnx"
    right = np.concatenate([run_model(path, {"x": frame[np.newaxis]})[0] for frame in frames])
    assert np.allclose(right, got, atol=1e-5)
    assert max(file.stat().st_size for file in artifact.iterdir()) < 1.3 * made.ByteSize()


def test_what_is_kept_float_or_small_or_read_in_two_ways_stays(tmp_path: Path) -> None:
    b = Builder()
    both = b.weight("both", 40, 40)
    x = b.add("MatMul", ["x", both], "a")
    x = b.add("Gemm", [x, both], "b", transB=1)
    x = b.add("MatMul", [x, b.weight("kept", 40, 40)], "c")
    x = b.add("MatMul", [x, b.weight("plain", 40, 40)], "d")
    b.add("MatMul", [x, b.weight("small", 40, 5)], "y")
    net = b.model({"x": (TensorProto.FLOAT, [1, 40])}, {"y": [1, 5]})
    kept = next(node.name for node in net.graph.node if node.output[0] == "c")
    assert kept
    assert codes(stored(tmp_path, net, keep=(kept,))) == {"plain"}


def test_a_model_without_such_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights to store"):
        stored(tmp_path, residual_net(), keep=("Conv", "MatMul", "Gemm"))
