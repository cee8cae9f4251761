"""The steps from an ONNX file to a frozen model and its reference, run alone on real files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from edgebuild.core.artifact import ConstantInput, Contract, StateLink, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.errors import DataError, Interrupted, ModelError
from edgebuild.models.dataset import Dataset
from edgebuild.models.host_session import HostSession, constant_array, run_dataset
from edgebuild.models.outputs import read_outputs
from edgebuild.models.steps import (
    PARITY_SAMPLES,
    FreezeModel,
    FreezeShapes,
    ImportOnnx,
    MaterialiseData,
    ReferenceOutputs,
)
from tests.models import example, nets

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.steps import Step

RNG = np.random.default_rng(0)


def spec(name: str, *shape: int | str, dtype: Any = "float32") -> TensorSpec:
    return TensorSpec(name=name, shape=shape, dtype=dtype)


def folder_of(model: Any, path: Path) -> Path:
    path.mkdir()
    onnx.save(model, str(path / "model.onnx"))
    return path


def reference(contract: Contract, batch: int, model: Path, data: Path, out: Path) -> Path:
    step = ReferenceOutputs(contract=contract, batch=batch, split="validation")
    return example.run(step, {"data": data, "model": model}, out)


COUNTING = Contract(
    inputs=(spec("x", 1, 3),),
    outputs=(spec("y", 1, 1),),
    state=(StateLink(input="h", output="hn"),),
    state_specs=(spec("h", 1, 1),),
)
SEQUENCES = [np.arange(3 * n, dtype=np.float32).reshape(n, 3) + n for n in (4, 1, 3)]


def by_hand(sequences: list[Any]) -> list[float]:
    """What the counting net answers: its state starts at zero with every sequence."""
    answers = []
    for rows in sequences:
        state = 0.0
        for row in rows:
            mean = float(row.mean())
            answers.append(mean + 10 * state)
            state += mean
    return answers


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    return example.data(tmp_path / "data", COUNTING.inputs, [{"x": s} for s in SEQUENCES], stateful=True)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    made = [{"x": RNG.standard_normal(6).astype(np.float32)} for _ in range(PARITY_SAMPLES + 6)]
    return example.data(tmp_path / "data", (spec("x", "batch", 6),), made)


DENSE = Contract(inputs=(spec("x", 4, 6),), outputs=(spec("y", "batch", 2),))


def test_a_reference_carries_the_state_through_a_sequence_and_no_further(sequences: Path, tmp_path: Path) -> None:
    model = folder_of(nets.counting(), tmp_path / "model")
    out = reference(COUNTING, 1, model, sequences, tmp_path / "out")
    assert read_outputs(out)["y"].reshape(-1).tolist() == pytest.approx(by_hand(SEQUENCES))
    assert list(read_outputs(out)) == ["y"], "a state is no output"


def test_a_frozen_stateful_model_has_the_states_in_its_contract_and_agrees(sequences: Path, tmp_path: Path) -> None:
    model = folder_of(nets.counting(), tmp_path / "model")
    reference_out = reference(COUNTING, 1, model, sequences, tmp_path / "reference")
    step = FreezeModel(contract=COUNTING, shapes=(("x", (1, 3)), ("h", (1, 1))))
    out = example.run(step, {"model": model, "samples": sequences, "reference": reference_out}, tmp_path / "frozen")
    contract = Contract.model_validate_json((out / "contract.json").read_bytes())
    assert contract == COUNTING
    session = HostSession(out / "model.onnx")
    found = run_dataset(session, Dataset.open(sequences), contract, batch=1, check=lambda: None)
    assert [float(v) for part in found for v in part["y"].reshape(-1)] == pytest.approx(by_hand(SEQUENCES))


def test_freezing_notices_that_a_state_was_lost(sequences: Path, tmp_path: Path) -> None:
    model = folder_of(nets.counting(), tmp_path / "model")
    reference_out = reference(COUNTING, 1, model, sequences, tmp_path / "reference")
    broken = nets.counting()
    broken.graph.node[4].input[1] = "m"  # the next state forgets the last one
    inputs = {"model": folder_of(broken, tmp_path / "broken"), "samples": sequences, "reference": reference_out}
    step = FreezeModel(contract=COUNTING, shapes=(("x", (1, 3)), ("h", (1, 1))))
    with pytest.raises(ModelError, match="The model in its shipped shape differs from the reference: output 'y'"):
        example.run(step, inputs, tmp_path / "frozen")


@pytest.mark.parametrize("batch", [1, 4, 64, 100])
def test_the_last_batch_is_padded_and_the_padding_dropped(batch: int, rows: Path, tmp_path: Path) -> None:
    model = folder_of(nets.dense(), tmp_path / "model")
    out = read_outputs(reference(DENSE, batch, model, rows, tmp_path / "out"))["y"]
    weight = onnx.numpy_helper.to_array(nets.dense().graph.initializer[0])
    np.testing.assert_allclose(out, Dataset.open(rows).array("x") @ weight, rtol=1e-5, atol=1e-6)


def test_freezing_folds_a_constant_input_away(tmp_path: Path) -> None:
    given = Contract(
        inputs=(spec("x", 1, 4),),
        outputs=(spec("y", "batch", 4),),
        constants=(ConstantInput(name="rate", dtype="int64", value=16),),
        preprocess="data:pre",
    )
    made = [{"x": RNG.standard_normal(4).astype(np.float32)} for _ in range(3)]
    data = example.data(tmp_path / "data", (spec("x", "batch", 4),), made)
    model = folder_of(nets.branching(), tmp_path / "model")
    inputs = {"model": model, "samples": data, "reference": reference(given, 1, model, data, tmp_path / "reference")}
    out = example.run(FreezeModel(contract=given, shapes=(("x", (1, 4)),)), inputs, tmp_path / "frozen")
    contract = Contract.model_validate_json((out / "contract.json").read_bytes())
    assert contract.constants == ()
    assert contract.outputs == (spec("y", 1, 4),)
    assert contract.preprocess == "data:pre"


def test_an_output_without_a_batch_axis_is_one_frame_at_batch_one(tmp_path: Path) -> None:
    node = onnx.helper.make_node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=0)
    net = nets.model([node], [nets.value("x", [1, 6])], [nets.value("y", [6])])
    made = [{"x": RNG.standard_normal(6).astype(np.float32)} for _ in range(5)]
    data = example.data(tmp_path / "data", (spec("x", 1, 6),), made)
    model = folder_of(net, tmp_path / "model")
    contract = Contract(inputs=(spec("x", 1, 6),), outputs=(spec("y", 6),))
    out = read_outputs(reference(contract, 1, model, data, tmp_path / "out"))["y"]
    np.testing.assert_array_equal(out, [row["x"] for row in made])


def test_an_output_without_a_batch_axis_is_refused_at_other_batches(rows: Path, tmp_path: Path) -> None:
    node = onnx.helper.make_node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=0)
    net = nets.model([node], [nets.value("x", ["batch", 6])], [nets.value("y", [6])])
    with pytest.raises(ModelError, match="Output 'y' has no batch axis"):
        reference(DENSE, 4, folder_of(net, tmp_path / "model"), rows, tmp_path / "out")


def test_an_output_that_changes_its_shape_is_refused(tmp_path: Path) -> None:
    """As a detector's list of boxes does."""
    nodes = [
        onnx.helper.make_node("NonZero", ["x"], ["where"]),
        onnx.helper.make_node("Transpose", ["where"], ["y"], perm=[1, 0]),
    ]
    net = nets.model(nodes, [nets.value("x", [1, 6])], [nets.value("y", None, onnx.TensorProto.INT64)])
    made = [{"x": np.array([1] * n + [0] * (6 - n), np.float32)} for n in (2, 3)]
    data = example.data(tmp_path / "data", (spec("x", 1, 6),), made)
    contract = Contract(inputs=(spec("x", 1, 6),), outputs=(spec("y", "n", 2, dtype="int64"),))
    with pytest.raises(ModelError, match=r"Output 'y' changes its shape from call to call: \[2, 2\], then \[3, 2\]"):
        reference(contract, 1, folder_of(net, tmp_path / "model"), data, tmp_path / "out")


