"""`targets` and `plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.shipped import pick
from edgebuild.catalogue.targets import Target, load_targets
from edgebuild.cli.answering import Answer
from edgebuild.cli.output import make_console
from edgebuild.core.artifact import Setting
from edgebuild.core.objective import ObjectiveName
from edgebuild.core.record import Refusal
from edgebuild.core.values import Value
from edgebuild.planning.costs import StageCost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgebuild.planning.plan import Plan


class KnownTarget(Target):
    """A target, and whether this edgebuild can build for it already."""

    builds_here: bool


class PlannedArtifact(Value):
    """A candidate that would be built; ``settings`` are those of the runtime that are raced."""

    id: str
    baseline: bool
    raced: bool
    settings: tuple[dict[str, Setting], ...]


class PlannedBuild(Value):
    """What a build for one target would try, what is refused and why, and about how long it takes."""

    target: str
    objective: ObjectiveName
    budget: str
    seconds: float
    costs: tuple[StageCost, ...]
    recipes: dict[str, str]
    candidates: tuple[PlannedArtifact, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...]


def targets(name: str | None, project: Path) -> Answer:
    """Return all targets, or one; told with its facts and where they are known from."""
    folder = project if project.is_dir() else project.parent
    found, profiles = load_targets(folder), load_profiles(folder)
    if name is not None:
        found = {name: pick("targets", name, found)}
    known = tuple(
        KnownTarget(
            **dict(target),
            builds_here=any(p in profiles and profiles[p].device_work for p in target.profiles),
        )
        for target in found.values()
    )
    return Answer(value=known, text=lambda: _show_targets(known) if name is None else _show_target(*known))


def _show_targets(known: Sequence[KnownTarget]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Target", "What it is", "Profiles", "Builds here", box=None, pad_edge=False)
    for target in known:
        cells = (target.name, target.title, ", ".join(target.profiles), "yes" if target.builds_here else "not yet")
        table.add_row(*map(Text, cells))
    console = make_console()
    console.print(table)
    console.print("\n`edgebuild targets NAME` shows a target's facts and their sources.")


def _show_target(target: Target) -> None:
    from rich.table import Table
    from rich.text import Text

    console = make_console()
    console.print(f"{target.name}: {target.title}\n")
    console.print(f"Profiles, in order of preference: {', '.join(target.profiles)}\n")
    table = Table("Fact", "Value", "Source", "Date", "Checked", box=None, pad_edge=False)
    for name in type(target.facts).model_fields:
        fact = getattr(target.facts, name)
        if fact is not None:
            value = ", ".join(fact.value) if isinstance(fact.value, tuple) else str(fact.value)
            table.add_row(*map(Text, (name, value, fact.source, fact.date, fact.verified)))
    console.print(table if table.row_count else "It has no facts of its own: everything is probed.")
    given = {k: v for k, v in target.limits.model_dump().items() if v is not None}
    if given:
        console.print(f"\nDefault limits: {', '.join(f'{k} = {v}' for k, v in given.items())}")


def plans(found: Sequence[Plan]) -> Answer:
    """Return what would be tried, for each target."""
    value = tuple(
        PlannedBuild(
            target=plan.target,
            objective=plan.objective,
            budget=plan.budget,
            seconds=plan.seconds,
            costs=plan.costs,
            recipes={recipe.name: recipe.text for recipe in plan.recipes},
            candidates=tuple(
                PlannedArtifact(
                    id=each.id,
                    baseline=each.baseline,
                    raced=each.raced,
                    settings=tuple(dict(settings) for settings in each.settings),
                )
                for each in plan.candidates
            ),
            refused=plan.refused,
            notes=plan.notes,
        )
        for plan in found
    )
    return Answer(value=value, text=lambda: show_plans(found))


def show_plans(plans: Sequence[Plan]) -> None:
    """Print what would be tried."""

    console = make_console()
    for plan in plans:
        console.print(
            f"Plan for {plan.target}: the best {plan.objective} within {plan.budget}, about {minutes(plan.seconds)}.\n",
            markup=False,
        )
        for recipe in plan.recipes:
            console.print(f"Recipe {recipe.name}: {recipe.text}", highlight=False)
        _show_candidates(plan, console)
        for reason in dict.fromkeys(refusal.reason for refusal in plan.refused):
            what = [refusal.what for refusal in plan.refused if refusal.reason == reason]
            text = f"{what[0]}: {reason}" if len(what) == 1 else f"{reason}: {', '.join(what)}"
            console.print(f"Not tried: {text}")
        for note in plan.notes:
            console.print(f"Note: {note}")
        console.print("\nAbout how long:")
        for cost in plan.costs:
            console.print(f"  {cost.stage:28} {minutes(cost.seconds):>8}")


def _show_candidates(plan: Plan, console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    longest = max(len(candidate.id) for candidate in plan.candidates)
    table = Table(box=None, pad_edge=False)
    # An id is what `explain` is asked with: it is never cut.
    table.add_column("Candidate", overflow="fold", no_wrap=True, min_width=longest)
    table.add_column("Runtime settings raced")
    for candidate in plan.candidates:
        labels = [" ".join(f"{k}={str(v).lower()}" for k, v in settings) for settings in candidate.settings]
        raced = "; ".join(labels) if candidate.raced else "not raced: judged on size and memory"
        table.add_row(*map(Text, (candidate.id + (" (baseline)" if candidate.baseline else ""), raced)))
    console.print(table)
    console.print()


def minutes(seconds: float) -> str:
    """Return a duration as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
