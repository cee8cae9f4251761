from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.catalogue.project import load_project
from edgebuild.catalogue.starter import (
    PLACEHOLDER,
    conversion_advice,
    named_axes,
    sizes_of,
    starter_from_factory,
    starter_from_onnx,
)
from edgebuild.core.artifact import TensorSpec
from edgebuild.techniques.registry import parameter_models

SILERO = (
    TensorSpec(name="input", shape=("axis0", "axis1"), dtype="float32"),
    TensorSpec(name="state", shape=(2, "axis0", 128), dtype="float32"),
    TensorSpec(name="sr", shape=(), dtype="int64"),
)
OUTPUTS = (
    TensorSpec(name="output", shape=("axis0", 1), dtype="float32"),
    TensorSpec(name="stateN", shape=("a", "b", "c"), dtype="float32"),
)


def test_a_starter_for_an_onnx_file_loads_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "vad.onnx").touch()
    text = starter_from_onnx("vad", "vad.onnx", SILERO, OUTPUTS)
    (tmp_path / "edgebuild.toml").write_text(text)
    project = load_project(tmp_path)
    assert project.input_specs[0] == TensorSpec(name="input", shape=("batch", "axis1"), dtype="float32")
    assert project.freeze == {"batch": 1, "axis1": 1}
    assert project.model.state == {"state": "stateN"}
    assert f'state = "stateN"   # {PLACEHOLDER}: is it?' in text
    assert f"axis1 = 1   # {PLACEHOLDER}" in text
    assert 'Outputs: "output" ["axis0", 1] float32, "stateN" ["a", "b", "c"] float32.' in text


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        (("N", 3, "?", "?"), ("batch", 3, "height", "width")),
        (("p2o.DynamicDimension.0", 3, "?", "p2o.DynamicDimension.1"), ("batch", 3, "height", "width")),
        (("axis0", 1, "axis2", "axis3"), ("batch", 1, "height", "width")),
        (("unk__1", "rows", "columns", 3), ("batch", "rows", "columns", 3)),
        (("batch", 64, "?", "?"), ("batch", 64, "axis2", "axis3")),
        (("b", "tokens"), ("batch", "tokens")),
        ((1, 3, 8, "?"), (1, 3, 8, "width")),
    ],
)
def test_axes_whose_names_say_nothing_are_named_by_their_place(shape: Any, named: Any) -> None:
    (spec,) = named_axes([TensorSpec(name="x", shape=shape, dtype="float32")])
    assert spec.shape == named


