"""What enters the key of a recipe's step: what its technique looks at, and no more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.building import compress
from edgebuild.building.compress import (
    CompressedResult,
    KernelConstraints,
    _planned,
    _typed,
    int8_of,
    planned_recipes,
    step_of,
)
from edgebuild.building.context import Options
from edgebuild.building.timebox import Limits
from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.project import load_project, parse_project
from edgebuild.catalogue.resolve import resolve
from edgebuild.catalogue.targets import load_targets
from edgebuild.core.artifact import Int8Scheme, Precision
from edgebuild.core.steps import CacheScope, NoProgress, never_stop
from edgebuild.errors import ConfigError, DataError, ModelError
from edgebuild.execution.faults import Guard
from edgebuild.models.compressed_model import CodeNames
from edgebuild.planning.plan import make_plan
from edgebuild.planning.recipes import ModelTraits, Recipe, recipe_refusal
from edgebuild.techniques.factorising.factorise import Factorise
from edgebuild.techniques.low_bit.qat import Qat
from edgebuild.techniques.pruning.structured import PruneStructured
from edgebuild.techniques.registry import TABLE
from edgebuild.techniques.technique import Requirements, read_parameters
from edgebuild.techniques.workspace import Workspace
from tests.catalogue.example import tables
from tests.planning.test_plan import inputs
from tests.techniques import zoo

if TYPE_CHECKING:
    from edgebuild.catalogue.project import Project

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion-mnist"
CODE = CodeNames(factory="net:make")
WANTS = KernelConstraints(channel_multiple=16, int8=Int8Scheme(activations="uint8", reduce_range=True))


class Trained(Factorise):
    """A technique that trains and doesn't look at channels."""

    uses_channels = False

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        del parameters
        return Requirements(train=True)


def project(folder: Path, **more: Any) -> Project:
    return parse_project(tables(model={"factory": "net:make"}, **more), folder)


def made(technique: Any, folder: Path, **training: Any) -> Any:
    """Return a step of a build of a project with that [training]."""
    context: Any = SimpleNamespace(project=project(folder, training=training))
    prepared: Any = SimpleNamespace(given=zoo.contract_of(zoo.ZOO["residual"]))
    return step_of(technique, technique.Parameters(), CODE, WANTS, prepared, context)


def test_the_profiles_widths_count_where_a_technique_looks_at_them(tmp_path: Path) -> None:
    assert made(PruneStructured, tmp_path).channel_multiple == 16
    assert "channel_multiple" not in made(Trained, tmp_path).key_fields()


def test_the_profiles_int8_counts_where_a_technique_trains_for_it(tmp_path: Path) -> None:
    assert made(Qat, tmp_path).int8 == WANTS.int8
    assert "int8" not in made(Trained, tmp_path).key_fields()


@pytest.mark.parametrize(("target", "profile"), [("jetson-orin-nano-8gb", "jetson-tensorrt"), ("intel-n100", None)])
def test_two_of_four_is_planned_where_kernels_skip_zeros_and_refused_elsewhere(
    target: str, profile: str | None, tmp_path: Path
) -> None:
    steps = [{"technique": "prune-unstructured", "pattern": "2:4", "epochs": 1}]
    recipes = planned_recipes(project(tmp_path, recipes=[{"name": "half", "steps": steps}]), Options(), 0)
    profiles = resolve(load_targets()[target], load_profiles(), {}).profiles
    plan = make_plan(inputs(*profiles, recipes=recipes, ground=ModelTraits(train=True)))
    made = [candidate for candidate in plan.candidates if candidate.recipe]
    assert {candidate.profile for candidate in made} == ({profile} if profile else set())
    assert all(candidate.features == ("2:4",) for candidate in made)
    assert all(candidate.features == () for candidate in plan.candidates if not candidate.recipe)
    refused = {refusal.what: refusal.reason for refusal in plan.refused}
    for other in {each.name for each in profiles} - {profile}:
        reason = f"prune-unstructured needs 2:4, which {other} doesn't have"
        assert refused[f"recipe half on {other}"] == reason


