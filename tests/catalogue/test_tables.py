from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.catalogue.project_tables import ProjectFile
from edgebuild.catalogue.tables import MAX_BYTES, collect, quote, read_toml, suggestion, validate
from edgebuild.errors import ConfigError
from tests.catalogue.example import tables

if TYPE_CHECKING:
    from pathlib import Path


def problems(**changes: Any) -> tuple[str, ...]:
    value, found = collect(ProjectFile, tables(**changes))
    assert (value is None) == bool(found)
    return found


def test_a_valid_file_has_no_problems() -> None:
    assert problems() == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": {"points": "two"}}, '[budget].points: must be a number, got "two"'),
        ({"budget": {"points": True}}, "[budget].points: must be a number, got true"),
        ({"budget": {"points": -1}}, "[budget].points: must be greater than 0, got -1"),
        ({"budget": {"relative": 1.5}}, "[budget].relative: must be less than 1, got 1.5"),
        ({"budget": {"agreement": 1.5}}, "[budget].agreement: must be at most 1, got 1.5"),
        ({"budget": {"points": float("nan")}}, "[budget].points: must be a finite number, got NaN"),
        (
            {"budget": {"points": 1.0, "floor": 0.9}},
            "[budget]: needs exactly one of `points`, `relative`, `floor` or `agreement`, got points and floor",
        ),
        ({"budget": {}}, "[budget]: needs exactly one of `points`, `relative`, `floor` or `agreement`"),
        ({"budget": None}, "[budget]: is missing"),
        ({"budget": 2.0}, "budget: must be a table, got 2.0"),
        ({"limits": {"latency_p5_ms": 1.0}}, '[limits].latency_p5_ms: unknown key; did you mean "latency_p50_ms"?'),
        (
            {"model": {"factory": "m:f", "zzz": 1}},
            "[model].zzz: unknown key; known: custom_ops, factory, model_version, onnx, outputs, state, weights",
        ),
        ({"limts": {}}, '[limts]: unknown key; did you mean "limits"?'),
        (
            {"threads": 2},
            "threads: unknown key; known: budget, build, contract, data, freeze, inputs, limits, metric, "
            "model, project, recipes, store, training",
        ),
        (
            {"project": {"name": ""}},
            '[project].name: must be letters, digits, dots, dashes and underscores, a letter or digit first, got ""',
        ),
        ({"project": {"name": 3}}, "[project].name: must be text, got 3"),
        ({"build": {"threads": 1.5}}, "[build].threads: must be a whole number, got 1.5"),
        ({"build": {"targets": "n100"}}, '[build].targets: must be a list, got "n100"'),
        ({"build": {"targets": []}}, "[build].targets: must not be empty"),
        ({"build": {"targets": ["a", 1]}}, "[build].targets#2: must be text, got 1"),
        ({"build": {"targets": ["a", "a"]}}, '[build].targets: "a" is there twice'),
        (
            {"build": {"objective": "latncy"}},
            '[build].objective: must be "latency", "throughput", "size" or "memory", got "latncy"; '
            'did you mean "latency"?',
        ),
        ({"inputs": []}, "inputs: must not be empty"),
        ({"inputs": [{"name": "x", "dtype": "int8"}]}, "[[inputs]]#1.shape: is missing"),
        (
            {"inputs": [{"name": "x", "shape": [0, "n"], "dtype": "int8"}]},
            "[[inputs]]#1.shape#1: must be a size of at least 1, or the name of a dynamic axis, got 0",
        ),
        (
            {"inputs": [{"name": "x", "shape": [1], "dtype": "int8", "value": "one"}]},
            '[[inputs]]#1.value: must be a number, or a flat list of numbers, got "one"',
        ),
        ({"freeze": {"batch": 0}}, "[freeze].batch: must be at least 1, got 0"),
        ({"freeze": {"a b": "x"}}, '[freeze]."a b": must be a whole number, got "x"'),
        ({"model": {"factory": "m:f", "state": {"s": 1}}}, "[model.state].s: must be text, got 1"),
        (
            {"model": {"factory": "model.build"}},
            '[model].factory: must be "module:function" (did you mean "model:build"?), got "model.build"',
        ),
        ({"model": {"factory": "build"}}, '[model].factory: must be "module:function", got "build"'),
        ({"model": {}}, "[model]: needs either `factory` or `onnx`"),
        ({"model": {"factory": "m:f", "onnx": "m.onnx"}}, "[model]: needs either `factory` or `onnx`, not both"),
        (
            {"model": {"onnx": "m.onnx", "weights": "w.safetensors"}},
            "[model]: `weights` goes with `factory`; an ONNX file holds its own",
        ),
        (
            {"model": {"onnx": "m.onnx", "outputs": ["y"]}},
            "[model]: `outputs` goes with `factory`; an ONNX file names its own",
        ),
        ({"model": {"factory": "m:f", "custom_ops": "x.so"}}, "[model]: `custom_ops` goes with `onnx`"),
        (
            {"model": {"factory": "m:f", "weights": "w.pt"}},
            "[model].weights: must be a .safetensors file; edgebuild never loads a pickled checkpoint "
            '(`edgebuild init <checkpoint>` shows how to convert one), got "w.pt"',
        ),
        (
            {"data": {"calibration": "a:b", "validation": "c.csv", "test": "e:f"}},
            '[data].validation: must be "module:function" or a file that ends in ".npz", got "c.csv"',
        ),
        (
            {"metric": {"name": "accuracy", "per_sample": "m:f"}},
            "[metric]: needs either `name` or `per_sample`, not both",
        ),
        (
            {"metric": {"name": "cer", "decode": "m:f", "output": "y"}},
            "[metric]: `decode` goes with `name` and without `output`: it gets all outputs",
        ),
        (
            {"metric": {"per_sample": "m:f"}},
            '[metric]: `per_sample` needs a `direction`, "maximise" or "minimise", '
            "and a `scale` of [lowest, highest] where the budget is in points",
        ),
        (
            {"metric": {"callable": "m:f", "combine": "m:c", "direction": "maximise"}},
            "[metric]: `combine` goes with `per_sample`, whose entries it takes",
        ),
        ({"metric": {"name": "accuracy", "callable": "m:f"}}, "[metric]: needs either `name` or `callable`, not both"),
        (
            {"metric": {"callable": "m:f"}},
            '[metric]: `callable` needs a `direction`, "maximise" or "minimise", '
            "and a `scale` of [lowest, highest] where the budget is in points",
        ),
        (
            {"metric": {"callable": "m:f", "direction": "maximise", "scale": [1.0, 0.0]}},
            "[metric]: `scale` must be [lowest, highest]",
        ),
        (
            {"metric": {"callable": "m:f", "direction": "maximise", "scale": [1.0]}},
            "[metric].scale: needs at least 2 entries",
        ),
        (
            {"metric": {"name": "accuracy", "scale": [0.0, 1.0]}},
            "[metric]: `direction` and `scale` go with `callable`; a built-in metric knows its own",
        ),
    ],
)
def test_each_problem_is_one_sentence_that_names_the_key(changes: dict[str, Any], message: str) -> None:
    assert problems(**changes) == (message,)


