"""Odd constants, odd shapes and odd data: our quantiser writes a model that runs and is near, or says why not."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from edgebuild.core.artifact import Int8Scheme
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.errors import ModelError
from edgebuild.models import onnx_child
from edgebuild.models.dataset import write_dataset
from edgebuild.quantisers.fp16_storage import HalfStorage
from edgebuild.quantisers.own.graph import prepare
from edgebuild.quantisers.own.placement import place
from edgebuild.quantisers.own.step import Quantise
from tests.techniques.nets import U8S8, Builder, context, contract_of, run_model, sqnr_db

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

SCHEMES = (
    U8S8,
    Int8Scheme(activations="int8", symmetric_activations=True),
    Int8Scheme(activations="uint8", per_channel=False, reduce_range=True),
    Int8Scheme(activations="int8", placement="weighted"),
)
#: What calibration data may look like; the inputs are (1, 4, 6, 6).
DATA: dict[str, Callable[[np.random.Generator, tuple[int, ...]], NDArray[Any]]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "far from zero": lambda rng, shape: 101_320 + rng.normal(size=shape),
    "constant": lambda _, shape: np.full(shape, 3.25),
    "zero": lambda _, shape: np.zeros(shape),
    "denormal": lambda rng, shape: rng.normal(size=shape) * 1e-41,
    "huge": lambda rng, shape: rng.normal(size=shape) * 1e30,
    "one spike": lambda rng, shape: np.where(rng.random(shape) < 0.01, 1e6, rng.normal(size=shape)),
}
#: Constants that forward() adds or multiplies, by what they hold.
CONSTANTS: dict[str, Callable[[np.random.Generator, int], NDArray[Any]]] = {
    "scalar": lambda rng, _: np.asarray(rng.normal()),
    "one": lambda rng, _: rng.normal(size=1),
    "per channel": lambda rng, c: rng.normal(size=(1, c, 1, 1)),
    "last axis": lambda rng, _: rng.normal(size=6),
    "zeros": lambda _, c: np.zeros((1, c, 1, 1)),
    "huge": lambda rng, c: rng.normal(size=(1, c, 1, 1)) * 1e30,
    "tiny": lambda _, c: np.full((1, c, 1, 1), 1e-42),
    "minus infinity": lambda rng, _: np.where(rng.random((6, 6)) < 0.3, -np.inf, 0.0),
    "not a number": lambda _, c: np.full((1, c, 1, 1), np.nan),
}
#: Those that leave nothing to hold against.
ILL = {"huge", "minus infinity", "not a number", "tiny"}
WEIGHTS: dict[str, float] = {"plain": 1.0, "zero": 0.0, "denormal": 1e-42, "large": 1e4}
OPS = (
    "conv",
    "pointwise",
    "depthwise",
    "transposed",
    "relu",
    "clip",
    "softmax",
    "add",
    "mul",
    "matmul",
    "left",
    "twin",
)


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    """What runs apart, without a process of its own for each of many graphs."""
    run = subprocess.run

    def here(argv: list[str], **named: Any) -> Any:
        if onnx_child.__name__ not in argv:
            return run(argv, **named)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = onnx_child.main(*argv[argv.index(onnx_child.__name__) + 1 :])
        return subprocess.CompletedProcess(argv, code, said.getvalue(), "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", here)
        patch.setattr(onnx_child, "_limit_memory", lambda _: None)
        yield


def graph(rng: np.random.Generator, ops: list[str], constant: str, weight: str, end: str) -> Any:
    """A chain of ops over (1, C, 6, 6), then one of several ends."""
    b, x, c = Builder(rng=rng), "image", 4
    for i, op in enumerate(ops):
        name = f"n{i}"
        if op in {"conv", "pointwise"}:
            out = int(rng.choice([1, 4, 5]))
            x, c = b.conv(x, name, c, out, k=3 if op == "conv" else 1), out
            b.weights[-2].CopyFrom(_times(b.weights[-2], WEIGHTS[weight]))
        elif op == "depthwise":
            x = b.conv(x, name, c, c, groups=c)
        elif op == "transposed":
            x = b.add("ConvTranspose", [x, b.weight(f"{name}_w", c, 3, 1, 1)], name)
            c = 3
        elif op in {"relu", "softmax"}:
            x = b.add(op.capitalize(), [x], name)
        elif op == "clip":
            low, high = (b.constant(f"{name}_{s}", np.array(v, np.float32)) for s, v in (("low", 0), ("high", 6)))
            x = b.add("Clip", [x, low, high], name)
        elif op in {"add", "mul"}:
            value = b.constant(f"{name}_c", CONSTANTS[constant](rng, c).astype(np.float32))
            x = b.add(op.capitalize(), [x, value] if rng.random() < 0.5 else [value, x], name)
        elif op == "matmul":
            x = b.add("MatMul", [x, b.weight(f"{name}_w", 6, 6)], f"{name}_p")
            x = b.add("Add", [x, b.constant(f"{name}_b", rng.normal(size=(1, 1, 6)).astype(np.float32))], name)
        elif op == "left":
            x = b.add("MatMul", [b.weight(f"{name}_w", 6, 6), x], name)
        else:
            x = b.add("Add", [x, x], name)
    return _end(b, rng, x, c, end)


def _end(b: Builder, rng: np.random.Generator, x: str, c: int, end: str) -> Any:
    if end == "image":
        b.add("Identity", [x], "out")
        return b.model({"image": (TensorProto.FLOAT, [1, 4, 6, 6])}, {"out": [1, c, 6, 6]})
    width = c
    if end == "pooled":
        flat = b.add("Flatten", [b.add("GlobalAveragePool", [x], "pool")], "flat")
    else:
        flat, width = b.add("Flatten", [x], "flat"), 36 * c
    if end == "scalar offset":
        y = b.add("MatMul", [flat, b.weight("fc_w", width, 1)], "score")
        b.add("Add", [y, b.constant("fc_b", np.asarray(3.5, np.float32))], "out")
        return b.model({"image": (TensorProto.FLOAT, [1, 4, 6, 6])}, {"out": [1, 1]})
    shape = [(), (1,), (1, 3), (3,), (1, 1)][int(rng.integers(5))]
    bias = b.constant("fc_b", rng.normal(size=shape).astype(np.float32))
    way = int(rng.integers(3))
    ways: list[dict[str, Any]] = [{"transB": 1}, {"alpha": 0.5}, {"beta": 2.0}]
    attributes = ways[way]
    b.add(
        "Gemm",
        [flat, b.weight("fc_w", 3, width) if way == 0 else b.weight("fc_w", width, 3), bias],
        "out",
        **attributes,
    )
    return b.model({"image": (TensorProto.FLOAT, [1, 4, 6, 6])}, {"out": [1, 3]})


def _times(tensor: Any, factor: float) -> Any:
    value = onnx.numpy_helper.to_array(tensor)
    return onnx.numpy_helper.from_array((value * np.float32(factor)).astype(np.float32), tensor.name)


def project(folder: Path, model: Any, images: list[NDArray[Any]]) -> tuple[dict[str, Path], Any]:
    (folder / "model").mkdir()
    (folder / "calibration").mkdir()
    onnx.save(model, str(folder / "model" / "model.onnx"))
    contract = contract_of(model)
    write_dataset(
        (Sample(inputs={contract.inputs[0].name: image[0]}) for image in images),
        folder / "calibration",
        specs=contract.inputs,
        stateful=False,
        source="calibration",
        task=NoProgress(),
        check=never_stop,
    )
    return {"model": folder / "model", "calibration": folder / "calibration"}, contract


def check(model: Any, images: list[NDArray[Any]], scheme: Int8Scheme, *, least_db: float | None) -> bool:
    """Quantise, and compare the file with the float one; return whether there was one.

    What the file says is compared, unoptimised. The int8 kernels of a CPU without VNNI saturate at U8S8's full range:
    that is for the cross-check to find. Optimised it has to run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs, contract = project(folder, model, images)
        half = folder / "half"
        half.mkdir()
        HalfStorage().run(inputs, half, context(folder))
        run_model(half / "model.onnx", {"image": images[0]})
        try:
            Quantise(scheme=scheme, contract=contract, samples=8).run(inputs, folder, context(folder))
        except ModelError:
            return False  # any other exception is a failure of the test
        expected, got, kernels = (
            np.stack([run_model(path, {"image": image}, optimised=fused)[0] for image in images]).astype(np.float64)
            for path, fused in (
                (folder / "model" / "model.onnx", True),
                (folder / "model.onnx", False),
                (folder / "model.onnx", True),
            )
        )
    said = np.isfinite(expected)
    if least_db is not None:
        assert np.isfinite(got[said]).all()
        assert np.isfinite(kernels[said]).all()
        assert sqnr_db(np.where(said, expected, 0), np.where(said, got, 0)) > least_db
    return True


