"""What a project's recipes may say: each technique's parameters are checked by that technique's own typed table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.catalogue.tables import collect, suggestion, unknown
from edgebuild.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pydantic import BaseModel

    from edgebuild.catalogue.project_tables import RecipeStepTable, RecipeTable

#: What `--recipe` says for the original alone.
NONE = "none"


def recipe_problems(recipes: Sequence[RecipeTable], techniques: Mapping[str, type[BaseModel]] | None) -> Iterator[str]:
    """Yield a sentence for every problem. ``techniques`` maps a name to its parameters; None: they aren't checked."""
    names = [recipe.name for recipe in recipes]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f'[[recipes]]: two recipes are called "{name}"'
    for number, recipe in enumerate(recipes, start=1):
        if recipe.name == NONE:
            yield f'[[recipes]]#{number}.name: "{NONE}" means the original alone; give it another name'
        for index, step in enumerate(recipe.steps, start=1):
            where = f"[[recipes]]#{number}.steps#{index}"
            if techniques is not None and step.technique not in techniques:
                yield f"{where}.technique: {unknown('technique', step.technique, techniques)}"
            elif techniques is not None:
                _, problems = collect(techniques[step.technique], step.parameters, where)
                yield from problems


def typed_parameters(step: RecipeStepTable, techniques: Mapping[str, type[BaseModel]], where: str) -> Any:
    """Return a step's parameters as its technique's own table; raises ``ConfigError`` with every problem."""
    if step.technique not in techniques:
        raise ConfigError(where, (unknown("technique", step.technique, techniques),))
    value, problems = collect(techniques[step.technique], step.parameters)
    if value is None:
        raise ConfigError(where, problems)
    return value


def chosen_recipes(recipes: Sequence[RecipeTable], asked: Iterable[str]) -> tuple[RecipeTable, ...]:
    """Return the recipes that were asked for by name: all without, none for ``none``; raises ``ConfigError``."""
    names, known = tuple(asked), {recipe.name: recipe for recipe in recipes}
    if not names:
        return tuple(recipes)
    if NONE in names:
        if len(names) > 1:
            raise ConfigError("--recipe", (f'"{NONE}" is the original alone, and other recipes are given',))
        return ()
    problems = [
        f'the project has no recipe "{name}"; {suggestion(name, [*known, NONE])}' for name in names if name not in known
    ]
    problems += [f"{name} is given twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if problems:
        raise ConfigError("--recipe", tuple(problems), hint="Recipes are [[recipes]] in edgebuild.toml.")
    return tuple(known[name] for name in names)