def test_all_problems_are_told_at_once() -> None:
    found = problems(budget={"points": "two"}, build={"threads": 0}, limts={}, data=None)
    assert found == (
        "[data]: is missing",
        '[budget].points: must be a number, got "two"',
        "[build].threads: must be at least 1, got 0",
        '[limts]: unknown key; did you mean "limits"?',
    )
    with pytest.raises(ConfigError) as caught:
        validate(ProjectFile, tables(budget=None, data=None), "x.toml", hint="See the page.")
    assert str(caught.value) == "x.toml: 2 problems\n  - [data]: is missing\n  - [budget]: is missing"
    assert caught.value.hint == "See the page."


@given(st.text(string.ascii_lowercase + "_- é.", min_size=1).filter(lambda key: key not in ProjectFile.model_fields))
def test_any_unknown_key_is_named_and_only_it(key: str) -> None:
    found = problems(**{key: 1})
    assert len(found) == 1
    assert key in found[0] or ("é" in key and "unknown key" in found[0])
    assert ": unknown key; " in found[0]


json_values = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(ProjectFile.model_fields)), json_values)
def test_any_value_anywhere_is_accepted_or_explained(table: str, value: object) -> None:
    for problem in problems(**{table: value}):
        assert problem.startswith((f"[{table}", f"[[{table}", table))
        assert "\n" not in problem


def test_suggestion_lists_what_is_known_where_nothing_is_near() -> None:
    assert suggestion("budgt", ["budget", "build"]) == 'did you mean "budget"?'
    assert suggestion("zzz", ["b", "a", "b"]) == "known: a, b"
    assert suggestion("x", []) == "there are none"


def test_long_values_are_shortened() -> None:
    assert quote("x" * 100) == '"' + "x" * 58 + "…"
    assert quote({"a": 1}) == "a table"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[project\nname = 1", "not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 9)"),
        (b'a = 1\nb = "\xff"', "line 2: not UTF-8"),
        (b"#" * (MAX_BYTES + 1), "the file is larger than 1 MiB"),
    ],
)
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "edgebuild.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert caught.value.problems == (problem,)
    assert caught.value.source == str(path)
    assert caught.value.exit_code == 2


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file doesn't exist") as missing:
        read_toml(tmp_path / "nothing.toml")
    assert "edgebuild init" in missing.value.hint
    with pytest.raises(ConfigError, match="the file can't be read: it is a folder, not a file"):
        read_toml(tmp_path)