def test_one_training_serves_every_int8_scheme_of_a_profile() -> None:
    def plan(*schemes: Int8Scheme) -> Any:
        fp32 = Precision(kind="fp32")
        precisions = [fp32, *(Precision(kind="int8", scheme=scheme, quantiser="edgebuild") for scheme in schemes)]
        return SimpleNamespace(candidates=[SimpleNamespace(profile="p", precision=each) for each in precisions])

    seven, eight = Int8Scheme(activations="uint8", reduce_range=True), Int8Scheme(activations="int8")
    symmetric = Int8Scheme(activations="int8", symmetric_activations=True, float_below_channels=16)
    assert int8_of(plan(), "p") is None
    assert int8_of(plan(eight), "other") is None
    found = int8_of(plan(seven, eight, symmetric), "p")
    assert found is not None
    assert (found.reduce_range, found.symmetric_activations, found.float_below_channels) == (True, True, 16)
    assert int8_of(plan(eight), "p") == Int8Scheme(activations="uint8")


def test_a_loader_counts_where_a_technique_trains(tmp_path: Path) -> None:
    versioned: dict[str, Any] = {"loader": "data:batches", "data_version": "3"}
    assert made(Trained, tmp_path, **versioned).key_fields().items() >= versioned.items()
    keyed = made(PruneStructured, tmp_path, **versioned).key_fields()
    assert {"loader", "data_version"} & keyed.keys() == set()


def test_what_a_loader_without_a_version_gives_is_never_found_again(tmp_path: Path) -> None:
    assert made(Trained, tmp_path, loader="data:batches").cache is CacheScope.NEVER
    assert made(Trained, tmp_path, loader="data:batches", data_version="3").cache is CacheScope.STORED
    assert made(Trained, tmp_path).cache is CacheScope.STORED


def test_the_users_loss_counts_everywhere(tmp_path: Path) -> None:
    assert made(PruneStructured, tmp_path, loss="data:loss").key_fields()["loss"] == "data:loss"


def test_a_loader_that_fails_is_told_with_its_name(tmp_path: Path) -> None:
    def broken(_: str) -> Any:
        return lambda: 1 / 0

    work: Any = SimpleNamespace(step=SimpleNamespace(loader="data:batches"), code=SimpleNamespace(load=broken))
    with pytest.raises(DataError, match="data:batches failed: ZeroDivisionError"):
        Workspace.loader(work)


def test_recipes_that_were_not_checked_when_loaded_are_checked_when_planned(tmp_path: Path) -> None:
    steps = [{"technique": "factorise", "skp": ["a"]}]
    with pytest.raises(ConfigError, match='skp: unknown key; did you mean "skip"'):
        planned_recipes(project(tmp_path, recipes=[{"name": "a", "steps": steps}]), Options(), 0)
    (recipe,) = planned_recipes(
        project(tmp_path, recipes=[{"name": "a", "steps": [{"technique": "factorise", "skip": ["a"]}]}]), Options(), 100
    )
    assert recipe.text == 'factorise (skip = ["a"])'
    assert [step.learns for step in recipe.steps] == [0]


def test_functions_that_the_project_does_not_have_are_all_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def make(): ...\ndef student(): ...\n")
    steps = [
        {"technique": "distil", "student": "net:studnet", "epochs": 1},
        {"technique": "distil", "augment": "nte:flip", "epochs": 1},
    ]
    with pytest.raises(ConfigError) as raised:
        planned_recipes(project(tmp_path, recipes=[{"name": "a", "steps": steps}]), Options(), 0)
    first, second = raised.value.problems
    assert first.startswith('distil of recipe a: "net:studnet": there is no "studnet" in ')
    assert first.endswith('did you mean "student"?')
    assert second.startswith('distil of recipe a: "nte:flip": there is no module "nte"')


