"""Recipes in planning: which candidates they make, and why one can't be carried out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.errors import EnvironmentGap, UsageError
from edgebuild.planning.inputs import UnitCosts
from edgebuild.planning.plan import make_plan
from edgebuild.planning.recipes import ModelTraits, Recipe, RecipeStep, recipe_refusal
from edgebuild.techniques.technique import Requirements
from tests.planning.test_plan import COSTS, FP32, OURS, ids, inputs, profile, refusals

TORCH = ModelTraits(train=True, labels=True)
PRUNE = RecipeStep(technique="prune", changes=("structure",), not_after=(("masks", "a mask has its layer's shape"),))
SPARSE = RecipeStep(technique="sparse", changes=("masks",))


def recipe(*steps: RecipeStep, name: str = "narrow") -> Recipe:
    return Recipe(name=name, steps=steps)


def plan_of(*recipes: Recipe, ground: ModelTraits = TORCH, **more: Any) -> Any:
    found = (profile("a", precisions=(FP32, OURS)), profile("b", "openvino", (FP32,)))
    return make_plan(inputs(*found, recipes=recipes, ground=ground, **more))


def test_a_recipe_adds_candidates_and_the_original_keeps_its_own() -> None:
    alone, both = plan_of(), plan_of(recipe(PRUNE))
    assert both.candidates[: len(alone.candidates)] == alone.candidates
    label = OURS.label
    assert ids(both)[len(alone.candidates) :] == ["a/narrow/fp32", f"a/narrow/{label}", "b/narrow/fp32"]
    assert [c.id for c in both.candidates if c.baseline] == ["a/fp32"]
    assert {c.recipe for c in both.candidates} == {"", "narrow"}
    assert both.channel_multiples == (("a", 8), ("b", 8))
    assert alone.channel_multiples == ()
    assert "compress" not in {cost.stage for cost in alone.costs}


def test_layers_that_are_timed_take_their_time() -> None:
    costs = UnitCosts(**{**COSTS.model_dump(), "compress_s": 50, "time_layer_s": 10})
    timing = PRUNE.model_copy(update={"times_layers": True})
    stages = [
        {cost.stage: cost.seconds for cost in plan_of(recipe(step), costs=costs).costs} for step in (PRUNE, timing)
    ]
    # Two profiles of three layers each, and what is timed isn't shared.
    assert [found["compress"] for found in stages] == [50, 160]


def test_what_compressing_takes_counts_each_step_that_runs_once() -> None:
    costs = UnitCosts(**{**COSTS.model_dump(), "compress_s": 50, "train_sample_s": 0.01})
    taught = RecipeStep(technique="distil", learns=1_000)

    def compressing(*recipes: Recipe, wide: int = 8) -> float:
        found = (profile("a"), profile("b").model_copy(update={"channel_multiple": wide}))
        plan = make_plan(inputs(*found, recipes=recipes, ground=TORCH, costs=costs))
        return next(cost.seconds for cost in plan.costs if cost.stage == "compress")

    assert compressing(recipe(PRUNE)) == 50
    assert compressing(recipe(PRUNE), wide=16) == 100
    assert compressing(recipe(PRUNE, taught)) == 110
    assert compressing(recipe(PRUNE), recipe(PRUNE, taught, name="both")) == 110
    assert compressing(recipe(PRUNE, taught), recipe(taught, name="alone")) == 170


REFUSED = {
    "an ONNX file that isn't understood": (
        recipe(PRUNE),
        ModelTraits(unreadable="node 'nms', a NonMaxSuppression, can't be read as torch: it isn't known"),
        "recipes change a torch model, and node 'nms', a NonMaxSuppression, can't be read as torch",
    ),
    "state": (recipe(PRUNE), ModelTraits(stateful=True), "carries state"),
    "no training data": (
        recipe(RecipeStep(technique="tune", needs=Requirements(train=True))),
        ModelTraits(),
        "tune needs training data",
    ),
    "no labels": (
        recipe(RecipeStep(technique="tune", needs=Requirements(labels=True))),
        ModelTraits(train=True),
        "tune needs labels",
    ),
    "not installed": (
        recipe(RecipeStep(technique="tune", needs=Requirements(modules=("nncf",)))),
        TORCH,
        "tune needs nncf, which is not installed (pip install it)",
    ),
    "not the first": (
        recipe(RecipeStep(technique="sparse"), RecipeStep(technique="teach", needs=Requirements(untouched="student"))),
        TORCH,
        "teach (student) must be the first step",
    ),
    "exits and a batch": (
        recipe(RecipeStep(technique="exit", changes=("heads",))),
        ModelTraits(one_by_one=False),
        "exit answers one sample at a time; set batch = 1 under [freeze]",
    ),
    "a wrong order": (recipe(SPARSE, PRUNE), TORCH, "prune can't come after sparse: a mask has its layer's shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_out_is_refused_with_the_reason(name: str) -> None:
    refused, ground, words = REFUSED[name]
    plan = plan_of(refused, ground=ground, missing={"nncf": "pip install it"})
    assert words in refusals(plan)["recipe narrow"]
    assert plan.candidates == plan_of(missing={"nncf": "pip install it"}).candidates
    assert plan.recipes == ()


def test_what_must_be_first_may_be() -> None:
    teach = RecipeStep(technique="teach", needs=Requirements(untouched="student"))
    assert recipe_refusal(recipe(teach, SPARSE), TORCH, {}) is None
    assert recipe_refusal(recipe(teach, teach), TORCH, {}) is not None


def test_the_other_order_is_fine() -> None:
    assert recipe_refusal(recipe(PRUNE, SPARSE), TORCH, {}) is None


def test_a_profile_without_a_feature_refuses_the_recipe_there_only() -> None:
    sparse = recipe(RecipeStep(technique="two-four", needs=Requirements(features=("2:4",))))
    found = (profile("a"), profile("b").model_copy(update={"features": ("2:4",)}))
    plan = make_plan(inputs(*found, recipes=(sparse,), ground=TORCH))
    assert {c.profile for c in plan.candidates if c.recipe} == {"b"}
    assert refusals(plan)["recipe narrow on a"] == "two-four needs 2:4, which a doesn't have"


@pytest.mark.parametrize("name", REFUSED)
def test_a_recipe_that_was_asked_for_by_name_is_refused_aloud(name: str) -> None:
    refused, ground, words = REFUSED[name]
    kind = EnvironmentGap if name == "not installed" else UsageError
    with pytest.raises(kind, match="Recipe narrow can't be carried out") as caught:
        plan_of(refused, ground=ground, missing={"nncf": "pip install it"}, recipes_named=True)
    assert words in caught.value.message


def test_a_recipe_that_was_asked_for_by_name_stays_however_little_time_there_is() -> None:
    costs = UnitCosts(**{**COSTS.model_dump(), "compress_s": 50})
    plan = plan_of(recipe(PRUNE), costs=costs, time_s=1, recipes_named=True)
    assert [kept.name for kept in plan.recipes] == ["narrow"]
    assert plan.notes == (f"about {plan.seconds:.0f} s is the least for what is left, more than the 1 s asked for",)
    assert plan_of(recipe(PRUNE), costs=costs, time_s=plan.seconds, recipes_named=True).notes == ()


@given(st.floats(0, 3000))
def test_short_of_time_recipes_go_last_and_the_last_first(time_s: float) -> None:
    costs = UnitCosts(**{**COSTS.model_dump(), "compress_s": 50})
    plan = plan_of(recipe(PRUNE, name="one"), recipe(PRUNE, name="two"), costs=costs, time_s=time_s)
    left = {candidate.recipe for candidate in plan.candidates}
    assert "" in left
    assert "two" not in left or "one" in left
    for name in {"one", "two"} - left:
        assert "to stay inside" in refusals(plan)[f"recipe {name}"]
    assert [r.name for r in plan.recipes] == [name for name in ("one", "two") if name in left]