def test_outputs_with_slashes_in_their_names_stay_in_their_folder(rows: Path, tmp_path: Path) -> None:
    net = nets.dense()
    net.graph.node[0].output[0] = net.graph.output[0].name = "head/out/y"
    contract = DENSE.model_copy(update={"outputs": (spec("head/out/y", "batch", 2),)})
    out = reference(contract, 4, folder_of(net, tmp_path / "model"), rows, tmp_path / "out")
    assert all(path.is_file() for path in out.iterdir())
    assert read_outputs(out)["head/out/y"].shape == (PARITY_SAMPLES + 6, 2)


def test_a_reference_that_answers_nan_names_the_frame(tmp_path: Path) -> None:
    net = nets.model(
        [onnx.helper.make_node("Log", ["x"], ["y"])],
        [nets.value("x", ["batch", 2])],
        [nets.value("y", ["batch", 2])],
    )
    made = [{"x": np.full(2, value, np.float32)} for value in (1, 2, 3, -1, 5)]
    data = example.data(tmp_path / "data", (spec("x", "batch", 2),), made)
    contract = Contract(inputs=(spec("x", 2, 2),), outputs=(spec("y", "batch", 2),))
    with pytest.raises(DataError, match="on the validation data: output 'y' is NaN or infinite for frame 3"):
        reference(contract, 2, folder_of(net, tmp_path / "model"), data, tmp_path / "out")