#: What a step is told, and how many samples it learns from where an epoch has 100.
LEARNS = (
    ({"technique": "distil", "epochs": 3}, 300),
    ({"technique": "qat"}, 300 * 64),
    ({"technique": "qat", "steps": 5, "batch_size": 10}, 50),
    ({"technique": "prune-structured"}, 0),
    ({"technique": "prune-structured", "rounds": 2, "epochs": 3}, 600),
    ({"technique": "prune-unstructured", "epochs": 2}, 200),
    ({"technique": "prune-unstructured", "epochs": 2, "cuts": "iterative", "rounds": 3}, 600),
    ({"technique": "substitute", "epochs": 2, "block_epochs": 1}, 300),
    ({"technique": "substitute", "epochs": 2, "backbones": ["json:loads", "json:load"]}, 400),
    ({"technique": "share-weights", "tune": False}, 0),
)


def test_what_a_step_learns_from_is_known_beforehand(tmp_path: Path) -> None:
    told = project(tmp_path, recipes=[{"name": "a", "steps": [step for step, _ in LEARNS]}])
    (recipe,) = planned_recipes(told, Options(), 100)
    assert [step.learns for step in recipe.steps] == [count for _, count in LEARNS]


@pytest.mark.parametrize(
    ("technique", "parameters", "refused"),
    [
        ("prune-unstructured", {}, True),
        ("share-weights", {}, True),
        ("share-weights", {"tune": False}, False),
        ("factorise", {"epochs": 1}, True),
        ("factorise", {}, False),
        ("prune-structured", {"steps": 5}, True),
        ("prune-structured", {}, False),
    ],
)
def test_what_would_train_a_model_with_exits_alone_is_refused_while_planning(
    technique: str, parameters: dict[str, Any], refused: bool
) -> None:
    kinds: Any = (TABLE["exit-early"], {}), (TABLE[technique], parameters)
    steps = tuple(_planned(kind, kind.Parameters(**given), 0) for kind, given in kinds)
    reason = recipe_refusal(Recipe(name="r", steps=steps), ModelTraits(train=True, labels=True), {})
    assert (reason is not None) == refused
    if reason is not None:
        assert reason.startswith(f"{technique} can't come after exit-early: early exits are trained together")


def test_a_planned_recipe_says_all_that_is_done_whatever_the_project_says_by_now() -> None:
    """A plan that went through JSON is carried out with the parameters that the project's tables had."""
    given = load_project(EXAMPLE)
    assert len(given.recipes) > 5
    for table, recipe in zip(given.recipes, planned_recipes(given, Options(), 0), strict=True):
        again = Recipe.model_validate_json(recipe.to_json())
        assert again == recipe
        assert [read_parameters(TABLE[step.technique], step.parameters) for step in again.steps] == [
            parameters for _, parameters in _typed(table, TABLE)
        ]


@pytest.mark.parametrize(
    ("error", "said"),
    [(ZeroDivisionError("by zero"), "a bug in edgebuild: ZeroDivisionError in "), (ModelError("no layer"), "no layer")],
)
def test_what_fails_in_a_recipe_is_that_recipes_result(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carry_out(name: str, *_: Any) -> CompressedResult:
        if name == "bad":
            raise error
        return CompressedResult()

    monkeypatch.setattr(compress, "_carry_out", carry_out)
    recipes = [{"name": name, "steps": [{"technique": "factorise"}]} for name in ("bad", "good")]
    precision = SimpleNamespace(kind="fp32", scheme=None)
    candidates = [SimpleNamespace(recipe=name, profile="p", precision=precision) for name in ("bad", "good")]
    planned = planned_recipes(project(tmp_path, recipes=recipes), Options(), 0)
    plan: Any = SimpleNamespace(candidates=candidates, recipes=planned, channel_multiples=(("p", 1),))
    context: Any = SimpleNamespace(
        concerning=lambda **_: context,
        guard=Guard(alive=never_stop, reports=tmp_path / "bugs", project=tmp_path),
        progress=NoProgress(),
        check=never_stop,
        box=None,
        limits=Limits(),
    )
    prepared: Any = None
    made = compress.compress_models(plan, prepared, context)
    assert made["good", "p"] == CompressedResult()
    failure = made["bad", "p"].failure
    assert failure is not None
    assert failure.startswith(f"recipe bad: {said}")
    assert bool(made["bad", "p"].notes) == (tmp_path / "bugs").is_dir() == isinstance(error, ZeroDivisionError)
