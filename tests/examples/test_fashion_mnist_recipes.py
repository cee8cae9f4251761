"""The recipes of the Fashion-MNIST example: each can be carried out here, and they cover the techniques."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from edgebuild.building.compress import planned_recipes
from edgebuild.building.context import Options
from edgebuild.building.projects import load_project
from edgebuild.catalogue.callables import load_callable
from edgebuild.planning.recipes import ModelTraits, recipe_refusal
from edgebuild.techniques.registry import TABLE

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion-mnist"
#: Said of the techniques that no recipe shows: weights of few bits are shown by `apprentice`.
NOT_SHOWN = {"binary-weights"}


def test_every_recipe_can_be_carried_out_and_together_they_show_the_techniques() -> None:
    recipes = planned_recipes(load_project(EXAMPLE), Options(), 55_000)
    ground = ModelTraits(train=True, labels=True)
    assert {recipe.name: recipe_refusal(recipe, ground, {}) for recipe in recipes} == dict.fromkeys(
        recipe.name for recipe in recipes
    )
    assert {step.technique for recipe in recipes for step in recipe.steps} == set(TABLE) - NOT_SHOWN


def test_the_readme_names_them_all() -> None:
    section = (EXAMPLE / "README.md").read_text().partition("## The recipes\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)
    assert sorted(named) == sorted(recipe.name for recipe in load_project(EXAMPLE).recipes)


def test_the_student_begins_with_the_original_s_weights_and_answers_like_it_in_shape() -> None:
    original = load_callable("model:resnet8", EXAMPLE)()
    student = load_callable("model:coarse_student", EXAMPLE)(original)
    assert student.state_dict().keys() == original.state_dict().keys()
    image = torch.zeros(2, 1, 28, 28)
    with torch.no_grad():
        assert student.eval()(image).shape == original.eval()(image).shape == (2, 10)
        assert student.stem(image).shape == (2, 16, 14, 14)
