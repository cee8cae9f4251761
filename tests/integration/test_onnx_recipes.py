"""A project that has an ONNX file and no training code: pruned and distilled, or refused with the node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper

from edgebuild.building.context import Options
from edgebuild.catalogue.project import load_project
from edgebuild.errors import UsageError
from edgebuild.pipeline import build, plan
from tests.cli.example import (
    CLASSES,
    SHAPE,
    Ended,
    classifier_weights,
    classify,
    model_of,
    record,
    run,
    write_project,
)

if TYPE_CHECKING:
    from pathlib import Path

RECIPES = """\
[[recipes]]
name = "narrow"
steps = [
  { technique = "prune-structured", importance = "l2", multiple = 4 },
  { technique = "distil", steps = 20, learning_rate = 1e-4 },
]
"""
TABLES = {
    "data": 'calibration = "data:calibration"\nvalidation = "data:validation"\ntest = "data:test"\n'
    'train = "data:calibration"',
    "build": 'targets = ["quick"]\nthreads = 1\nobjective = "size"',
}


def write_onnx_project(folder: Path, last: str = "Reshape") -> Path:
    """Half of the channels hardly say anything, and the file is written for a batch of 1."""
    write_project(folder, TABLES)
    (folder / "edgebuild.toml").write_text((folder / "edgebuild.toml").read_text() + RECIPES)
    weights = classifier_weights()
    for array in (weights["w"], weights["b"], weights["v"].reshape(8, 36, CLASSES)):
        array[1::2] *= 1e-4
    images = np.random.default_rng(2).standard_normal((500, *SHAPE)).astype(np.float32)
    weights["c"] -= classify(images, weights).mean(axis=0)
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["conv"], name="/body/conv/Conv"),
        helper.make_node("Relu", ["conv"], ["relu"], name="/body/Relu"),
        helper.make_node("Reshape", ["relu", "s"], ["flat"], name="/Reshape"),
        helper.make_node("Gemm", ["flat", "v", "c"], ["scores"], name="/head/Gemm"),
        helper.make_node(last, ["scores", "t"] if last == "Reshape" else ["scores"], ["logits"], name="/last"),
    ]
    shapes = {"s": np.array([1, 288]), "t": np.array([1, CLASSES])}
    model = model_of(
        nodes, inputs={"image": [1, *SHAPE]}, outputs={"logits": [1, CLASSES]}, weights={**weights, **shapes}
    )
    onnx.save(model, str(folder / "model.onnx"))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    folder = write_onnx_project(tmp_path_factory.mktemp("onnx-recipes") / "project")
    return folder, run("build", cwd=folder)


@pytest.mark.proof
def test_a_pruned_and_distilled_net_is_built_from_the_file_alone(built: tuple[Path, Ended]) -> None:
    project, ended = built
    assert ended.code == 0, ended
    found = record(project)
    candidates = {candidate["id"]: candidate for candidate in found["candidates"]}
    narrow, original = candidates["quick/narrow/fp32"], candidates["quick/fp32"]
    assert narrow["size_bytes"] < 0.7 * original["size_bytes"]
    assert narrow["test"]["outcome"] == "accepted"
    assert found["chosen"] == "quick/narrow/fp32"
    notes = " ".join(note["text"] for note in narrow["notes"])
    assert "prune-structured: 1 of 2 groups of channels narrowed" in notes
    assert "head_Gemm" in notes


@pytest.mark.proof
def test_what_was_read_is_read_again_only_for_another_file(built: tuple[Path, Ended]) -> None:
    project, _ = built
    again = run("build", cwd=project)
    assert again.code == 0, again
    steps = {step["kind"]: step["reused"] for step in record(project)["steps"]}
    assert steps["store-onnx"]
    assert steps["prune-structured"]
    assert steps["distil"]
    model = onnx.load(str(project / "model.onnx"))
    # The same weights in another graph: what comes of the recipe must be another, too.
    model.graph.node[1].op_type = "Tanh"
    onnx.save(model, str(project / "model.onnx"))
    other = run("build", cwd=project)
    assert other.code in {0, 3}, other
    steps = {step["kind"]: step["reused"] for step in record(project)["steps"]}
    assert not steps["store-onnx"]
    assert not steps["prune-structured"]
    assert not steps["distil"]


def test_a_node_that_cannot_be_read_refuses_the_recipe_and_nothing_else(tmp_path: Path) -> None:
    project = write_onnx_project(tmp_path / "project", last="Hardmax")
    (planned,) = plan(load_project(project))
    refused = " ".join(item.reason for item in planned.refused)
    assert "node '/last', a Hardmax, can't be read as torch: it is an operator that isn't known" in refused
    with pytest.raises(UsageError, match="Recipe narrow can't be carried out"):
        build(load_project(project), Options(recipes=("narrow",)))
