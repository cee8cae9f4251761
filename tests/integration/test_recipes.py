"""A torch project with recipes, from `plan` to a certified candidate, through the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from edgebuild.building.context import Options
from edgebuild.building.projects import load_project
from edgebuild.pipeline import plan
from tests.cli.example import Ended, record, refused, run
from tests.golden import assert_golden
from tests.integration.torch_project import weights, write_torch_project

if TYPE_CHECKING:
    from pathlib import Path

RECIPES = """\
[[recipes]]
name = "narrow"
steps = [{ technique = "prune-structured", importance = "l2", spread = "uniform", multiple = 4, skip = ["3"] }]

[[recipes]]
name = "both"
steps = [
  { technique = "prune-structured", importance = "l2", spread = "uniform", multiple = 4, skip = ["3"] },
  { technique = "factorise", multiple = 1, skip = ["0", "5"] },
]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    tables = {"build": 'targets = ["quick"]\nthreads = 1\nobjective = "size"'}
    folder = write_torch_project(tmp_path_factory.mktemp("recipes") / "project", weights(), tables, RECIPES)
    return folder, run("build", cwd=folder)


def test_the_smallest_model_that_loses_nothing_is_chosen(built: tuple[Path, Ended]) -> None:
    project, ended = built
    assert ended.code == 0, ended
    found = record(project)
    assert found["baseline"] == "quick/fp32"
    candidates = {candidate["id"]: candidate for candidate in found["candidates"]}
    assert {name: c["spec"]["recipe"] for name, c in candidates.items()} == {
        "quick/fp32": "",
        "quick/narrow/fp32": "narrow",
        "quick/both/fp32": "both",
    }
    assert found["chosen"] == "quick/both/fp32", ended.out
    both, narrow, original = (candidates[f"quick/{name}fp32"] for name in ("both/", "narrow/", ""))
    assert both["size_bytes"] < narrow["size_bytes"] < original["size_bytes"]
    assert both["test"]["outcome"] == "accepted"
    assert both["test"]["drop"]["reference"] == both["test"]["drop"]["artifact"]
    notes = " ".join(note["text"] for note in both["notes"])
    assert "prune-structured: 1 of 3 groups of channels narrowed" in notes
    assert "factorise: 1 of " in notes
    assert "prune-structured left alone: 3 ('3' is to be skipped)" in notes
    assert "MACs" in notes
    # What the two recipes have in common ran once.
    labels = [step["label"] for step in found["steps"] if step["kind"] == "prune-structured" and not step["reused"]]
    assert labels == ["recipe narrow: step 1, prune-structured"]


def test_golden_record_of_recipes(built: tuple[Path, Ended]) -> None:
    assert_golden(record(built[0]), "recipes")


def test_what_a_recipe_did_is_explained(built: tuple[Path, Ended]) -> None:
    ended = run("explain", "both", cwd=built[0])
    assert ended.code == 0, ended
    said = " ".join(ended.out.split())
    assert "recipe both: step 2, factorise" in said
    assert "recipe narrow" not in said
    assert "groups of channels narrowed" in said


def test_plan_shows_recipes_and_a_choice_of_them(built: tuple[Path, Ended]) -> None:
    project = built[0]
    shown = run("plan", cwd=project).out
    assert "Recipe both: prune-structured (importance = " in shown
    assert "quick/both/fp32" in shown
    (alone,) = plan(load_project(project), Options(recipes=("none",)))
    assert [candidate.id for candidate in alone.candidates] == ["quick/fp32"]
    (one,) = plan(load_project(project), Options(recipes=("narrow",)))
    assert [candidate.id for candidate in one.candidates] == ["quick/fp32", "quick/narrow/fp32"]
    refused(
        project,
        "plan",
        "--recipe",
        "bth",
        code=2,
        message='--recipe: 1 problem\n  - the project has no recipe "bth"; did you mean "both"?',
        hint="Recipes are [[recipes]] in edgebuild.toml.",
    )


def test_a_stored_model_holds_factory_edits_and_weights_only(built: tuple[Path, Ended]) -> None:
    root = built[0] / ".edgebuild" / "store"
    manifests = [json.loads(path.read_bytes())["manifest"]["files"] for path in (root / "entries").iterdir()]
    stored = [{file["path"] for file in files} for files in manifests]
    stored = [files for files in stored if "compressed.json" in files]
    assert sorted(len(files) for files in stored) == [2, 3, 3]
    assert all(files <= {"compressed.json", "weights.safetensors", "technique.json"} for files in stored)