def test_a_sample_says_which_sizes_ship(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    image = TensorSpec(name="x", shape=("b", 3, "?", "?"), dtype="float32")
    text = starter_from_onnx("net", "net.onnx", [image], OUTPUTS[:1], sample={"x": (3, 48, 320), "other": (1,)})
    (tmp_path / "edgebuild.toml").write_text(text)
    assert load_project(tmp_path).freeze == {"batch": 1, "height": 48, "width": 320}
    assert f"height = 48   # {PLACEHOLDER}: the size that ships; it is that of a sample" in text


def test_sizes_on_which_inputs_disagree_are_left_to_the_user() -> None:
    inputs = [
        TensorSpec(name="a", shape=("batch", "n"), dtype="float32"),
        TensorSpec(name="b", shape=("batch", "n", "m"), dtype="float32"),
    ]
    assert sizes_of(inputs, {"a": (3,), "b": (4, 5)}) == {"m": 5}
    assert sizes_of(inputs, {"a": (3, 7)}) == {}


def test_of_several_outputs_the_starter_names_the_one_that_the_metric_reads(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    boxes = TensorSpec(name="boxes", shape=("axis0", 4), dtype="float32")
    (tmp_path / "edgebuild.toml").write_text(starter_from_onnx("net", "net.onnx", SILERO, (*OUTPUTS, boxes)))
    metric = load_project(tmp_path).metric
    assert metric is not None
    assert metric.output == "output"
    text = (tmp_path / "edgebuild.toml").read_text()
    assert f'output = "output"   # {PLACEHOLDER}: which one it reads, of output, boxes' in text
    assert '\n# output = "logits"' in starter_from_onnx("vad", "vad.onnx", SILERO, OUTPUTS)


def test_of_a_label_and_its_probabilities_the_latter_are_judged(tmp_path: Path) -> None:
    outputs = (
        TensorSpec(name="output_label", shape=("N",), dtype="int64"),
        TensorSpec(name="output_probability", shape=("N", 3), dtype="float32"),
    )
    (tmp_path / "forest.onnx").touch()
    inputs = (TensorSpec(name="X", shape=("N", 4), dtype="float32"),)
    (tmp_path / "edgebuild.toml").write_text(starter_from_onnx("forest", "forest.onnx", inputs, outputs))
    project = load_project(tmp_path)
    assert project.metric is not None
    assert (project.metric.name, project.metric.output) == ("accuracy", "output_probability")


def test_a_starter_for_a_factory_loads_once_its_weights_are_there(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "edgebuild.toml").write_text(starter_from_factory("net", "model:build"))
    project = load_project(tmp_path)
    assert project.model.factory == "model:build"
    assert project.weights_path == tmp_path / "weights.safetensors"


def uncommented(text: str, first: str, last: str) -> str:
    """Take the comment signs off the lines from ``first`` to ``last``."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"# {first}"))
    end = next(i for i, line in enumerate(lines) if i >= start and line.startswith(f"# {last}"))
    return "\n".join(line.removeprefix("# ") if start <= i <= end else line for i, line in enumerate(lines))


def test_what_is_commented_out_is_right_too(tmp_path: Path) -> None:
    (tmp_path / "vad.onnx").touch()
    inputs = (SILERO[0], SILERO[1].model_copy(update={"name": "hidden", "shape": (1, 128)}))
    text = starter_from_onnx("vad", "vad.onnx", inputs, OUTPUTS)
    text = uncommented(text, "[model.state]", "state").replace('state = "stateN"', 'hidden = "stateN"')
    text = uncommented(text, "[contract]", "postprocess")
    text = uncommented(text, "train", "train")
    text = uncommented(text, "latency_p50_ms", "load_time_ms")
    text = uncommented(text, "keep_float", "keep_float")
    text = uncommented(text, "threads", "threads")
    text = uncommented(text, "per_slice_points", "per_slice_points")
    (tmp_path / "edgebuild.toml").write_text(text)
    project = load_project(tmp_path)
    assert project.model.state == {"hidden": "stateN"}
    assert project.contract.preprocess == "data:preprocess"
    assert project.limits.load_time_ms == 500.0
    assert project.build.threads == 2


def test_the_recipe_that_is_commented_out_is_right_too(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    text = uncommented(starter_from_factory("net", "model:build"), "[[recipes]]", "]")
    (tmp_path / "edgebuild.toml").write_text(text)
    (recipe,) = load_project(tmp_path, techniques=parameter_models).recipes
    assert [step.technique for step in recipe.steps] == ["prune-structured", "distil"]


def test_an_onnx_file_has_recipes_or_the_reason_why_not(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    inputs = (TensorSpec(name="x", shape=("batch", 3), dtype="float32"),)
    text = uncommented(starter_from_onnx("net", "net.onnx", inputs, OUTPUTS), "[[recipes]]", "]")
    (tmp_path / "edgebuild.toml").write_text(text)
    assert [recipe.name for recipe in load_project(tmp_path, techniques=parameter_models).recipes] == ["narrow"]
    why = "node 'a\nb' can't be read"
    refused = starter_from_onnx("net", "net.onnx", inputs, OUTPUTS, unreadable=why)
    assert "# No [[recipes]]: node 'a?b' can't be read.\n" in refused
    tomllib.loads(refused)


names = st.text(min_size=1, max_size=12)
axes = st.integers(1, 9) | names


@given(st.text(max_size=8), st.lists(st.tuples(names, st.lists(axes, max_size=3)), min_size=1, max_size=3), names)
def test_any_names_make_valid_toml(path: str, inputs: list[tuple[str, list[int | str]]], output: str) -> None:
    specs = tuple(TensorSpec(name=name, shape=tuple(shape), dtype="float32") for name, shape in inputs)
    text = starter_from_onnx("net", path, specs, (TensorSpec(name=output, shape=(1,), dtype="float32"),))
    data = tomllib.loads(text)
    assert [entry["name"] for entry in data["inputs"]] == [name for name, _ in inputs]
    assert data["model"]["onnx"] == path


def test_a_model_of_several_outputs_gets_names_for_them_that_the_metric_can_use(tmp_path: Path) -> None:
    inputs = (TensorSpec(name="x", shape=("batch", 3), dtype="float32"),)
    outputs = [TensorSpec(name=f"output{n}", shape=("batch", n + 2), dtype="float32") for n in range(3)]
    (tmp_path / "edgebuild.toml").write_text(starter_from_factory("net", "model:build", inputs, outputs, weights=None))
    project = load_project(tmp_path)
    assert project.model.outputs == ("output0", "output1", "output2")
    assert project.metric is not None
    assert project.metric.output == "output0"


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_a_checkpoint_is_explained_and_never_loaded(suffix: str) -> None:
    text = conversion_advice(Path(f"runs/best{suffix}"))
    assert text.startswith(f"best{suffix} is a pickled file")
    assert "weights_only=True" in text
    assert "save_model(" in text
    assert "edgebuild init model:build" in text
    code = [line.removeprefix("    ") for line in text.splitlines() if line.startswith("    ")]
    compile("\n".join(code), "advice", "exec")


@pytest.mark.parametrize(
    ("shape", "metric"),
    [
        (("b", 10), "accuracy"),
        (("b", 1), "auroc"),
        (("b",), "auroc"),
        (("b", 21, 64, 64), "mean_iou"),
        (("b", 40, 97), "cer"),
        (("b", 900, 6), "box_f1"),
    ],
)
def test_the_metric_that_is_proposed_fits_the_output(tmp_path: Path, shape: tuple[int | str, ...], metric: str) -> None:
    inputs = (TensorSpec(name="x", shape=("batch", 3, "seq_len"), dtype="float32"),)
    outputs = (TensorSpec(name="y", shape=shape, dtype="float32"),)
    for text in (
        starter_from_onnx("net", "net.onnx", inputs, outputs),
        starter_from_factory("net", "model:build", inputs, outputs, guessed=("x",)),
    ):
        (tmp_path / "weights.safetensors").touch()
        (tmp_path / "net.onnx").touch()
        (tmp_path / "edgebuild.toml").write_text(text)
        project = load_project(tmp_path)
        assert project.metric is not None
        assert project.metric.name == metric
        assert project.freeze == {"batch": 1, "seq_len": 128}