def case(seed: int, ops: list[str], constant: str, weight: str, data: str, end: str, scheme: Int8Scheme) -> bool:
    rng = np.random.default_rng(seed)
    model = graph(rng, ops, constant, weight, end)
    images = [DATA[data](rng, (1, 4, 6, 6)).astype(np.float32) for _ in range(8)]
    plain = data == "normal" and weight == "plain" and constant not in ILL
    with np.errstate(all="ignore"):
        return check(model, images, scheme, least_db=5.0 if plain else None)


CASES = {
    "seed": st.integers(0, 2**31),
    "ops": st.lists(st.sampled_from(OPS), min_size=1, max_size=5),
    "constant": st.sampled_from(sorted(CONSTANTS)),
    "weight": st.sampled_from(["plain", "plain", "plain", "zero", "denormal", "large"]),
    "data": st.sampled_from(["normal", "normal", *sorted(DATA)]),
    "end": st.sampled_from(["image", "pooled", "flat", "scalar offset"]),
    "scheme": st.sampled_from(SCHEMES),
}
QUIET = {"deadline": None, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck), "derandomize": True}


@settings(max_examples=12, **QUIET)  # type: ignore[arg-type]
@given(**CASES)
def test_an_odd_graph_is_quantised_or_refused_with_a_sentence(**kind: Any) -> None:
    case(**kind)


