"""What `[contract]` says of inputs and outputs: checked where it is written, resolved where a release is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.catalogue.contract_table import ContractTable, meaning_of, meaning_problems
from edgebuild.catalogue.project_tables import InputTable
from edgebuild.catalogue.tables import collect
from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.meaning import InputMeaning, OutputMeaning
from edgebuild.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = (InputTable(name="image", shape=("batch", 3, 8, "width"), dtype="float32"),)
CALLED = Contract(
    inputs=(TensorSpec(name="image", shape=(1, 3, 8, 8), dtype="float32"),),
    outputs=(
        TensorSpec(name="scores", shape=(1, 4), dtype="float32"),
        TensorSpec(name="map", shape=(1, "height", 9), dtype="float32"),
    ),
)


def table(**fields: Any) -> ContractTable:
    found, problems = collect(ContractTable, fields)
    assert found is not None, problems
    return found


def of_image(**fields: Any) -> list[str]:
    return list(meaning_problems(table(inputs={"image": fields}), IMAGE, {"batch": 1, "width": 8}))


def test_what_fits_is_taken_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog \nhörse\ncow\n", encoding="utf-8")
    fields = {"layout": "NCHW", "scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}
    assert of_image(**fields) == []
    said = table(inputs={"image": fields}, outputs={"scores": {"labels": "labels.txt"}})
    found = meaning_of(said, tmp_path, CALLED)
    assert found.inputs == (
        InputMeaning(name="image", layout="NCHW", scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1)),
    )
    assert found.outputs == (OutputMeaning(name="scores", labels=("cat", "dog", "hörse", "cow")),)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layout": "NCH"}, '"NCH" names 3 axes, the input has 4'),
        ({"layout": "NCHW", "mean": [1.0, 2.0]}, "has 2 numbers for 3 channels"),
        ({"layout": "NHWC", "std": [1.0, 2.0]}, "has 2 numbers for 8 channels"),
        ({"mean": [1.0, 2.0, 3.0]}, "name the channels' axis C"),
    ],
)
def test_what_the_input_is_not_is_said(fields: dict[str, Any], words: str) -> None:
    (problem,) = of_image(**fields)
    assert problem.startswith("[contract.inputs.image]")
    assert words in problem


def test_an_input_that_is_not_there_is_said_with_the_nearest() -> None:
    (problem,) = meaning_problems(table(inputs={"imgae": {}}), IMAGE, {})
    assert 'there is no input "imgae"' in problem
    assert '"image"' in problem


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": {"image": {"layout": "NCHX"}}},
        {"inputs": {"image": {"layout": "NCCW"}}},
        {"inputs": {"image": {"layout": ""}}},
        {"inputs": {"image": {"scale": 0}}},
        {"inputs": {"image": {"std": [0.0]}}},
        {"inputs": {"image": {"mean": [1.0, 2.0], "std": [1.0]}}},
        {"outputs": {"scores": {}}},
        {"outputs": {"scores": {"labels": "labels.csv"}}},
        {"outputs": {"scores": {"labels": ["cat", ""]}}},
        {"outputs": {"scores": {"labels": ["cat", "\x1b[31m"]}}},
    ],
)
def test_what_can_not_be_right_is_refused_in_the_file(fields: dict[str, Any]) -> None:
    found, problems = collect(ContractTable, fields)
    assert found is None
    assert problems


@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [
        ("score", ["a", "b", "c", "d"], 'the model has no output "score"'),
        ("scores", ["a", "b"], "2 names for an output of shape [1, 4]"),
        ("scores", [], "0 names"),
        ("scores", "gone.txt", "No such file"),
        ("scores", "binary.txt", "utf-8"),
        ("scores", "blank.txt", "name 2 is empty"),
    ],
)
def test_labels_that_do_not_fit_are_said_when_a_release_is_made(
    tmp_path: Path, name: str, labels: Any, words: str
) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "blank.txt").write_text("a\n\nc\nd\n")
    with pytest.raises(ConfigError) as caught:
        meaning_of(table(outputs={name: {"labels": labels}}), tmp_path, CALLED)
    assert words in str(caught.value.problems)


def test_an_output_with_open_axes_takes_any_number_of_labels(tmp_path: Path) -> None:
    said = table(outputs={"map": {"labels": ["a", "b"]}})
    assert meaning_of(said, tmp_path, CALLED).outputs[0].labels == ("a", "b")
