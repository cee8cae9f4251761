"""Recipes in edgebuild.toml: every problem of every step is told at once, with what was meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.catalogue.project import parse_project
from edgebuild.catalogue.recipes import chosen_recipes
from edgebuild.errors import ConfigError
from edgebuild.techniques.registry import parameter_models
from tests.catalogue.example import tables

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.catalogue.project import Project

NARROW = {"name": "narrow", "steps": [{"technique": "prune-structured", "keep": 0.5}, {"technique": "factorise"}]}
THIN = {"name": "thin", "steps": [{"technique": "factorise", "ranks": "share", "share": 0.25}]}


def project(folder: Path, *recipes: dict[str, Any], **more: Any) -> Project:
    (folder / "model.onnx").touch()
    changed = tables(recipes=list(recipes), model={"factory": "net:make"}, **more)
    return parse_project(changed, folder, techniques=parameter_models)


def problems(folder: Path, *recipes: dict[str, Any], **more: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        project(folder, *recipes, **more)
    return caught.value.problems


def test_a_recipe_keeps_its_steps_and_their_parameters(tmp_path: Path) -> None:
    found = project(tmp_path, NARROW, THIN)
    assert [recipe.name for recipe in found.recipes] == ["narrow", "thin"]
    first, second = found.recipes[0].steps
    assert (first.technique, first.parameters) == ("prune-structured", {"keep": 0.5})
    assert (second.technique, second.parameters) == ("factorise", {})
    assert (
        type(found).model_validate_json(found.to_json().replace("{", '{"folder": "/x", ', 1)).recipes == found.recipes
    )


def test_all_problems_at_once_with_what_was_meant(tmp_path: Path) -> None:
    wrong = {
        "name": "a",
        "steps": [
            {"technique": "prune-structred"},
            {"technique": "prune-structured", "keep": 0, "importence": "l2", "rounds": 1.5},
            {"technique": "factorise", "ranks": "vbfm"},
            {"technique": "factorise", "epochs": 1, "steps": 1},
            {"keep": 0.5},
        ],
    }
    broken = problems(tmp_path, wrong)
    assert any("[[recipes]]#1.steps#5.technique: is missing" in problem for problem in broken)
    wrong["steps"] = wrong["steps"][:4]
    assert problems(tmp_path, wrong, THIN, THIN, {"name": "none", "steps": [{"technique": "factorise"}]}) == (
        '[[recipes]]: two recipes are called "thin"',
        '[[recipes]]#1.steps#1.technique: unknown technique "prune-structred"; did you mean "prune-structured"?',
        "[[recipes]]#1.steps#2.keep: must be greater than 0, got 0",
        "[[recipes]]#1.steps#2.rounds: must be a whole number, got 1.5",
        '[[recipes]]#1.steps#2.importence: unknown key; did you mean "importance"?',
        '[[recipes]]#1.steps#3.ranks: must be "vbmf" or "share", got "vbfm"; did you mean "vbmf"?',
        "[[recipes]]#1.steps#4: needs either `epochs` or `steps`, not both",
        '[[recipes]]#4.name: "none" means the original alone; give it another name',
    )


@pytest.mark.parametrize("recipe", [{"name": "a b", "steps": [{"technique": "factorise"}]}, {"name": "a", "steps": []}])
def test_a_recipe_has_a_name_and_steps(recipe: dict[str, Any], tmp_path: Path) -> None:
    assert problems(tmp_path, recipe)


def test_a_version_of_data_goes_with_a_loader(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, training={"data_version": "1"})
    assert "`data_version` goes with `loader`" in problem
    assert project(tmp_path, training={"loader": "data:batches", "data_version": "1"}).training.data_version == "1"


def test_recipes_are_chosen_by_name(tmp_path: Path) -> None:
    recipes = project(tmp_path, NARROW, THIN).recipes

    def names(*asked: str) -> list[str]:
        return [recipe.name for recipe in chosen_recipes(recipes, asked)]

    assert names() == ["narrow", "thin"]
    assert names("thin") == ["thin"]
    assert names("thin", "narrow") == ["thin", "narrow"]
    assert names("none") == []
    for asked, words in (
        (("tin",), 'no recipe "tin"; did you mean "thin"?'),
        (("none", "thin"), '"none" is the original alone'),
        (("thin", "thin"), "thin is given twice"),
    ):
        with pytest.raises(ConfigError) as caught:
            chosen_recipes(recipes, asked)
        assert words in caught.value.problems[0]
