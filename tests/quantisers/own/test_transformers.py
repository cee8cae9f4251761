"""Encoders in 8 bits: every product with a weight really runs in it, tables are stored in it, masks cost no range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgebuild.backends.ort.fusions import MATMUL_ADD, float_products, harmful
from edgebuild.backends.protocol import read_notes
from edgebuild.core.artifact import Precision
from edgebuild.models.freezing import freeze
from edgebuild.quantisers.own.graph import prepare
from edgebuild.quantisers.own.placement import place
from edgebuild.quantisers.own.step import Quantise
from edgebuild.quantisers.own.tables import scales
from tests.backends.nets import Bench, data_folder
from tests.quantisers.own.encoders import FORMS, VOCABULARY, WIDTH, encoder_net, residual_rows
from tests.techniques.nets import (
    U8S8,
    Builder,
    context,
    contract_of,
    optimised_ops,
    random_array,
    run_model,
    sqnr_db,
    write_project,
)

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.artifact import Contract

INT8 = Precision(kind="int8", scheme=U8S8, quantiser="edgebuild")
#: What onnxruntime makes of a product in 8 bits.
IN_8_BITS = {"QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}


def quantised(folder: Path, net: Any, keep: tuple[str, ...] = ()) -> Any:
    inputs, contract = write_project(folder / "project", net, samples=8)
    (folder / "out").mkdir()
    Quantise(scheme=U8S8, contract=contract, keep_float=keep).run(inputs, folder / "out", context(folder))
    return onnx.load(str(folder / "out" / "model.onnx"))


def optimised(folder: Path, net: Any) -> Any:
    """What onnxruntime makes of a model unless it is told otherwise."""
    folder.mkdir(exist_ok=True)
    onnx.save(net, str(folder / "given.onnx"))
    optimised_ops(folder / "given.onnx", folder / "optimised.onnx")
    return onnx.load(str(folder / "optimised.onnx"))


@pytest.mark.parametrize("form", FORMS)
def test_every_product_with_a_weight_runs_in_8_bits(tmp_path: Path, form: str) -> None:
    net = quantised(tmp_path, encoder_net(form, layers=1))
    made = optimised(tmp_path / "session", net)
    weighted = place(prepare(encoder_net(form, layers=1)), U8S8).ops
    assert len(weighted) == 7
    assert float_products(made) == ()
    assert sum(node.op_type in IN_8_BITS for node in made.graph.node) == len(weighted)


@pytest.mark.parametrize("net", [encoder_net(), residual_rows()], ids=["encoder", "rows"])
def test_a_file_that_a_fusion_would_take_out_of_8_bits_is_compiled_without_it(tmp_path: Path, net: Any) -> None:
    """Files of other quantisers keep biases in float; so does ours where the sum is with something else."""
    contract, net = contract_of(net), with_float_biases(quantised(tmp_path, net))
    assert harmful(net) == (MATMUL_ADD,)
    assert float_products(optimised(tmp_path / "session", net)), "onnxruntime no longer does what is worked around"
    bench = Bench.open(tmp_path)
    artifact = bench.compile("onnxruntime", net, contract, precision=INT8)
    compiled = onnx.load(str(artifact / "model.onnx"))
    assert float_products(compiled) == ()
    assert "SkipLayerNormalization" not in {node.op_type for node in compiled.graph.node}
    shipped = bench.compile("onnxruntime", net, contract, precision=INT8, on_device=False, name="shipped")
    data = data_folder(tmp_path / "data", frames(contract))
    layers = bench.call("layers", shipped, data)["layers"]
    assert not {"Gemm", "FusedGemm"} & {layer["op"] for layer in layers}


def test_what_runs_in_float_all_the_same_is_noted(tmp_path: Path) -> None:
    """A Gemm of another quantiser's whose bias is in float has no 8-bit kernel, whatever is left out."""
    contract, net = contract_of(encoder_net("gemm")), quantised(tmp_path, encoder_net("gemm"))
    whole = onnx.load_from_string(net.SerializeToString())
    bench = Bench.open(tmp_path)
    artifact = bench.compile("onnxruntime", with_float_biases(net, "Gemm"), contract, precision=INT8)
    (note,) = read_notes(artifact)
    assert note.startswith("ONNX Runtime computes 13 of the layers with 8-bit weights in float: ")
    assert read_notes(bench.compile("onnxruntime", whole, contract, precision=INT8, name="whole")) == ()


def frames(contract: Contract) -> dict[str, Any]:
    """Two samples."""
    rng = np.random.default_rng(5)
    return {spec.name: np.stack([random_array(spec, rng) for _ in range(2)]) for spec in contract.inputs}


