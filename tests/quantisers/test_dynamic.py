"""Dynamic int8: made without data, and really run in 8 bits by onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from edgebuild.core.artifact import Int8Scheme, Precision
from edgebuild.errors import ModelError
from edgebuild.models.onnx_files import read_facts
from edgebuild.quantisers.registry import quantiser
from tests.backends.nets import Bench, data_folder
from tests.quantisers.own.encoders import encoder_net
from tests.quantisers.test_int8_storage import STEPS, WIDTH, lstm_net
from tests.techniques.nets import U8S8, context, contract_of, residual_net, run_model, sqnr_db

if TYPE_CHECKING:
    from pathlib import Path

DYNAMIC = Precision(kind="int8-dynamic", scheme=U8S8)


def quantised(folder: Path, net: Any, scheme: Int8Scheme = U8S8) -> Any:
    (folder / "model").mkdir(parents=True)
    (folder / "out").mkdir()
    onnx.save(net, str(folder / "model" / "model.onnx"))
    precision = Precision(kind="int8-dynamic", scheme=scheme)
    step = quantiser("onnxruntime-dynamic")(precision, contract_of(net, ()), (), 0)
    step.run({"model": folder / "model"}, folder / "out", context(folder))
    return onnx.load(str(folder / "out" / "model.onnx"))


def test_products_and_lstms_run_in_8_bits_and_are_said_to(tmp_path: Path) -> None:
    net = lstm_net()
    made = quantised(tmp_path, net)
    assert made.ByteSize() < 0.35 * net.ByteSize()
    bench = Bench.open(tmp_path)
    frames = np.random.default_rng(0).normal(size=(4, STEPS, WIDTH)).astype(np.float32)
    artifact = bench.compile("onnxruntime", made, contract_of(net, ()), precision=DYNAMIC)
    data = data_folder(tmp_path / "data", {"x": frames})
    right = [run_model(tmp_path / "model" / "model.onnx", {"x": frame[np.newaxis]})[0] for frame in frames]
    assert sqnr_db(np.concatenate(right), bench.evaluate(artifact, data)[0]["y"]) > 25
    ran = {layer["op"]: layer["precision"] for layer in bench.call("layers", artifact, data)["layers"]}
    assert ran["DynamicQuantizeLSTM"] == ran["DynamicQuantizeMatMul"] == "int8"


def test_an_encoder_answers_as_before(tmp_path: Path) -> None:
    net = encoder_net()
    quantised(tmp_path, net)
    feeds = {"ids": np.arange(12)[np.newaxis]}
    paths = (tmp_path / part / "model.onnx" for part in ("model", "out"))
    expected, got = (run_model(path, feeds, optimised=True)[0] for path in paths)
    assert sqnr_db(expected, got) > 15


def test_where_products_saturate_weights_have_7_bits(tmp_path: Path) -> None:
    made = quantised(tmp_path, lstm_net(), Int8Scheme(activations="uint8", reduce_range=True))
    codes = [onnx.numpy_helper.to_array(t) for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert max(np.abs(each.astype(int)).max(initial=0) for each in codes if each.ndim > 1) <= 64


def test_a_net_of_convolutions_is_refused(tmp_path: Path) -> None:
    net = residual_net()
    keep = [node for node in net.graph.node if node.op_type in {"Gemm", "MatMul"}]
    for node in keep:
        net.graph.node.remove(node)
    net.graph.output[0].name = net.graph.node[-1].output[0]
    net.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="found nothing to quantise"):
        quantised(tmp_path, net)


def test_how_much_of_a_model_it_is_for() -> None:
    assert read_facts(lstm_net()).dense_bytes == 4 * (4 * 64 * 32 + 4 * 64 * 64 + 64 * 32)
    facts = read_facts(residual_net())
    assert 0 < facts.dense_bytes < 0.5 * facts.weight_bytes