@pytest.mark.proof
@settings(max_examples=500, **QUIET)  # type: ignore[arg-type]
@given(**CASES)
def test_many_odd_graphs_are_quantised_or_refused_with_a_sentence(**kind: Any) -> None:
    case(**kind)


@pytest.mark.parametrize("data", DATA)
def test_every_kind_of_data_has_a_range(data: str) -> None:
    """Pressure in pascals hardly varies in float32's steps: that is a range like any other."""
    assert case(0, ["conv", "relu", "pointwise"], "scalar", "plain", data, "pooled", U8S8)


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("op", ["add", "mul"])
def test_every_kind_of_constant_is_carried(op: str, constant: str) -> None:
    assert case(0, ["conv", op, "relu", "pointwise"], constant, "plain", "normal", "scalar offset", U8S8)


def test_a_plain_number_behind_a_product_is_no_bias() -> None:
    b = Builder()
    y = b.add("MatMul", ["image", b.weight("w", 6, 1)], "score")
    b.add("Add", [y, b.constant("offset", np.asarray(3.5, np.float32))], "out")
    model = b.model({"image": (TensorProto.FLOAT, [1, 4, 6, 6])}, {"out": [1, 4, 6, 1]})
    (op,) = place(prepare(model), U8S8).ops
    assert op.bias is None
    images = [np.random.default_rng(i).normal(size=(1, 4, 6, 6)).astype(np.float32) for i in range(8)]
    assert check(model, images, U8S8, least_db=20)


def test_a_mask_of_minus_infinity_stays_float_and_the_rest_is_quantised() -> None:
    """Attention: scores, a mask that is added, a softmax, the values."""
    b = Builder()
    q = b.add("MatMul", ["image", b.weight("wq", 6, 6)], "q")
    k = b.add("Transpose", [b.add("MatMul", ["image", b.weight("wk", 6, 6)], "k")], "kt", perm=[0, 1, 3, 2])
    mask = b.constant("mask", np.triu(np.full((6, 6), -np.inf), 1).astype(np.float32))
    s = b.add("Add", [b.add("MatMul", [q, k], "scores"), mask], "masked")
    # What is masked is moved about and multiplied once more: neither may be asked for its range.
    s = b.add("Softmax", [b.add("Mul", [s, b.constant("two", np.asarray(2, np.float32))], "scaled")], "attention")
    v = b.add("MatMul", ["image", b.weight("wv", 6, 6)], "v")
    x = b.add("MatMul", [s, v], "mixed")
    b.add("MatMul", [x, b.weight("wo", 6, 3)], "out")
    model = b.model({"image": (TensorProto.FLOAT, [1, 4, 6, 6])}, {"out": [1, 4, 6, 3]})
    images = [np.random.default_rng(i).normal(size=(1, 4, 6, 6)).astype(np.float32) for i in range(8)]
    assert check(model, images, U8S8, least_db=20)


@pytest.mark.parametrize("what", ["Conv reads it", "a product reads it"])
def test_a_layer_that_reads_infinity_stays_float_and_says_so(what: str) -> None:
    b = Builder()
    x = b.conv("image", "first", 4, 4)
    masked = b.add("Log", [b.add("Relu", [x], "positive")], "log")  # log(0) = -inf
    if what == "Conv reads it":
        y = b.add("Relu", [b.conv(masked, "second", 4, 4)], "relu")
    else:
        y = b.add("MatMul", [masked, b.weight("second_w", 6, 6)], "second")
    b.add("Concat", [y, x], "out", axis=1)
    model = b.model({"image": (TensorProto.FLOAT, [1, 4, 6, 6])}, {"out": [1, 8, 6, 6]})
    images = [np.random.default_rng(i).normal(size=(1, 4, 6, 6)).astype(np.float32) for i in range(8)]
    with tempfile.TemporaryDirectory() as name, np.errstate(all="ignore"):
        folder = Path(name)
        inputs, contract = project(folder, model, images)
        Quantise(scheme=U8S8, contract=contract, samples=8).run(inputs, folder, context(folder))
        report = (folder / "quantise.json").read_text()
        assert "holds NaN or infinity on the calibration data" in report
        written = onnx.load(str(folder / "model.onnx"))
        assert any(node.op_type == "QuantizeLinear" for node in written.graph.node)
        run_model(folder / "model.onnx", {"image": images[0]}, optimised=True)