def test_a_frozen_model_that_differs_names_its_worst_frame(rows: Path, tmp_path: Path) -> None:
    model = folder_of(nets.dense(), tmp_path / "model")
    out = reference(DENSE, 4, model, rows, tmp_path / "reference")
    altered = np.load(out / "y.npy")
    altered[17] += 0.5
    altered[30] += 5.0
    np.save(out / "y.npy", altered)
    step = FreezeModel(contract=DENSE, shapes=(("x", (4, 6)),))
    with pytest.raises(ModelError, match=r"output 'y' of sample 30 is off by 5\b"):
        example.run(step, {"model": model, "samples": rows, "reference": out}, tmp_path / "frozen")


def test_a_wrong_frozen_size_names_the_layer(rows: Path, tmp_path: Path) -> None:
    net = nets.dense()
    net.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "features"
    model = folder_of(net, tmp_path / "model")
    inputs = {"model": model, "samples": rows, "reference": reference(DENSE, 4, model, rows, tmp_path / "reference")}
    with pytest.raises(ModelError, match="dense"):
        example.run(FreezeModel(contract=DENSE, shapes=(("x", (4, 7)),)), inputs, tmp_path / "frozen")


def test_importing_takes_external_data_in(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    onnx.save(nets.dense(), str(given / "m.onnx"), save_as_external_data=True, location="m.bin", size_threshold=0)
    out = example.run(ImportOnnx(), {"model": given / "m.onnx", "external-0": given / "m.bin"}, tmp_path / "out")
    assert [path.name for path in out.iterdir()] == ["model.onnx"]
    found = HostSession(out / "model.onnx")({"x": np.ones((1, 6), np.float32)})
    np.testing.assert_allclose(found["y"][0], onnx.numpy_helper.to_array(nets.dense().graph.initializer[0]).sum(axis=0))


def test_shapes_alone_are_frozen_for_a_model_that_nobody_judges(tmp_path: Path) -> None:
    model = folder_of(nets.embedding(), tmp_path / "model")
    out = example.run(FreezeShapes(shapes=(("tokens", (1, 5)), ("bias", (1, 4)))), {"model": model}, tmp_path / "out")
    contract = Contract.model_validate_json((out / "contract.json").read_bytes())
    assert contract.inputs == (spec("tokens", 1, 5, dtype="int32"), spec("bias", 1, 4))
    assert contract.outputs == (spec("y", 1, 4),)


def materialise(**more: Any) -> MaterialiseData:
    fields = {"source": "data:test", "specs": (spec("x", "batch", 2),), "stateful": False}
    return MaterialiseData(**{**fields, **more})


def test_data_is_read_from_the_callable_once(tmp_path: Path) -> None:
    calls = []

    def call() -> list[Sample]:
        calls.append(1)
        return [Sample(inputs={"x": np.zeros(2, np.float32)}, target=3)]

    out = example.run(materialise(), {}, tmp_path / "out", call=call)
    assert calls == [1]
    assert Dataset.open(out).labelled


def test_a_callable_that_fails_at_once_is_named(tmp_path: Path) -> None:
    def call() -> list[Sample]:
        raise ZeroDivisionError("oh")

    with pytest.raises(DataError, match="data:test failed: ZeroDivisionError: oh"):
        example.run(materialise(), {}, tmp_path / "out", call=call)


STEPS: list[tuple[Step, Step]] = [
    (materialise(), materialise(stateful=True)),
    (materialise(), materialise(content="d")),
    (materialise(), materialise(specs=(spec("x", "batch", 3),))),
    (
        FreezeModel(contract=DENSE, shapes=(("x", (4, 6)),)),
        FreezeModel(contract=DENSE, shapes=(("x", (1, 6)),)),
    ),
    (
        ReferenceOutputs(contract=DENSE, batch=1, split="test"),
        ReferenceOutputs(contract=COUNTING, batch=1, split="test"),
    ),
]


@pytest.mark.parametrize(("one", "other"), STEPS)
def test_what_shapes_an_output_is_in_the_key(one: Step, other: Step) -> None:
    assert one.key_fields() != other.key_fields()


def test_long_work_stops_when_the_user_says_so(rows: Path, tmp_path: Path) -> None:
    def check() -> None:
        raise Interrupted("stopped")

    model = folder_of(nets.dense(), tmp_path / "model")
    with pytest.raises(Interrupted):
        example.run(
            ReferenceOutputs(contract=DENSE, batch=4, split="test"),
            {"data": rows, "model": model},
            tmp_path / "out",
            check,
        )


def test_a_file_that_onnxruntime_can_t_load_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"onnxruntime can't load the model"):
        HostSession(tmp_path / "m.onnx")


