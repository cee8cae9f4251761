"""Early exits as a technique: where they are put, and which models have no use for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from edgebuild.core.artifact import Precision
from edgebuild.models import compressed_model, edits
from edgebuild.models.interpreter import apply_edits
from edgebuild.planning.recipes import Recipe, RecipeStep, precision_refusal
from edgebuild.techniques.exit_early import ExitEarly
from edgebuild.techniques.report import read_report
from edgebuild.testing.techniques import Tried, run_step
from tests.techniques import zoo

if TYPE_CHECKING:
    from pathlib import Path


def tried(tmp_path: Path, animal: str = "residual", **parameters: Any) -> Tried:
    inputs = zoo.write_inputs(zoo.ZOO[animal], tmp_path / "inputs")
    step = zoo.step_of(ExitEarly, zoo.ZOO[animal], **{"epochs": 1, **parameters})
    return run_step(step, inputs, tmp_path / "out", zoo.context(tmp_path / "scratch"))


def test_named_layers_get_exits_in_order_with_cells_and_hidden_units(tmp_path: Path) -> None:
    done = tried(tmp_path, after=("stem", "one"), grid=2, hidden=6, confidence="entropy", distil_weight=0.0)
    assert done.report is not None, done.refusal
    heads = compressed_model.read_model(tmp_path / "out").edits
    expected = [
        edits.AddHead(name=name, after=after, features=16, outputs=zoo.CLASSES, hidden=6, grid=2, confidence="entropy")
        for name, after in (("exit1", "stem"), ("exit2", "one"))
    ]
    assert list(heads) == expected
    assert done.report.summary.startswith("2 exit(s), ")
    assert [layer.layer for layer in done.report.layers] == ["stem", "one"]


def test_a_place_is_found_where_none_is_named(tmp_path: Path) -> None:
    assert tried(tmp_path).report is not None
    (head,) = compressed_model.read_model(tmp_path / "out").edits
    assert isinstance(head, edits.AddHead)
    (layer,) = read_report(tmp_path / "out").layers
    assert layer.layer == head.after
    share = float(layer.after.split("after ")[1].split("%")[0])
    assert 0 < share < 50


@pytest.mark.parametrize(
    ("animal", "parameters", "message"),
    [
        ("residual", {"after": ("nowhere",)}, "'nowhere' isn't a layer that runs once"),
        ("residual", {"after": ("stem",), "grid": 64}, "grid of 64x64 cells doesn't fit an output of shape"),
        ("transposed", {}, "one row of classes: the outputs are"),
        ("unet", {}, "one row of classes: the outputs are"),
    ],
    ids=["no such layer", "a grid that is too fine", "an image comes out", "two outputs"],
)
def test_what_it_refuses(tmp_path: Path, animal: str, parameters: dict[str, Any], message: str) -> None:
    done = tried(tmp_path, animal, **parameters)
    assert done.report is None
    assert message in done.refusal


def test_planning_refuses_other_precisions() -> None:
    recipe = Recipe(name="early", steps=(RecipeStep(technique="exit-early", changes=("heads", "values")),))
    half = Precision.model_validate({"kind": "fp16", "fp16": "storage"})
    assert precision_refusal(recipe, Precision(kind="fp32")) is None
    assert precision_refusal(recipe, half) == (
        "exit-early is built in fp32 only: its thresholds are chosen on the outputs of the fp32 model"
    )
    assert precision_refusal(Recipe(name="plain", steps=()), half) is None


def test_cells_are_means_that_cover_the_image() -> None:
    body = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(49, 2))
    head = edits.AddHead(name="e", after="0", features=1, outputs=2, grid=4)
    model = apply_edits(body, [head])
    image = torch.arange(49.0).reshape(1, 1, 7, 7)
    state = model.state_dict()
    cells = nn.functional.avg_pool2d(image, 4, 1).flatten(1)
    with torch.no_grad():
        expected = nn.functional.linear(cells, state["heads.e.out.weight"], state["heads.e.out.bias"])
        torch.testing.assert_close(model(image)[0], expected)
