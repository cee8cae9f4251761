from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgebuild.catalogue.project import load_project, locate, parse_project
from edgebuild.core.artifact import ConstantInput, StateLink, TensorSpec
from edgebuild.errors import ConfigError
from tests.catalogue.example import TEXT, tables, write

FOLDER = Path("/nowhere")


def problems(**changes: Any) -> tuple[str, ...]:
    try:
        parse_project(tables(**changes), FOLDER)
    except ConfigError as error:
        return error.problems
    return ()


def an_input(name: str = "x", shape: tuple[Any, ...] = ("batch", 4), dtype: str = "float32", **more: Any) -> Any:
    return {"name": name, "shape": list(shape), "dtype": dtype, **more}


def test_a_project_is_found_in_its_folder_and_by_its_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    project = load_project(tmp_path)
    assert project == load_project(path)
    assert project.name == "tiny"
    assert project.folder == tmp_path.resolve()
    assert project.input_specs == (TensorSpec(name="image", shape=("batch", 1, 28, 28), dtype="float32"),)
    assert project.shipped_shape(project.inputs[0].shape) == (1, 1, 28, 28)
    assert (project.onnx_path, project.weights_path, project.custom_ops_path) == (None, None, None)
    assert project.build.objective == "latency"
    assert not project.stateful


def test_where_a_project_lies_is_not_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write(tmp_path / "a")
    write(tmp_path / "b", TEXT + "# a comment\n")
    one, two = load_project(tmp_path / "a"), load_project(tmp_path / "b")
    assert one.digest() == two.digest()
    assert str(tmp_path) not in one.to_json()


def test_a_missing_project(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path)
    assert caught.value.problems == ("the file doesn't exist",)
    assert caught.value.source == str(tmp_path / "edgebuild.toml")


def test_an_error_says_where_to_read_on() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_project({}, FOLDER)
    assert caught.value.hint == "Every key is explained in docs/edgebuild-toml.md."
    assert caught.value.source == "edgebuild.toml"


def test_a_stateful_onnx_project_with_a_constant(tmp_path: Path) -> None:
    (tmp_path / "vad.onnx").touch()
    project = parse_project(
        tables(
            model={"onnx": "vad.onnx", "state": {"state": "stateN"}},
            inputs=[
                an_input("input", ("batch", 576)),
                an_input("state", (2, "batch", 128)),
                an_input("sr", (), "int64", value=16000),
            ],
        ),
        tmp_path,
    )
    assert project.stateful
    assert [spec.name for spec in project.input_specs] == ["input", "state"]
    assert [spec.name for spec in project.sample_specs] == ["input"]
    assert project.constants == (ConstantInput(name="sr", dtype="int64", shape=(), value=16000),)
    assert project.state_links == (StateLink(input="state", output="stateN"),)
    assert project.onnx_path == tmp_path / "vad.onnx"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    data = {"calibration": "a.npz", "validation": "m:b", "test": "m:c"}
    model = {"factory": "m:f", "weights": "w.safetensors"}
    assert problems(model=model, data=data) == (
        "[model].weights: there is no file /nowhere/w.safetensors",
        "[data].calibration: there is no file /nowhere/a.npz",
    )
    assert problems(model={"onnx": "package:no_such_package/model.onnx"}) == (
        '[model].onnx: the package "no_such_package" isn\'t installed (pip install no_such_package)',
    )
    assert problems(model={"onnx": "package:hypothesis/model.onnx"})[0].startswith("[model].onnx: there is no file /")


def test_a_file_of_an_installed_package_is_found() -> None:
    path = locate("package:hypothesis/__init__.py", FOLDER)
    assert path is not None
    assert path.is_file()
    assert locate("package:not an identifier/x", FOLDER) is None