def with_float_biases(net: Any, op: str = "Add") -> Any:
    """Let every node of a type take its bias in float again."""
    added = {name for node in net.graph.node if node.op_type == op for name in node.input}
    stored = {t.name: numpy_helper.to_array(t) for t in net.graph.initializer}
    kept = []
    for node in net.graph.node:
        codes = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if codes is not None and codes.dtype == np.int32 and node.output[0] in added:
            reals = (codes * stored[node.input[1]]).astype(np.float32)
            net.graph.initializer.append(numpy_helper.from_array(reals, node.output[0]))
        else:
            kept.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    del net.graph.node[:]
    net.graph.node.extend(copies)
    return net


def test_a_table_is_stored_in_8_bits_and_read_as_it_was_judged(tmp_path: Path) -> None:
    model = encoder_net(layers=1)
    net = quantised(tmp_path, model)
    assert net.ByteSize() < 0.4 * model.ByteSize()
    tables = [t for t in net.graph.initializer if tuple(t.dims) == (VOCABULARY, WIDTH)]
    assert [t.data_type for t in tables] == [onnx.TensorProto.INT8]
    kept = [t for t in optimised(tmp_path / "session", net).graph.initializer if t.dims[:1] == [VOCABULARY]]
    assert {(t.data_type, tuple(t.dims)) for t in kept} == {(3, (VOCABULARY, WIDTH)), (1, (VOCABULARY, 1))}
    feeds = {"ids": np.arange(12)[np.newaxis]}
    onnx.save(model, str(tmp_path / "float.onnx"))
    expected = run_model(tmp_path / "float.onnx", feeds)[0]
    got = [run_model(tmp_path / "out" / "model.onnx", feeds, optimised=each)[0] for each in (False, True)]
    assert min(sqnr_db(expected, each) for each in got) > 15


def test_a_tables_rows_come_back_within_half_a_step(tmp_path: Path) -> None:
    b = Builder()
    table = b.rng.normal(size=(512, 64)) * np.exp(b.rng.normal(size=(512, 1), scale=4.0))
    table[3] = 0
    table[4] = 1e-42
    b.constant("table", table.astype(np.float32))
    b.add("MatMul", [b.add("Gather", ["table", "ids"], "rows"), b.weight("w", 64, 4)], "y")
    model = b.model({"ids": (7, [1, 512])}, {"y": [1, 512, 4], "rows": [1, 512, 64]})
    quantised(tmp_path, model)
    rows = run_model(tmp_path / "out" / "model.onnx", {"ids": np.arange(512)[np.newaxis]})[1][0]
    stored = table.astype(np.float32)
    assert (np.abs(rows - stored) <= 0.5001 * scales(stored)).all()


def test_a_table_that_something_else_reads_in_float_stays() -> None:
    b = Builder()
    table = b.weight("table", 512, 64)
    rows = b.add("Gather", [table, "ids"], "rows")
    scaled = b.add("Mul", [table, "gain"], "scaled")
    b.add("Add", [b.add("ReduceSum", [scaled], "total", keepdims=0), rows], "y")
    model = b.model({"ids": (7, [1, 4]), "gain": (1, [1])}, {"y": [1, 4, 64]})
    assert place(prepare(model), U8S8).tables == ()


def test_a_table_that_is_the_output_layer_too_has_codes_for_both() -> None:
    b = Builder()
    table = b.weight("table", 512, 64)
    rows = b.add("Relu", [b.add("Gather", [table, "ids"], "rows")], "relu")
    flat = b.add("Reshape", [rows, b.constant("flat", np.array([-1, 64], np.int64))], "flat_rows")
    b.add("Gemm", [flat, table], "y", transB=1)
    model = b.model({"ids": (7, [1, 4])}, {"y": [4, 512]})
    placement = place(prepare(model), U8S8)
    assert [table.weight for table in placement.tables] == ["table"] == [op.weight for op in placement.ops]
    assert place(prepare(model), U8S8, keep_float=("rows",)).tables == ()


@pytest.mark.parametrize("masked", [-1e4, float(np.finfo(np.float32).min), -np.inf])
def test_a_mask_costs_no_range(tmp_path: Path, masked: float) -> None:
    model = encoder_net(layers=1, masked=masked)
    quantised(tmp_path, model)
    onnx.save(model, str(tmp_path / "float.onnx"))
    feeds = {"ids": np.arange(12)[np.newaxis]}
    expected, got = (run_model(path, feeds)[0] for path in (tmp_path / "float.onnx", tmp_path / "out" / "model.onnx"))
    assert sqnr_db(expected, got) > 15


def test_a_frozen_encoder_loads_with_every_optimisation(tmp_path: Path) -> None:
    """What freezing fuses has names that onnxruntime doesn't make up a second time."""
    frozen = freeze(encoder_net(), shapes={"ids": (1, 12)}, constants=())
    products = [node for node in frozen.graph.node if node.op_type == "MatMul" and "_product" in node.output[0]]
    assert products, "the optimiser fused all, so that nothing is left for the second time"
    optimised(tmp_path, frozen)