def test_a_feed_of_the_wrong_shape_is_a_model_error_that_names_the_input(tmp_path: Path) -> None:
    session = HostSession(folder_of(nets.dense(4), tmp_path / "model") / "model.onnx")
    with pytest.raises(ModelError, match=r"onnxruntime can't run the model: .*invalid dimensions for input: x"):
        session({"x": np.ones((3, 6), np.float32)})


def test_outputs_record_how_many_frames_they_hold(rows: Path, tmp_path: Path) -> None:
    out = reference(DENSE, 4, folder_of(nets.dense(), tmp_path / "model"), rows, tmp_path / "out")
    assert json.loads((out / "outputs.json").read_text()) == {"frames": PARITY_SAMPLES + 6, "outputs": ["y"]}


def test_a_constant_is_a_number_everywhere_or_a_flat_list_in_its_shape() -> None:
    one = constant_array(ConstantInput(name="c", dtype="int64", shape=(2, 3), value=7))
    assert (one.dtype.name, one.tolist()) == ("int64", [[7, 7, 7], [7, 7, 7]])
    listed = constant_array(ConstantInput(name="c", dtype="float32", shape=(2, 2), value=(1, 2, 3, 4)))
    assert (listed.dtype.name, listed.tolist()) == ("float32", [[1, 2], [3, 4]])
    assert constant_array(ConstantInput(name="c", dtype="bool", value=True)).shape == ()