def test_cross_checks_run_on_the_tables_that_are_right() -> None:
    same = {"calibration": "m:a", "validation": "m:b", "test": "m:b"}
    assert problems(data=same, budget={"points": "two"}, freeze={}) == (
        '[budget].points: must be a number, got "two"',
        '[freeze]: the axis "batch" of input "image" has no size; add batch = … '
        '(or put "batch" into [build].keep_dynamic)',
        "[data].test: is the same as validation; a split must hold samples of its own",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": [an_input(), an_input()]}, '[[inputs]]: two inputs are called "x"'),
        ({"freeze": {"batch": 1, "bach": 2}}, '[freeze].bach: no input has an axis "bach"; did you mean "batch"?'),
        (
            {"build": {"keep_dynamic": ["batch"]}},
            '[freeze].batch: "batch" is in [build].keep_dynamic too; remove it from one of them',
        ),
        (
            {"build": {"keep_dynamic": ["length"]}},
            '[build].keep_dynamic: no input has an axis "length"; known: batch',
        ),
        ({"inputs": [an_input(shape=(4, "batch"))]}, '[[inputs]]#1.shape: "batch" must be the first axis'),
        (
            {"inputs": [an_input(), an_input("c", (2,), "int8", value=[1, 2, 3])]},
            "[[inputs]]#2.value: has 3 numbers, its shape [2] takes 2",
        ),
        (
            {"inputs": [an_input(), an_input("c", (), "int8", value=300)]},
            "[[inputs]]#2.value: 300 doesn't fit into int8",
        ),
        (
            {"inputs": [an_input(), an_input("c", (), "uint8", value=-1)]},
            "[[inputs]]#2.value: -1 doesn't fit into uint8",
        ),
        (
            {"inputs": [an_input(), an_input("c", (), "int64", value=0.5)]},
            "[[inputs]]#2.value: must be whole for dtype int64, got 0.5",
        ),
        (
            {"inputs": [an_input(), an_input("c", (), "bool", value=1)]},
            "[[inputs]]#2.value: must be true or false for dtype bool, got 1",
        ),
        (
            {"inputs": [an_input(), an_input("c", (), "float32", value=True)]},
            "[[inputs]]#2.value: true and false go with dtype bool, not float32",
        ),
        (
            {"inputs": [an_input(), an_input("c", ("n",), "float32", value=[1.0])], "build": {"keep_dynamic": ["n"]}},
            "[[inputs]]#2.value: a constant needs sizes for all its axes; write them into its shape",
        ),
        (
            {"inputs": [an_input("c", (), "int8", value=1)], "freeze": {}},
            "[[inputs]]: every input is a constant; at least one must come from the samples",
        ),
        (
            {"model": {"factory": "m:f", "state": {"imag": "o"}}},
            '[model.state].imag: there is no input "imag" under [[inputs]]; did you mean "image"?',
        ),
        (
            {"model": {"factory": "m:f", "state": {"image": "o"}}},
            "[model.state]: every input is a state or a constant; at least one must come from the samples",
        ),
        (
            {
                "model": {"factory": "m:f", "state": {"s": "o", "t": "o"}},
                "inputs": [an_input(), an_input("s"), an_input("t")],
            },
            '[model.state]: the output "o" feeds two inputs',
        ),
        (
            {
                "model": {"factory": "m:f", "state": {"s": "o"}},
                "inputs": [an_input(), an_input("s", (), value=1.0)],
            },
            '[model.state].s: "s" is a constant input, so it can carry no state',
        ),
        (
            {
                "model": {"factory": "m:f", "state": {"s": "o"}},
                "inputs": [an_input(), an_input("s")],
                "freeze": {"batch": 4},
            },
            "[freeze].batch: must be 1 for a model with state, whose samples are sequences",
        ),
        (
            {"data": {"train": "m:c", "calibration": "m:a", "validation": "m:b", "test": "m:c"}},
            "[data].train: is the same as validation or test; what is learnt from can't judge",
        ),
        ({"metric": None}, "[metric]: is missing; only a budget of `agreement` needs none"),
        (
            {"budget": {"agreement": 0.9}},
            "[metric]: a budget of `agreement` compares with the original and uses no metric; remove the table",
        ),
        (
            {"budget": {"agreement": 0.9, "per_slice_points": 1.0}, "metric": None},
            "[budget].per_slice_points: needs a metric, so it doesn't go with `agreement`",
        ),
        (
            {"metric": {"callable": "m:f", "direction": "maximise"}},
            "[metric].scale: is missing; [budget].points are hundredths of it (or use `relative` or `floor`)",
        ),
    ],
)
def test_contradictions(changes: dict[str, Any], message: str) -> None:
    assert problems(**changes) == (message,)


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": {"agreement": 0.98}, "metric": None},
        {"budget": {"relative": 0.02}, "metric": {"callable": "m:f", "direction": "minimise"}},
        {"budget": {"points": 1, "per_slice_points": 5.0}},
        {"inputs": [an_input(shape=("batch", "length"))], "build": {"keep_dynamic": ["length"]}},
        {"inputs": [an_input(), an_input("flags", (2,), "bool", value=[True, False])]},
        {"inputs": [an_input(), an_input("scale", (3,), "float32", value=2)]},
    ],
)
def test_what_is_allowed(changes: dict[str, Any]) -> None:
    assert problems(**changes) == ()


def test_an_input_named_as_an_array_with_a_meaning(tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    changed = tables(inputs=[an_input("target")], data={"calibration": "a.npz", "validation": "m:b", "test": "m:c"})
    with pytest.raises(ConfigError) as caught:
        parse_project(changed, tmp_path)
    assert caught.value.problems == (
        '[data]: an .npz file gives the name "target" a meaning of its own, and an input is called so; use a callable',
    )
