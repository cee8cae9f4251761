"""The contract that every quantiser step keeps, ours and the others; and what ours promises beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from edgebuild.core.artifact import Int8Scheme, Precision
from edgebuild.core.steps import RunsOn, Step, StepContext
from edgebuild.errors import DataError, Interrupted, ModelError
from edgebuild.quantisers.nncf import has_attention, told
from edgebuild.quantisers.registry import TABLE
from tests.techniques.nets import (
    U8S8,
    context,
    contract_of,
    depthwise_net,
    optimised_ops,
    random_array,
    residual_net,
    run_model,
    sqnr_db,
    stateful_net,
    token_net,
    write_project,
)

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.artifact import Contract

QUANTISERS = ("edgebuild", "nncf", "onnxruntime")
STATE = (("state", "state_out"),)


def _step(
    name: str, contract: Contract, scheme: Int8Scheme = U8S8, keep: tuple[str, ...] = (), samples: int = 40
) -> Step:
    return TABLE[name](Precision(kind="int8", scheme=scheme, quantiser=name), contract, keep, samples)


def _quantise(name: str, folder: Path, model: Any, scheme: Int8Scheme = U8S8, **options: Any) -> Path:
    """Run a quantiser; return the file it wrote."""
    state = options.pop("state", ())
    inputs, contract = write_project(folder / "project", model, state=state)
    out = folder / "out"
    out.mkdir()
    _step(name, contract, scheme, options.pop("keep", ())).run(inputs, out, context(folder))
    return out / "model.onnx"


def _feeds(model: Any, seed: int = 11) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    specs = [*contract_of(model).inputs]
    return {spec.name: random_array(spec, rng)[np.newaxis] for spec in specs}


@pytest.mark.parametrize("name", QUANTISERS)
@pytest.mark.parametrize(
    ("make", "least_db"), [(residual_net, 22), (depthwise_net, 15), (token_net, 15)], ids=lambda x: str(x)[:20]
)
def test_outputs_stay_close(name: str, make: Any, least_db: float, tmp_path: Path) -> None:
    model = make()
    path = _quantise(name, tmp_path, model)
    expected, got = [], []
    for seed in range(20):
        feeds = _feeds(model, seed)
        expected.append(run_model(tmp_path / "project" / "model" / "model.onnx", feeds)[0])
        got.append(run_model(path, feeds)[0])
    assert sqnr_db(np.stack(expected), np.stack(got)) > least_db
    written = onnx.load(str(path))
    onnx.checker.check_model(written, full_check=True)
    assert [i.name for i in written.graph.input] == [i.name for i in model.graph.input]
    assert [o.name for o in written.graph.output] == [o.name for o in model.graph.output]


@pytest.mark.parametrize("name", QUANTISERS)
def test_steps_print_nothing(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _quantise(name, tmp_path, residual_net())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", QUANTISERS)
def test_something_really_runs_in_eight_bits(name: str, tmp_path: Path) -> None:
    path = _quantise(name, tmp_path, residual_net())
    ops = optimised_ops(path, tmp_path / "optimised.onnx")
    assert "QLinearConv" in ops


@pytest.mark.parametrize("name", QUANTISERS)
def test_keep_float_is_respected(name: str, tmp_path: Path) -> None:
    path = _quantise(name, tmp_path, residual_net(), keep=("Conv",))
    model = onnx.load(str(path))
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    assert len(weights) == 3
    assert all(makers.get(weight) != "DequantizeLinear" for weight in weights)


@pytest.mark.parametrize("name", QUANTISERS)
def test_nothing_to_quantise_is_said_clearly(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing to quantise"):
        _quantise(name, tmp_path, residual_net(), keep=("Conv", "Gemm", "Add", "GlobalAveragePool", "Relu", "Flatten"))


@pytest.mark.parametrize("name", QUANTISERS)
def test_weights_in_constant_nodes_are_quantised(name: str, tmp_path: Path) -> None:
    from edgebuild.models.freezing import simplify

    # The build freezes models before it quantises them, which moves such weights into initialisers.
    path = _quantise(name, tmp_path, simplify(residual_net(constants_as_nodes=True)))
    assert "QLinearConv" in optimised_ops(path, tmp_path / "optimised.onnx")


@pytest.mark.parametrize("name", QUANTISERS)
def test_state_and_control_flow(name: str, tmp_path: Path) -> None:
    path = _quantise(name, tmp_path, stateful_net(), state=STATE)
    feeds = {"frame": np.ones((1, 2, 5, 5), np.float32), "state": np.full((1, 4), 0.1, np.float32)}
    expected = run_model(tmp_path / "project" / "model" / "model.onnx", feeds)
    got = run_model(path, feeds)
    for e, g in zip(expected, got, strict=True):
        assert sqnr_db(e, g) > 20


@pytest.mark.parametrize("name", QUANTISERS)
def test_the_same_seed_gives_the_same_file(name: str, tmp_path: Path) -> None:
    one = _quantise(name, tmp_path / "one", residual_net()).read_bytes()
    two = _quantise(name, tmp_path / "two", residual_net()).read_bytes()
    assert one == two


@pytest.mark.parametrize("name", QUANTISERS)
def test_steps_say_what_shapes_their_output(name: str, tmp_path: Path) -> None:
    contract = contract_of(residual_net())
    step = _step(name, contract)
    assert isinstance(step, Step)
    assert step.runs_on is RunsOn.HOST_KERNELS
    assert {"onnx", "onnxruntime", "numpy"} <= set(step.tools)
    key = step.key_fields()
    assert json.loads(json.dumps(key)) == key
    others = [
        _step(name, contract, Int8Scheme(activations="int8")),
        _step(name, contract, keep=("Conv",)),
        _step(name, contract, samples=41),
        _step(name, contract.model_copy(update={"preprocess": "data:other"})),
    ]
    assert all(other.key_fields() != key for other in others)


@pytest.mark.parametrize("name", QUANTISERS)
def test_the_user_can_stop_it(name: str, tmp_path: Path) -> None:
    inputs, contract = write_project(tmp_path / "project", residual_net())
    calls = iter(range(5))

    def check() -> None:
        if next(calls, None) is None:
            raise Interrupted("Stopped.")

    plain = context(tmp_path)
    ctx = StepContext(progress=plain.progress, check=check, seed=0, scratch=tmp_path)
    with pytest.raises(Interrupted):
        _step(name, contract).run(inputs, tmp_path, ctx)


@pytest.mark.parametrize("name", QUANTISERS)
def test_a_single_sample_is_not_enough(name: str, tmp_path: Path) -> None:
    inputs, contract = write_project(tmp_path / "project", residual_net(), samples=1)
    with pytest.raises(DataError, match="1 sample"):
        _step(name, contract).run(inputs, tmp_path, context(tmp_path))


def test_whole_ops_run_in_eight_bits(tmp_path: Path) -> None:
    path = _quantise("edgebuild", tmp_path, residual_net())
    ops = optimised_ops(path, tmp_path / "optimised.onnx")
    assert ops.count("QLinearConv") == 3
    assert {"QLinearAdd", "QLinearGlobalAveragePool", "QGemm"} <= set(ops)
    assert not {"Conv", "Relu", "Add", "Gemm", "FusedConv"} & set(ops), "something fell back to float"


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("clip", [False, True])
def test_depthwise_ops_run_in_eight_bits(activations: str, clip: bool, tmp_path: Path) -> None:
    scheme = Int8Scheme.model_validate({"activations": activations})
    path = _quantise("edgebuild", tmp_path, depthwise_net(clip=clip), scheme)
    ops = optimised_ops(path, tmp_path / "optimised.onnx")
    assert ops.count("QLinearConv") == 3
    assert not {"Conv", "Relu", "Clip", "FusedConv", "MatMul"} & set(ops)


@pytest.mark.parametrize(
    "scheme",
    [
        Int8Scheme(activations="uint8", reduce_range=True),
        Int8Scheme(activations="uint8", weights="uint8", per_channel=False),
        Int8Scheme(activations="int8", symmetric_activations=True),
        Int8Scheme(activations="uint8", placement="weighted"),
    ],
    ids=lambda s: s.label,
)
def test_the_scheme_is_obeyed(scheme: Int8Scheme, tmp_path: Path) -> None:
    path = _quantise("edgebuild", tmp_path, residual_net(), scheme)
    model = onnx.load(str(path))
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    codes = constants["c1_weight_quantized"]
    zero = constants["c1_weight_zero_point"]
    centred = codes.astype(int) - int(zero.reshape(-1)[0])
    assert codes.dtype == np.dtype(scheme.weights)
    assert np.abs(centred).max() <= (63 if scheme.reduce_range else 127)
    assert constants["c1_weight_scale"].shape == ((16,) if scheme.per_channel else ())
    zeros = [v for n, v in constants.items() if n.endswith("_zero_point") and v.ndim == 0 and "weight" not in n]
    activations = [v for v in zeros if v.dtype == np.dtype(scheme.activations)]
    assert activations
    if scheme.symmetric_activations:
        assert all(int(v) == 0 for v in activations)
    feeds = _feeds(residual_net())
    expected = run_model(tmp_path / "project" / "model" / "model.onnx", feeds)[0]
    assert sqnr_db(expected, run_model(path, feeds)[0]) > 15


def test_dynamic_axes_stay_dynamic(tmp_path: Path) -> None:
    path = _quantise("edgebuild", tmp_path, residual_net(batch="batch"))
    image = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    assert run_model(path, {"image": image})[0].shape == (3, 5)


def test_a_shipped_batch_is_filled(tmp_path: Path) -> None:
    path = _quantise("edgebuild", tmp_path, residual_net(batch=4))
    image = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    assert run_model(path, {"image": image})[0].shape == (4, 5)


def test_external_data_is_read(tmp_path: Path) -> None:
    inputs, contract = write_project(tmp_path / "project", residual_net())
    path = inputs["model"] / "model.onnx"
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    _step("edgebuild", contract).run(inputs, tmp_path, context(tmp_path))
    assert (tmp_path / "model.onnx").is_file()
    report = json.loads((tmp_path / "quantise.json").read_text())
    assert report["file_bytes"]["before"] > report["weight_bytes"]["before"]


def test_the_report_says_what_was_decided(tmp_path: Path) -> None:
    path = _quantise("edgebuild", tmp_path, residual_net(), keep=("c1",))
    report = json.loads((path.parent / "quantise.json").read_text())
    assert report["rungs"][0]["name"] == "min/max ranges"
    assert {"image", "stem_relu"} <= set(report["ranges"])
    assert report["left_float"]["c1"] == "kept float as asked"
    assert {"stem", "c2"} <= set(report["quantised"])
    assert report["weight_bytes"]["before"] == 4 * report["weight_bytes"]["after"]
    assert report["larger"] == (report["file_bytes"]["after"] > report["file_bytes"]["before"])
    assert report["frames"] == {"fit": 15, "held_out": 15}


def test_a_slip_in_keep_float_is_reported(tmp_path: Path) -> None:
    path = _quantise("edgebuild", tmp_path, residual_net(), keep=("c1", "c11"))
    assert json.loads((path.parent / "quantise.json").read_text())["keep_float_unmatched"] == ["c11"]


def test_weights_listed_as_inputs_are_asked_for_no_more(tmp_path: Path) -> None:
    model = residual_net()
    contract = contract_of(model)
    inputs, _ = write_project(tmp_path / "project", model)
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    onnx.save(model, str(inputs["model"] / "model.onnx"))
    _step("edgebuild", contract).run(inputs, tmp_path, context(tmp_path))
    assert [value.name for value in onnx.load(str(tmp_path / "model.onnx")).graph.input] == ["image"]


def test_what_is_quantised_already_stays_as_it_is(tmp_path: Path) -> None:
    """The second convolution comes with codes and a pair of its own: only the others are quantised."""
    model = residual_net()
    once = onnx.load(str(_quantise("edgebuild", tmp_path / "once", model, keep=("c1", "stem", "Gemm", "Add"))))
    left = [node.name for node in once.graph.node if node.op_type == "Conv"]
    assert left == ["stem", "c1", "c2"]
    path = _quantise("edgebuild", tmp_path / "twice", once)
    report = json.loads((path.parent / "quantise.json").read_text())
    assert report["left_float"]["c2"] == "it is quantised already"
    assert {"stem", "c1"} <= set(report["quantised"])
    feeds = _feeds(model)
    expected = run_model(tmp_path / "once" / "project" / "model" / "model.onnx", feeds)[0]
    assert sqnr_db(expected, run_model(path, feeds)[0]) > 15


def test_a_tiny_model_that_grows_says_so(tmp_path: Path) -> None:
    from tests.techniques.nets import Builder

    b = Builder()
    b.add("MatMul", ["x", b.weight("w", 3, 2)], "y")
    path = _quantise("edgebuild", tmp_path, b.model({"x": (1, [1, 3])}, {"y": [1, 2]}))
    assert json.loads((path.parent / "quantise.json").read_text())["larger"] is True


def test_an_error_that_nncf_did_not_foresee_is_told_with_its_place() -> None:
    import nncf

    code = compile("[][0]", "/site-packages/nncf/quantization/shift.py", "exec")
    with pytest.raises(IndexError) as caught:
        exec(code)  # noqa: S102 - our own line
    said = "NNCF failed on this model with an error that it didn't foresee in nncf/quantization/shift.py:1: IndexError"
    assert told(caught.value).startswith(said)
    assert told(nncf.ValidationError("bad")) == "NNCF failed: ValidationError: bad"


def test_nncf_is_told_of_a_transformer() -> None:
    def attends(*nodes: tuple[str, list[str], list[str]]) -> bool:
        made = [onnx.helper.make_node(*node) for node in nodes]
        return has_attention(onnx.helper.make_model(onnx.helper.make_graph(made, "g", [], [])))

    softmax, cast = ("Softmax", ["scores"], ["p"]), ("Cast", ["p"], ["c"])
    assert attends(softmax, cast, ("MatMul", ["c", "v"], ["y"]))
    assert attends(softmax, ("MatMul", ["v", "p"], ["y"]))
    # Probabilities at the end, or a product before them, are any classifier's.
    assert not attends(("MatMul", ["x", "w"], ["scores"]), softmax)
    assert not attends(softmax, ("Add", ["p", "b"], ["s"]), ("MatMul", ["s", "w"], ["y"]))
